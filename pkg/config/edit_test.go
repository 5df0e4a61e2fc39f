package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
)

// editable is a cluster.yaml with the hosts written as given.
func editable(hosts string) string {
	return `# A cluster of ours
apiVersion: kocli.io/v1alpha1 # the format
kind: Cluster
metadata: {name: "c"}   # in quotes
spec:
    kubernetes:
        version: 'v1.36.3'
` + hosts
}

const (
	blockHosts = `    hosts:
        # Where it all begins
        - name: cp-1
          address: 10.0.0.1   # rack 1
          roles: [control-plane]

        # A comment on its own

        # The first worker,
        # in rack 2
        - name: w-1
          address: "10.0.0.2"
          labels:
              a: |
                text
                # no comment
          # to be replaced in May
        -   name: w-2
            address: 10.0.0.3
    # after the hosts
    os: {setHostname: true}
`
	lineHosts = `    hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]} # first
    # about w-1
    - {name: w-1, address: 10.0.0.2, labels: {"a,b]": 'it''s # not', c: it's}}   # second
    - {name: w-2,
       address: 10.0.0.3}`
	flowHosts = `    hosts: [{name: cp-1, address: 10.0.0.1, roles: [control-plane]}, {name: w-1, address: 10.0.0.2}, {name: w-2, address: 10.0.0.3}] # all
`
	flowLines = `    hosts: [
      {name: cp-1, address: 10.0.0.1, roles: [control-plane]}, # first
      # about w-1
      {name: w-1, address: 10.0.0.2}, # second
      {name: w-2, address: 10.0.0.3}  # last
    ]
`
	flowComma = `    hosts: [
      {name: cp-1, address: 10.0.0.1, roles: [control-plane]},
      {name: w-1, address: 10.0.0.2},
      {name: w-2, address: 10.0.0.3}, # last
    ]
`
)

func lists() map[string]string {
	return map[string]string{"block": blockHosts, "a line each": lineHosts, "flow": flowHosts, "flow over lines": flowLines, "flow with a last comma": flowComma}
}

func newHost() v1alpha1.Host {
	return v1alpha1.Host{
		Name: "w-9", Address: "10.0.0.9", Roles: []v1alpha1.Role{v1alpha1.RoleWorker}, Labels: map[string]string{"n": "10", "y": "yes", "q": "it's: # {so}"},
		Taints: []v1alpha1.Taint{{Key: "k", Effect: "NoSchedule"}},
	}
}

