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
  extraFiles:
  - {url: "https://files.example.com/dir/tool.bin?x=1", sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", arch: amd64}
  - {path: ./conf/app.conf}
  extraCharts:
  - {repo: "https://charts.example.com/stable", name: app, version: 1.2.3}
  - {ref: "oci://ghcr.io/example/charts/app", version: 1.2.3+b}
  - {path: app.tgz}
  osPackages: [{distribution: debian, version: "12"}]
`

func TestDecodeSpec_reportsEveryFaultWithItsPath(t *testing.T) {
	s, err := archive.DecodeSpec([]byte(goodSpec))
	if err != nil || s.Spec.ExtraImages[0].Role != archive.RoleAll {
		t.Fatalf("%v %v", s, err)
	}
	if f := s.Spec.ExtraFiles; f[0].Name != "tool.bin" || f[1].Name != "app.conf" || f[1].Role != archive.RoleAll {
		t.Fatalf("%+v", f)
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
		{"file from nowhere", "{path: ./conf/app.conf}", "{name: x}", "spec.extraFiles[1]"},
		{"file from two places", "arch: amd64}", "arch: amd64, path: x}", "spec.extraFiles[0]"},
		{"download of anything", "sha256:", "name: x, sha256: '' } #", "spec.extraFiles[0].sha256"},
		{"half a digest", "7852b855", "", "spec.extraFiles[0].sha256"},
		{"file over ftp", "https://files", "ftp://files", "spec.extraFiles[0].url"},
		{"password in a URL", "https://files", "https://me:secret@files", "spec.extraFiles[0].url"},
		{"file that leaves its folder", "{path: ./conf/app.conf}", "{path: x, name: ../x}", "spec.extraFiles[1].name"},
		{"file twice", "{path: ./conf/app.conf}", "{path: tool.bin}", "spec.extraFiles[1].name"},
		{"file for a machine that is none", "arch: amd64}", "arch: vax}", "spec.extraFiles[0].arch"},
		{"chart from two places", "name: app,", "name: app, path: x,", "spec.extraCharts[0]"},
		{"chart of any version", "version: 1.2.3}", "version: ^1}", "spec.extraCharts[0].version"},
		{"chart over http", "https://charts", "http://charts", "spec.extraCharts[0].repo"},
		{"chart without a name", "name: app,", "", "spec.extraCharts[0].name"},
		{"chart with a tag", "charts/app\"", "charts/app:1\"", "spec.extraCharts[1].ref"},
		{"chart without oci://", "oci://", "https://", "spec.extraCharts[1].ref"},
		{"chart twice", "  - {path: app.tgz}", "  - {path: app.tgz}\n  - {path: app.tgz}", "spec.extraCharts[3]"},
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
