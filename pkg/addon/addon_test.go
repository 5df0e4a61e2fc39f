package addon_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
)

// cluster reads a cluster YAML with these lines under spec.
func cluster(spec string) (*v1alpha1.Cluster, error) {
	return config.Read("c.yaml", strings.NewReader(`apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  ssh: {keyFile: /dev/null}
  hosts: [{name: a, address: 10.0.0.1, roles: [control-plane, worker]}]
`+spec), addon.Validate)
}

func known(t *testing.T) *catalogue.Addons {
	t.Helper()
	k, err := catalogue.EmbeddedAddons()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestValidate_namesWhatIsWrongWithPathAndLine(t *testing.T) {
	for name, x := range map[string]struct{ spec, want string }{
		"unknown, with what was meant": {"  addons:\n    - {name: metric-server}\n",
			`spec.addons[0].name (line 9): Invalid value: "metric-server": no add-on is called that: did you mean metrics-server?`},
		"unknown": {"  addons:\n    - {name: wordpress}\n",
			`spec.addons[0].name (line 9): Invalid value: "wordpress": no add-on is called that: known are metrics-server`},
		"storage by its name": {"  addons:\n    - {name: local-path-provisioner}\n",
			`spec.addons[0].name (line 9): Invalid value: "local-path-provisioner": is asked for under spec.storage, with type: local`},
		"a value of the wrong type": {"  addons:\n    - name: metrics-server\n      values:\n        replicas: two\n",
			`spec.addons[0].values.replicas (line 11): Invalid value: got string, want integer`},
		"a value in a list": {"  addons:\n    - name: metrics-server\n      values:\n        args:\n          - --v=2\n          - 7\n",
			`spec.addons[0].values.args[1] (line 11): Invalid value: got number, want string`},
		"a value that there is not": {"  addons:\n    - name: metrics-server\n      values: {replcias: 2}\n",
			`spec.addons[0].values.replcias (line 10): Invalid value: "replcias": the add-on has no value of this name`},
		"a class under the values of storage": {"  storage:\n    - {name: local, type: local, values: {storageClass: {name: x}}}\n",
			`spec.storage[0].values.storageClass (line 9): Invalid value: "storageClass": spec.storage says what the class is`},
		"two of the same name": {"  addons:\n    - {name: metrics-server}\n    - {name: metrics-server}\n",
			`spec.addons[1].name (line 10): Duplicate value: "metrics-server"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cluster(x.spec)
			if err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "problems") {
				t.Errorf("got  %v\nwant %s", err, x.want)
			}
			if fault.CodeOf(err) != fault.Usage {
				t.Errorf("code %d", fault.CodeOf(err))
			}
		})
	}
	if _, err := cluster("  addons:\n    - {name: metrics-server, version: 9.9.9, values: {replicas: 2}}\n  storage: [{name: local, type: local}]\n"); err != nil {
		t.Errorf("a version that only the bundle may know: %v", err)
	}
}

func TestValidate_aRequiredValueAndAnUnfitVersion(t *testing.T) {
	k, err := catalogue.DecodeAddons([]byte(`apiVersion: kocli.io/v1alpha1
kind: Addons
addons:
  - name: x
    description: X
    namespace: x
    licence: MIT
    chart: {repo: https://charts.example.test, name: x}
    versions: [{version: 1.0.0, app: v1, kubernetes: {from: v1.37.0, below: v1.38.0}, images: [registry.example.test/x:1]}]
    schema: {type: object, required: [host], properties: {host: {type: string}, tls: {type: object, required: [secret]}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	c := &v1alpha1.Cluster{}
	c.Spec.Kubernetes.Version = "v1.36.3"
	c.Spec.Addons = []v1alpha1.Addon{{Name: "x", Values: v1alpha1.Object{"tls": map[string]any{}}}}
	got := map[string]bool{}
	for _, f := range addon.ValidateWith(c, k) {
		got[f.Field+": "+f.ErrorBody()] = true
	}
	for _, want := range []string{
		"spec.addons[0].values.host: Required value: the add-on has no default for it",
		"spec.addons[0].values.tls.secret: Required value: the add-on has no default for it",
		`spec.addons[0].version: Invalid value: "": no version of x fits Kubernetes v1.36.3`,
	} {
		if !got[want] {
			t.Errorf("%q is not in %q", want, slices.Collect(maps.Keys(got)))
		}
	}
	off := false
	c.Spec.Addons[0].Enabled = &off
	if all := addon.ValidateWith(c, k); len(all) > 0 {
		t.Errorf("of one that goes: %v", all)
	}
}

func TestDeclared_mergesWhatKocliKnowsAndTheYAML(t *testing.T) {
	c, err := cluster(`  addons:
    - name: metrics-server
      namespace: metrics
      values: {args: [], image: {pullPolicy: Always}}
  storage:
    - {name: fast, type: local, local: {path: /data/volumes}, reclaimPolicy: Retain}
`)
	if err != nil {
		t.Fatal(err)
	}
	list := addon.Declared(&c.Spec, known(t))
	if len(list) != 2 || list[0].Name != "local-path-provisioner" || list[0].Class != "fast" || list[1].Namespace != "metrics" {
		t.Fatalf("%+v", list)
	}
	text := func(a addon.Addon) string {
		raw, err := yaml.Marshal(a.Values)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if got := text(list[1]); got != "args: []\nimage:\n  pullPolicy: Always\n  tag: v0.9.0\n" {
		t.Errorf("metrics-server: %s", got)
	}
	for _, want := range []string{"name: fast", "defaultClass: true", "reclaimPolicy: Retain", "- /data/volumes", "provisionerName: rancher.io/local-path", "tag: \"1.37\""} {
		if got := text(list[0]); !strings.Contains(got, want) {
			t.Errorf("storage lacks %q:\n%s", want, got)
		}
	}
	if got := addon.Enabled(&c.Spec, known(t)); !slices.Equal(got, []string{"local-path-provisioner", "metrics-server"}) {
		t.Errorf("%v", got)
	}
	was := list[1].ValuesDigest()
	c.Spec.Addons[0].Values["replicas"] = 2
	if now := addon.Declared(&c.Spec, known(t))[1].ValuesDigest(); now == was || len(now) != 32 {
		t.Errorf("digest %s after %s", now, was)
	}
}

func TestChart_theNewestOrTheOneThatIsWanted(t *testing.T) {
	m, content := archivetest.Sample()
	for _, v := range []string{"3.9.0", "3.13.1", "3.12.0"} {
		m.Items = append(m.Items, content.Chart("metrics-server", v, archivetest.Deployment("metrics-server", v, "x:1")))
	}
	var buf bytes.Buffer
	if _, _, err := archive.Write(&buf, m, content.Open); err != nil {
		t.Fatal(err)
	}
	b, err := archive.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	entry, _ := known(t).Find("metrics-server")
	for want, version := range map[string]string{"": "3.13.1", "3.9.0": "3.9.0"} {
		c, err := addon.Addon{Addon: *entry, Want: want}.Chart(b, "v1.36.3")
		if err != nil || c.Version != version || len(c.Digest()) != 32 {
			t.Fatalf("%q: %+v, %v", want, c, err)
		}
		if data, err := c.Packed(); err != nil || !bytes.Equal(data, archivetest.Deployment("metrics-server", version, "x:1")) {
			t.Errorf("content: %v", err)
		}
	}
	_, err = addon.Addon{Addon: *entry, Want: "4.0.0"}.Chart(b, "v1.36.3")
	if fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "no chart of metrics-server 4.0.0, but of 3.") {
		t.Errorf("%v", err)
	}
	storage, _ := known(t).Find("local-path-provisioner")
	if _, err := (addon.Addon{Addon: *storage}).Chart(b, "v1.36.3"); fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "spec.addons") {
		t.Errorf("%v (hint %s)", err, fault.HintOf(err))
	}
}
