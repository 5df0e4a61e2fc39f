package workflow

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/preflight"
)

// What the kernel found tells whether somebody has the address: a connection that
// is opened or refused, or an answer by ARP alone.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	const entry = `[{"dst":"10.0.0.100","dev":"eth0","lladdr":"02:00:00:00:00:09","state":["STATE"]}]`
	refused, noRoute := errors.New("connect failed: Connection refused"), errors.New("connect failed: No route to host")
	for _, x := range []struct {
		name          string
		dial          error         // what a connection ends with
		takes         time.Duration // until it does
		first, second string        // states that the kernel shows
		want          preflight.Neighbour
	}{
		{"nobody answers", noRoute, 3 * time.Second, "", "", preflight.Neighbour{Node: "n"}},
		{"nobody answers, and the kernel knows soon", noRoute, 0, "", "", preflight.Neighbour{Node: "n"}},
		{"a machine that refuses", refused, 0, "REACHABLE", "", preflight.Neighbour{Node: "n", Answers: true, MAC: "02:00:00:00:00:09"}},
		{"a machine that drops connections", noRoute, 5 * time.Second, "REACHABLE", "", preflight.Neighbour{Node: "n", Answers: true, MAC: "02:00:00:00:00:09"}},
		{"one that the kernel remembers, and that is gone", noRoute, 2 * time.Second, "DELAY", "", preflight.Neighbour{Node: "n"}},
		{"one that the kernel remembers, and that is there", noRoute, 2 * time.Second, "STALE", "REACHABLE", preflight.Neighbour{Node: "n", Answers: true, MAC: "02:00:00:00:00:09"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			m := hosttest.New("n", func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
				state := map[string]string{"ip -j neigh show 10.0.0.100": x.first, "ip -4 -j neigh show 10.0.0.100": x.second}[strings.Join(argv, " ")]
				if state == "" {
					return "[]", 0, true
				}
				return strings.Replace(entry, "STATE", state, 1), 0, true
			})
			m.OnDial(func(ctx context.Context, _, _ string) (net.Conn, error) {
				select {
				case <-time.After(x.takes):
				case <-ctx.Done():
				}
				return nil, x.dial
			})
			got, err := neighbour(t.Context(), "n", m, m, "10.0.0.100:8443", netip.MustParseAddr("10.0.0.100"))
			if err != nil || got != x.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
