package resolver_test

import (
	"errors"
	"testing"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/resolver"
)

func TestUsable(t *testing.T) {
	for text, want := range map[string]bool{
		"":                        false,
		"search example.com\n":    false,
		"nameserver 192.0.2.53\n": true,
		"# nameserver 127.0.0.1\nnameserver 2001:db8::53\n": true,
		"nameserver 127.0.0.53\n":                           false,
		"nameserver 192.0.2.53\nnameserver ::1\n":           false,
		"nameserver 0.0.0.0\n":                              false,
		"nameserver\n":                                      false,
		"nameserver not-an-address\n":                       false,
		"\tnameserver\t192.0.2.53\t# x\n":                   true,
	} {
		if got := resolver.Usable(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestKubeletPath(t *testing.T) {
	const etc, systemd = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"the host's own is good":         {map[string]string{etc: "nameserver 192.0.2.53\n", systemd: "nameserver 192.0.2.54\n"}, ""},
		"a stub, and systemd knows more": {map[string]string{etc: "nameserver 127.0.0.53\n", systemd: "nameserver 192.0.2.54\n"}, systemd},
		"a stub alone":                   {map[string]string{etc: "nameserver 127.0.0.53\n"}, resolver.ManagedPath},
		"nothing":                        {nil, resolver.ManagedPath},
	} {
		t.Run(name, func(t *testing.T) {
			m := hosttest.New("n")
			for p, text := range c.files {
				m.Write(p, 0o644, text)
			}
			if got, err := resolver.KubeletPath(t.Context(), m); err != nil || got != c.want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	m := hosttest.New("n")
	m.Cut()
	if _, err := resolver.KubeletPath(t.Context(), m); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("a lost host: %v", err)
	}
}
