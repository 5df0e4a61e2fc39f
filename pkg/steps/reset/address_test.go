package reset

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// holder is a control plane that holds the virtual IP 10.0.0.100. Its keepalived
// gives the address up when it is asked to, or does not, as after a kill.
func holder(t *testing.T, obeys bool) *hosttest.Machine {
	t.Helper()
	m := ours(t)
	config, err := render.File(templates.Node, "node/keepalived.conf", map[string]any{
		"Process": "", "Peers": []string(nil),
		"Node": "n", "HealthPort": 8444, "Interface": "ens3", "ID": 7, "Password": "x", "Address": "10.0.0.100",
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Write(kubeadm.KeepalivedConfigPath, 0o600, string(config))
	m.Write(kubeadm.KeepalivedManifestPath, 0o600, "pod")
	const held = "/test/held"
	m.Write(held, 0o644, "")
	m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		line := strings.Join(argv, " ")
		switch {
		case line == "ip -j addr show":
			more := ""
			if _, ok := m.Read(held); ok {
				more = `,{"local":"10.0.0.100","prefixlen":32}`
			}
			return hosttest.Reply{Stdout: fmt.Sprintf(`[{"ifname":"ens3","addr_info":[{"local":"10.0.0.1","prefixlen":24}%s]}]`, more)}, true
		case line == "ip addr del 10.0.0.100/32 dev ens3":
			m.Delete(held)
		case strings.Contains(line, "containers ls -q labels"):
			return hosttest.Reply{Stdout: "id\n"}, true
		case strings.HasSuffix(line, "tasks ls") && obeys:
			return hosttest.Reply{Stdout: "TASK PID STATUS\nid 5 RUNNING\n"}, true
		case strings.HasSuffix(line, "tasks ls"):
			return hosttest.Reply{Stdout: "TASK PID STATUS\nid 5 STOPPED\n"}, true
		case strings.HasSuffix(line, "tasks kill --signal SIGTERM id"):
			m.Delete(held)
		default:
			return hosttest.Reply{}, false
		}
		return hosttest.Reply{}, true
	})
	return m
}

func TestAddress_converges(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		plantest.Converges(t, func() plantest.World { return plantest.World{Step: Address(), Host: holder(t, obeys)} })
	}
	m := holder(t, true)
	if err := Address().Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if log := strings.Join(m.Log(), "; "); !strings.Contains(log, "SIGTERM") || strings.Contains(log, "addr del") {
		t.Errorf("keepalived is not asked first: %s", log)
	}
	if changes, err := Address().Check(t.Context(), ours(t)); err != nil || len(changes) > 0 {
		t.Errorf("a host without a virtual IP: %v, %v", changes, err)
	}
}

// kubeadm kills the pod that holds the address: it has to be gone before.
func TestSteps_giveTheAddressUpBeforeKubeadmResets(t *testing.T) {
	var names []string
	for _, s := range Steps() {
		names = append(names, s.ID())
	}
	if got := strings.Join(names, " "); !strings.HasPrefix(got, "reset/address reset/kubeadm ") {
		t.Error(got)
	}
}