// The texts before and after an edit, by what has to be replaced.
func TestEdit_changesNothingElse(t *testing.T) {
	host := v1alpha1.Host{Name: "w-9", Address: "10.0.0.9", Roles: []v1alpha1.Role{v1alpha1.RoleWorker}}
	const block = "        - name: w-9\n          address: 10.0.0.9\n          roles: [worker]\n"
	const flow = "{name: w-9, address: 10.0.0.9, roles: [worker]}"
	add := func(text []byte) ([]byte, error) { return config.AddHost(text, host) }
	remove := func(name string) func([]byte) ([]byte, error) {
		return func(text []byte) ([]byte, error) { return config.RemoveHost(text, name) }
	}
	replace := func(name string) func([]byte) ([]byte, error) {
		return func(text []byte) ([]byte, error) { return config.ReplaceHost(text, name, host) }
	}
	for _, c := range []struct {
		name, hosts string
		edit        func([]byte) ([]byte, error)
		old, now    string // the only difference
	}{
		{"add to a block list", blockHosts, add, "            address: 10.0.0.3\n", "            address: 10.0.0.3\n" + block},
		{"add to a list with a line for each, at the end of a text without a last line break", lineHosts, add, "       address: 10.0.0.3}", "       address: 10.0.0.3}\n    - " + flow},
		{"add to a flow list", flowHosts, add, "10.0.0.3}]", "10.0.0.3}, " + flow + "]"},
		{"add to a flow list with lines", flowLines, add, "10.0.0.3}  # last\n", "10.0.0.3},  # last\n      " + flow + "\n"},
		{"add to a flow list with a last comma", flowComma, add, "10.0.0.3}, # last\n", "10.0.0.3}, # last\n      " + flow + ",\n"},
		{"add to a flow list in one line with a last comma", "    hosts: [{name: cp-1, address: 10.0.0.1}, ]\n", add, "}, ]", "}, " + flow + ", ]"},

		{"remove the first of a block list, with the comment above it", blockHosts, remove("cp-1"),
			"        # Where it all begins\n        - name: cp-1\n          address: 10.0.0.1   # rack 1\n          roles: [control-plane]\n", ""},
		{"remove one in the middle, with its comments, and not the one on its own", blockHosts, remove("w-1"),
			"        # The first worker,\n        # in rack 2\n        - name: w-1\n          address: \"10.0.0.2\"\n          labels:\n              a: |\n                text\n                # no comment\n          # to be replaced in May\n", ""},
		{"remove the last, and no comment of what follows", blockHosts, remove("w-2"), "        -   name: w-2\n            address: 10.0.0.3\n", ""},
		{"remove a line", lineHosts, remove("w-1"), "    # about w-1\n    - {name: w-1, address: 10.0.0.2, labels: {\"a,b]\": 'it''s # not', c: it's}}   # second\n", ""},
		{"remove what has two lines and no line break", lineHosts, remove("w-2"), "    - {name: w-2,\n       address: 10.0.0.3}", ""},
		{"remove the first of a flow list", flowHosts, remove("cp-1"), "{name: cp-1, address: 10.0.0.1, roles: [control-plane]}, ", ""},
		{"remove the last of a flow list", flowHosts, remove("w-2"), ", {name: w-2, address: 10.0.0.3}", ""},
		{"remove a line of a flow list, with its comments", flowLines, remove("w-1"), "      # about w-1\n      {name: w-1, address: 10.0.0.2}, # second\n", ""},
		{"remove the last line of a flow list", flowLines, remove("w-2"), "      {name: w-2, address: 10.0.0.3}  # last\n", ""},
		{"remove a last line before its bracket", "    hosts: [{name: cp-1, address: 10.0.0.1},\n      {name: w-1, address: 10.0.0.2} ]\n", remove("w-1"), "{name: w-1, address: 10.0.0.2}", ""},
		{"remove the first of a line, and keep the line", "    hosts: [{name: cp-1, address: 10.0.0.1}, # c\n      {name: w-1, address: 10.0.0.2} ]\n", remove("cp-1"), "{name: cp-1, address: 10.0.0.1}, # c", ""},
		{"remove one whose dash stands alone", "    hosts:\n    -\n      name: cp-1\n      address: 10.0.0.1\n    - # the worker\n      name: w-1\n      address: 10.0.0.2\n", remove("w-1"), "    - # the worker\n      name: w-1\n      address: 10.0.0.2\n", ""},
		{"remove one with an anchor that nobody needs", "    hosts:\n    - &a {name: cp-1, address: 10.0.0.1}\n    - &b\n      name: w-1\n      address: 10.0.0.2\n", remove("w-1"), "    - &b\n      name: w-1\n      address: 10.0.0.2\n", ""},

		{"replace in a block list, and keep the comments above", blockHosts, replace("cp-1"), "        - name: cp-1\n          address: 10.0.0.1   # rack 1\n          roles: [control-plane]\n", block},
		{"replace in a line, and keep the comment beside", lineHosts, replace("cp-1"), "{name: cp-1, address: 10.0.0.1, roles: [control-plane]}", flow},
		{"replace in a flow list", flowHosts, replace("w-1"), "{name: w-1, address: 10.0.0.2}", flow},
		{"replace the last of a flow list with lines", flowLines, replace("w-2"), "{name: w-2, address: 10.0.0.3}", flow},
		{"replace behind characters of several bytes", "    hosts: [{name: cp-1, address: 10.0.0.1, labels: {名: \"é\"}}, {name: w-1, address: 10.0.0.2}]\n", replace("w-1"), "{name: w-1, address: 10.0.0.2}", flow},
		{"replace and keep the name", flowHosts, func(text []byte) ([]byte, error) {
			return config.ReplaceHost(text, "w-1", v1alpha1.Host{Name: "w-1", Address: "10.0.0.22"})
		}, "{name: w-1, address: 10.0.0.2}", "{name: w-1, address: 10.0.0.22}"},
	} {
		for _, eol := range []string{"\n", "\r\n"} {
			t.Run(c.name+map[string]string{"\n": "", "\r\n": ", CRLF"}[eol], func(t *testing.T) {
				text := strings.ReplaceAll(editable(c.hosts), "\n", eol)
				old, now := strings.ReplaceAll(c.old, "\n", eol), strings.ReplaceAll(c.now, "\n", eol)
				if strings.Count(text, old) != 1 {
					t.Fatalf("%q is there %d times", old, strings.Count(text, old))
				}
				want := strings.Replace(text, old, now, 1)
				got, err := c.edit([]byte(text))
				if err != nil || string(got) != want {
					t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, got, want)
				}
			})
		}
	}
}

