package workflow

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/registry"
	"github.com/kocli/kocli/pkg/state"
)

func registryInventory(hosts ...string) *inventory.Inventory {
	inv := &inventory.Inventory{Name: "prod", Nodes: []inventory.Node{
		{Name: "a", IP: "10.0.0.1", Address: "203.0.113.1"}, {Name: "b", IP: "10.0.0.2", Address: "10.0.0.2"},
	}}
	inv.Spec.Registry.Builtin = &v1alpha1.BuiltinRegistry{Hosts: hosts, Name: "registry.kocli.internal", Port: 5000, Username: "kocli"}
	return inv
}

func registryMaterials(dir string, keep bool) materials {
	return materials{dir: state.Open(dir, "prod"), keep: keep, now: time.Now(), secret: func(_ context.Context, ref v1alpha1.SecretRef, _ string) (string, error) {
		if ref == "" {
			return "", errors.New("no reference")
		}
		return "given-password", nil
	}}
}

// What was made once stays, with the certificate of a host that comes later beside it;
// what a run that only looks has made is kept nowhere.
func TestRegistries_areMadeOnce(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if _, err := registryMaterials(home, false).all(t.Context(), registryInventory("a")); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "*")); len(left) > 0 {
		t.Errorf("a run that looks has written %v", left)
	}
	upgrade := registryMaterials(home, true)
	upgrade.known = true
	if _, err := upgrade.all(t.Context(), registryInventory("a")); err == nil || !strings.Contains(err.Error(), "copy ") {
		t.Errorf("an upgrade from another machine makes a CA that no host serves with: %v", err)
	}
	first, err := registryMaterials(home, true).all(t.Context(), registryInventory("a"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := registryMaterials(home, true).all(t.Context(), registryInventory("a"))
	if err != nil || !reflect.DeepEqual(first, again) {
		t.Errorf("the second run has others: %v", err)
	}
	both, err := registryMaterials(home, true).all(t.Context(), registryInventory("b", "a"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(both.Serving["a"], first.Serving["a"]) || !reflect.DeepEqual(both.CA, first.CA) || !reflect.DeepEqual(both.Logins, first.Logins) {
		t.Error("a second host changes what the first one has")
	}
	if got := both.Trust[0].Endpoints; !reflect.DeepEqual(got, []string{"https://10.0.0.2:5000", "https://10.0.0.1:5000"}) {
		t.Errorf("nodes ask %v", got)
	}
	for node, names := range map[string][]string{"a": {"registry.kocli.internal", "10.0.0.1", "203.0.113.1"}, "b": {"registry.kocli.internal", "10.0.0.2"}} {
		if err := both.Serving[node].Serves(both.CA, names, time.Now()); err != nil {
			t.Errorf("%s: %v", node, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(state.Open(home, "prod").Secret("registry-*")))
	if err != nil || len(files) != 8 {
		t.Errorf("kept are %v, %v", files, err)
	}
	for _, f := range files {
		if i, err := os.Stat(f); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, i.Mode(), err)
		}
	}
}

func TestRegistries_refuseWhatCannotWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := registry.NewCA("x", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	good, err := ca.Sign([]string{"registry.kocli.internal"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Sign([]string{"hub.example.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	caFile, leaf := at("ca.crt", ca.Cert), at("leaf.crt", good.Cert)
	for name, tt := range map[string]struct {
		change func(*v1alpha1.Registry)
		says   string
	}{
		"given": {func(r *v1alpha1.Registry) {
			r.Builtin.CertFile, r.Builtin.KeyFile, r.Builtin.CAFile = at("g.crt", good.Cert), at("g.key", good.Key), caFile
		}, ""},
		"for another name": {func(r *v1alpha1.Registry) {
			r.Builtin.CertFile, r.Builtin.KeyFile, r.Builtin.CAFile = at("o.crt", other.Cert), at("o.key", other.Key), caFile
		}, "cannot serve registry.kocli.internal"},
		"a leaf as CA": {func(r *v1alpha1.Registry) {
			r.Builtin.CertFile, r.Builtin.KeyFile, r.Builtin.CAFile = at("l.crt", good.Cert), at("l.key", good.Key), leaf
		}, "is not a CA"},
		"no such file": {func(r *v1alpha1.Registry) {
			r.Builtin.CertFile, r.Builtin.KeyFile, r.Builtin.CAFile = "/none", "/none", caFile
		}, "no such file"},
		"of others": {func(r *v1alpha1.Registry) {
			r.External = []v1alpha1.ExternalRegistry{{Name: "h.example.com", CAFile: caFile, Username: "u", Password: "env:X"}}
		}, ""},
		"of others, with leaf": {func(r *v1alpha1.Registry) {
			r.External = []v1alpha1.ExternalRegistry{{Name: "h.example.com", CAFile: leaf}}
		}, "external[0].caFile"},
	} {
		t.Run(name, func(t *testing.T) {
			inv := registryInventory("a")
			tt.change(&inv.Spec.Registry)
			_, err := registryMaterials(t.TempDir(), true).all(t.Context(), inv)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%v, wanted %q", err, tt.says)
			}
		})
	}
}
