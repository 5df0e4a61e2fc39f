package kubeadm_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

func ofVersion(t *testing.T, version string, skip ...any) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: `+version+`}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts: [{name: cp-1, address: 10.0.0.1, roles: [control-plane]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(skip) > 0 {
		c.Spec.Kubernetes.Overrides.JoinConfiguration = v1alpha1.Object{"skipPhases": skip}
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestJoinSkips_everyPhaseRunsInExactlyOnePart(t *testing.T) {
	for _, v := range []string{"v1.34.4", "v1.35.4", "v1.36.3", "v1.37.2"} {
		inv := ofVersion(t, v)
		every := kubeadm.JoinSkips(inv, false)
		ran := map[string]int{}
		for p, kubelet := range map[kubeadm.JoinPart]bool{kubeadm.JoinPrepare: false, kubeadm.JoinMember: true, kubeadm.JoinFinish: false} {
			skipped := kubeadm.JoinSkips(inv, kubelet, p)
			for _, name := range every {
				if !slices.Contains(skipped, name) {
					ran[name]++
				}
			}
		}
		for _, name := range every {
			if ran[name] != 1 {
				t.Errorf("%s: %s runs %d times", v, name, ran[name])
			}
		}
		// 1.36 refuses the name, and before it another join would write etcd's
		// manifest outside the lock.
		if has := slices.Contains(every, "control-plane-join/etcd"); has != (v < "v1.36") {
			t.Errorf("%s: the etcd phase of old is named: %t", v, has)
		}
	}
}

func TestJoinSkips_theLastPartStartsAKubeletWhoseTokenIsGone(t *testing.T) {
	inv := ofVersion(t, "v1.36.3")
	if s := kubeadm.JoinSkips(inv, true, kubeadm.JoinFinish); slices.Contains(s, "kubelet-start") || !slices.Contains(s, "etcd-join") {
		t.Errorf("skipped are %v", s)
	}
}

func TestJoinSkips_whatTheUserSkipsIsSkippedToo(t *testing.T) {
	inv := ofVersion(t, "v1.36.3", "wait-control-plane", "preflight")
	for _, p := range []kubeadm.JoinPart{kubeadm.JoinPrepare, kubeadm.JoinMember, kubeadm.JoinFinish} {
		s := kubeadm.JoinSkips(inv, true, p)
		for _, name := range []string{"wait-control-plane", "preflight"} {
			if n := len(slices.DeleteFunc(slices.Clone(s), func(o string) bool { return o != name })); n != 1 {
				t.Errorf("part %d names %s %d times", p, name, n)
			}
		}
	}
}

// The names are those of kubeadm's sources, and no phase of its is in no part.
func TestJoinSkips_namesAreKubeadms(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs := phaseNames(t, filepath.Join(strings.TrimSpace(string(dir)), "cmd/kubeadm/app/cmd/phases/join"))
	if len(theirs) < 10 {
		t.Fatalf("only %v was found", theirs)
	}
	ours := kubeadm.JoinSkips(ofVersion(t, "v1.37.2"), false)
	var groups []string // control-plane-prepare: its phases are named one by one
	for _, name := range ours {
		if g, _, ok := strings.Cut(name, "/"); ok {
			groups = append(groups, g)
		}
		if !slices.Contains(theirs, path.Base(name)) {
			t.Errorf("kubeadm has no phase %s", name)
		}
	}
	for _, name := range theirs {
		known := slices.ContainsFunc(ours, func(o string) bool { return path.Base(o) == name })
		if !known && !slices.Contains(groups, name) && name != "all" {
			t.Errorf("phase %s of kubeadm is in no part", name)
		}
	}
}

// phaseNames reads the names of workflow.Phase literals in a folder of sources.
func phaseNames(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, _ := kv.Key.(*ast.Ident)
			lit, _ := kv.Value.(*ast.BasicLit)
			if key == nil || lit == nil || key.Name != "Name" {
				return true
			}
			if s, err := strconv.Unquote(lit.Value); err == nil && s != "" {
				names = append(names, strings.Fields(s)[0])
			}
			return true
		})
	}
	return names
}
