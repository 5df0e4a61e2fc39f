package archive_test

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

const goodSpec = `apiVersion: kocli.io/v1alpha1
kind: Bundle
metadata: {name: x}
spec:
  kubernetes: [v1.36.3]
  architectures: [amd64]
  extraImages: [{ref: "docker.io/library/busybox:1.37"}]
  osPackages: [{distribution: debian, version: "12"}]
`

func TestDecodeSpec_reportsEveryFaultWithItsPath(t *testing.T) {
	s, err := archive.DecodeSpec([]byte(goodSpec))
	if err != nil || s.Spec.ExtraImages[0].Role != archive.RoleAll {
		t.Fatalf("%v %v", s, err)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown field", "  kubernetes:", "  kubernets:", "kubernets"},
		{"another kind", "kind: Bundle", "kind: Cluster", "kind"},
		{"version without patch", "v1.36.3", "v1.36", "spec.kubernetes[0]"},
		{"version twice", "v1.36.3", "v1.36.3, v1.36.3", "spec.kubernetes[1]"},
		{"unknown architecture", "amd64", "riscv64", "spec.architectures[0]"},
		{"no architecture", "[amd64]", "[]", "spec.architectures"},
		{"short reference", "docker.io/library/busybox:1.37", "busybox", "spec.extraImages[0].ref"},
		{"unknown role", `1.37"}`, `1.37", role: king}`, "spec.extraImages[0].role"},
		{"distribution without version", `"12"`, `""`, "spec.osPackages[0].version"},
		{"no name", "{name: x}", "{}", "metadata.name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := archive.DecodeSpec([]byte(strings.Replace(goodSpec, c.from, c.to, 1)))
			if fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), c.want) || fault.HintOf(err) == "" {
				t.Fatalf("got %v, want it to name %s", err, c.want)
			}
		})
	}
	_, err = archive.DecodeSpec([]byte(strings.NewReplacer("v1.36.3", "1", "amd64", "x").Replace(goodSpec)))
	if err == nil || !strings.Contains(err.Error(), "kubernetes[0]") || !strings.Contains(err.Error(), "architectures[0]") {
		t.Fatalf("not all at once: %v", err)
	}
}
