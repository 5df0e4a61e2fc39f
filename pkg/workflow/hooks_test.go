package workflow

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

func TestHooks_knowTheNodeAndEndInTime(t *testing.T) {
	t.Parallel()
	s := session(t, machines{})
	c := &Cluster{Inventory: s.inv.At("v1.37.2")}
	n, _ := s.inv.Node("cp-1")
	out := filepath.Join(t.TempDir(), "out")
	local := func(timeout v1alpha1.Duration, argv ...string) v1alpha1.Hook {
		return v1alpha1.Hook{Command: argv, On: v1alpha1.HookOnOperator, Timeout: timeout}
	}
	const say = `echo "$KOCLI_CLUSTER $KOCLI_NODE $KOCLI_FROM $KOCLI_TO" >>"$1"`
	m := hosttest.New("cp-1")
	var onHost []string
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		onHost = argv
		return "", 0, argv[0] == "env"
	})
	remote := v1alpha1.Hook{Command: []string{"/usr/local/bin/drain-lb", "off"}, On: v1alpha1.HookOnHost, Timeout: "1m"}
	if err := c.hooks([]v1alpha1.Hook{local("10s", "sh", "-c", say, "hook", out), remote}, n, "v1.36.3")(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil || string(text) != "c cp-1 v1.36.3 v1.37.2\n" {
		t.Errorf("%q, %v", text, err)
	}
	if got := strings.Join(onHost, " "); got != "env KOCLI_CLUSTER=c KOCLI_NODE=cp-1 KOCLI_FROM=v1.36.3 KOCLI_TO=v1.37.2 /usr/local/bin/drain-lb off" {
		t.Errorf("on the host: %s", got)
	}
	start := time.Now()
	for want, list := range map[string][]v1alpha1.Hook{
		"no end after 100ms":          {local("100ms", "sleep", "60")},
		"exit status 3: out of order": {local("10s", "sh", "-c", "echo first; echo out of order >&2; exit 3"), local("10s", "sh", "-c", say, "hook", out)},
		"no such file or directory":   {local("10s", "/nowhere/at/all")},
	} {
		err := c.hooks(list, n, "v1.36.3")(t.Context(), m)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(fault.HintOf(err), "spec.hooks") {
			t.Errorf("%s: %v, hint %q", want, err, fault.HintOf(err))
		}
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if text, err := os.ReadFile(out); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("a hook ran after one that failed: %q", text)
	}
	if c.hooks(nil, n, "v1.36.3") != nil {
		t.Error("no hooks are something")
	}
}
