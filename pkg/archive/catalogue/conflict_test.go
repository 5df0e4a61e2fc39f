package catalogue_test

import (
	"os"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

func TestRelease_refusesWhatIsKnownNotToWork(t *testing.T) {
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		kubernetes, component, version, want string
	}{
		{"v1.36.3", "containerd", "1.7.28", "containerd 1.7.28 and kubernetes v1.36.3 do not work together: kocli configures"},
		{"v1.37.2", "containerd", "2.1.0", ""},
		{"v1.37.2", "etcd", "3.5.23-0", "kubernetes v1.37.2 and etcd 3.5.23-0"},
		{"v1.37.2", "etcd", "3.5.24-0", ""},
		{"v1.36.3", "etcd", "3.5.21-0", ""},
		{"v1.36.3", "containerd", "nightly", ""},
	} {
		_, err := c.Release(x.kubernetes, map[string]string{x.component: x.version})
		if (err == nil) != (x.want == "") || (err != nil && (!strings.Contains(err.Error(), x.want) || fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "")) {
			t.Errorf("%s with %s %s: %v", x.kubernetes, x.component, x.version, err)
		}
	}
}

func TestDecode_refusesConflictsThatMeanNothing(t *testing.T) {
	data, err := os.ReadFile("../../../bundle/catalogue.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name, bad := range map[string]string{
		"unknown component":       strings.Replace(text, "{component: etcd, below: 3.5.24}", "{component: vim, below: 3.5.24}", 1),
		"no version":              strings.Replace(text, "{component: etcd, below: 3.5.24}", "{component: etcd}", 1),
		"a version that is none":  strings.Replace(text, "below: 3.5.24", "below: old", 1),
		"no reason":               strings.Replace(text, "reason: kubeadm of Kubernetes v1.37 asks for etcd 3.5.24 or newer", "reason: ''", 1),
		"what was tried together": strings.Replace(text, "below: 2.0.0", "below: 3.0.0", 1),
	} {
		if bad == text {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if _, err := catalogue.Decode([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