func TestEdit_refuses(t *testing.T) {
	host := newHost()
	secret := newHost()
	secret.SSH = &v1alpha1.SSH{Password: "hunter2"}
	one := "    hosts: [{name: cp-1, address: 10.0.0.1}]\n"
	for _, c := range []struct {
		name, text, says string
		edit             func([]byte) ([]byte, error)
	}{
		{"a name that is there", editable(blockHosts), "has a host w-1 already (line 18)", func(text []byte) ([]byte, error) {
			return config.AddHost(text, v1alpha1.Host{Name: "w-1"})
		}},
		{"a replacement by one that is there", editable(flowHosts), "has a host w-1 already", func(text []byte) ([]byte, error) {
			return config.ReplaceHost(text, "w-2", v1alpha1.Host{Name: "w-1"})
		}},
		{"a name that is not there", editable(blockHosts), "has no host x", func(text []byte) ([]byte, error) { return config.RemoveHost(text, "x") }},
		{"a replacement of one that is not there", editable(blockHosts), "has no host x", func(text []byte) ([]byte, error) { return config.ReplaceHost(text, "x", host) }},
		{"the last host", editable(one), "the only host", func(text []byte) ([]byte, error) { return config.RemoveHost(text, "cp-1") }},
		{"a list that is elsewhere", editable("    hosts: *h\n"), "not YAML", func(text []byte) ([]byte, error) { return config.AddHost(text, host) }},
		{"no list", editable("    hosts:\n"), "there is no list", func(text []byte) ([]byte, error) { return config.AddHost(text, host) }},
		{"no spec", "apiVersion: kocli.io/v1alpha1\nkind: Cluster\n", "there is no spec", func(text []byte) ([]byte, error) { return config.AddHost(text, host) }},
		{"a field that nobody knows", editable(one) + "    hots: []\n", "hots", func(text []byte) ([]byte, error) { return config.AddHost(text, host) }},
		{"an anchor that another host needs", editable("    hosts:\n    - {name: cp-1, address: 10.0.0.1, labels: &l {a: b}}\n    - {name: w-1, address: 10.0.0.2, labels: *l}\n"), "cannot be edited",
			func(text []byte) ([]byte, error) { return config.RemoveHost(text, "cp-1") }},
		{"a secret that somebody wrote down", editable(one), "cannot be edited", func(text []byte) ([]byte, error) { return config.AddHost(text, secret) }},
		{"a text that is too large", strings.Repeat("#", 5<<20), "larger than", func(text []byte) ([]byte, error) { return config.AddHost(text, host) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.edit([]byte(c.text))
			if err == nil || got != nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v\n%s", err, got)
			}
			if fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "" {
				t.Errorf("code %d, hint %q", fault.CodeOf(err), fault.HintOf(err))
			}
		})
	}
}

// What is added can be taken away again, whatever it holds, and the text is then
// what it was before.
func TestEdit_addAndRemoveGiveTheTextBack(t *testing.T) {
	texts := map[string]string{}
	for name, hosts := range lists() {
		texts[name] = editable(hosts)
	}
	files, _ := filepath.Glob("../../examples/cluster-*.yaml")
	more, _ := filepath.Glob("../../templates/init/*.yaml")
	for _, f := range append(append(files, more...), "testdata/valid/full.yaml", "testdata/valid/documents.yaml") {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[f] = string(data)
	}
	if len(texts) < 12 {
		t.Fatalf("only %d texts", len(texts))
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			added, err := config.AddHost([]byte(text), newHost())
			if err != nil {
				t.Fatal(err)
			}
			got, err := config.RemoveHost(added, "w-9")
			if err != nil {
				t.Fatal(err)
			}
			// A comma and a line break stay.
			if strip := strings.NewReplacer(",", "", "\n", "").Replace; strip(string(got)) != strip(text) {
				t.Errorf("got:\n%s\nwant:\n%s", got, text)
			}
		})
	}
}

// Whatever is edited: either nothing comes back, or a text in which all is left
// that was there, in its order.
func FuzzEdit(f *testing.F) {
	for _, hosts := range lists() {
		f.Add(editable(hosts), "w-1")
		f.Add(strings.ReplaceAll(editable(hosts), "\n", "\r\n"), "w-2")
	}
	f.Add(editable("    hosts:\n    - &a {name: 'é', address: x} # 名\n    - *a\n"), "é")
	f.Fuzz(func(t *testing.T, text, name string) {
		if out, err := config.AddHost([]byte(text), newHost()); err == nil {
			if !within(text, string(out)) {
				t.Errorf("add lost something:\n%s\nfrom:\n%s", out, text)
			}
			if _, err := config.RemoveHost(out, "w-9"); err != nil {
				t.Errorf("what was added cannot be removed: %v\n%s", err, out)
			}
		}
		out, err := config.RemoveHost([]byte(text), name)
		if err == nil && (!within(string(out), text) || len(out) >= len(text)) {
			t.Errorf("remove added something:\n%s\nfrom:\n%s", out, text)
		}
		if out, err := config.ReplaceHost([]byte(text), name, newHost()); err == nil {
			if _, err := config.ReplaceHost(out, "w-9", newHost()); err != nil {
				t.Errorf("what was replaced cannot be found: %v\n%s", err, out)
			}
		}
	})
}

// within reports whether all bytes of a are in b, in their order.
func within(a, b string) bool {
	i := 0
	for j := 0; j < len(b) && i < len(a); j++ {
		if a[i] == b[j] {
			i++
		}
	}
	return i == len(a)
}
