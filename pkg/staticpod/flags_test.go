package staticpod_test

import (
	"context"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/staticpod"
)

const manifest = `spec:
  containers:
  - command:
    - kube-controller-manager
    - --cluster-signing-cert-file=/pki/ca.crt
    - --cluster-signing-key-file=/pki/ca.key
    - --root-ca-file=/pki/ca.crt
`

func TestWithFlags_changesThemAndNothingElse(t *testing.T) {
	next, err := staticpod.WithFlags([]byte(manifest), map[string]string{"root-ca-file": "/pki/both.crt", "cluster-signing-cert-file": "/pki/$1.crt"})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("root-ca-file=/pki/ca.crt", "root-ca-file=/pki/both.crt", "cert-file=/pki/ca.crt", "cert-file=/pki/$1.crt").Replace(manifest)
	if string(next) != want {
		t.Errorf("got\n%s", next)
	}
	back, err := staticpod.WithFlags(next, map[string]string{"root-ca-file": "/pki/ca.crt", "cluster-signing-cert-file": "/pki/ca.crt"})
	if err != nil || string(back) != manifest {
		t.Errorf("%v\n%s", err, back)
	}
	if v, err := staticpod.Flag(next, "root-ca-file"); err != nil || v != "/pki/both.crt" {
		t.Errorf("%q, %v", v, err)
	}
	for name, text := range map[string]string{"absent": "", "twice": manifest + manifest} {
		if _, err := staticpod.WithFlags([]byte(text), map[string]string{"root-ca-file": "x"}); err == nil || !strings.Contains(err.Error(), "--root-ca-file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunsWith(t *testing.T) {
	tasks := "TASK PID STATUS\nkcm 42 RUNNING\nother 43 RUNNING\n"
	m := hosttest.New("cp-1")
	m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		switch {
		case !strings.HasSuffix(argv[0], "ctr"):
			return hosttest.Reply{}, false
		case argv[len(argv)-1] == "ls":
			return hosttest.Reply{Stdout: tasks}, true
		}
		return hosttest.Reply{Stdout: "kcm\n"}, true
	})
	m.Write("/proc/42/cmdline", 0o444, "kube-controller-manager\x00--a=1\x00--b=2\x00")
	for name, x := range map[string]struct {
		flags map[string]string
		tasks string
		want  bool
	}{
		"both flags":       {map[string]string{"a": "1", "b": "2"}, tasks, true},
		"an older value":   {map[string]string{"a": "1", "b": "3"}, tasks, false},
		"it does not run":  {map[string]string{"a": "1"}, "TASK PID STATUS\nkcm 42 STOPPED\n", false},
		"it has just gone": {map[string]string{"a": "1"}, "TASK PID STATUS\nkcm 44 RUNNING\n", false},
	} {
		tasks = x.tasks
		if got, err := staticpod.RunsWith(t.Context(), m, "kube-controller-manager", x.flags); err != nil || got != x.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
