package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// three is an etcd of three members, seen from the first.
func three(t *testing.T) (*etcdtest.Cluster, *hosttest.Machine) {
	t.Helper()
	c := etcdtest.New(t)
	m := hosttest.New("a")
	c.Install(m)
	m.OnDial(c.Dial)
	for i, n := range []string{"a", "b", "c"} {
		c.Add(n, "10.0.0."+string(rune('1'+i)))
	}
	return c, m
}

func TestView_tellsWhoIsNotHealthy(t *testing.T) {
	c, m := three(t)
	v, err := etcd.Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Healthy(t.Context()); err != nil {
		t.Errorf("three members that answer: %v", err)
	}
	c.Down("10.0.0.2", true)
	c.AddLearner("", "10.0.0.4")
	err = v.Healthy(t.Context())
	if err == nil || !strings.Contains(err.Error(), "member b") || strings.Contains(err.Error(), "member a") || strings.Contains(err.Error(), "10.0.0.4") {
		t.Errorf("one down, and a learner that does not count: %v", err)
	}
	c.Down("10.0.0.3", true)
	if _, err := v.Members(t.Context()); err == nil {
		t.Error("members without a quorum")
	}
}

// An etcd outside the cluster is asked with the user's files, and the error says
// what is wrong: the way there, the trust in it, or its trust in us.
func TestOutside_saysHowFarItCame(t *testing.T) {
	c, m := three(t)
	other := etcdtest.New(t)
	ask := func(creds etcd.Credentials, endpoint string) error {
		v, err := etcd.Outside(m, creds)
		if err != nil {
			t.Fatal(err)
		}
		return v.Ask(t.Context(), endpoint)
	}
	good, wrong := c.Credentials(), other.Credentials()
	if err := ask(good, "https://10.0.0.1:2379"); err != nil {
		t.Errorf("a member that answers: %v", err)
	}
	if err := ask(wrong, "https://10.0.0.1:2379"); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("a member of another CA: %v", err)
	}
	if err := ask(etcd.Credentials{CA: good.CA, Cert: wrong.Cert, Key: wrong.Key}, "https://10.0.0.1:2379"); err == nil || !strings.Contains(err.Error(), "does not take the client certificate") {
		t.Errorf("a certificate of another CA: %v", err)
	}
	if err := ask(good, "https://10.1.0.1:2379"); err == nil || !strings.Contains(err.Error(), "10.1.0.1") {
		t.Errorf("a member whose certificate is for another address: %v", err)
	}
	c.Down("10.0.0.2", true)
	if err := ask(good, "https://10.0.0.2:2379"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a member that is away: %v", err)
	}
	if _, err := etcd.Outside(m, etcd.Credentials{CA: good.CA, Cert: good.Cert, Key: wrong.Key}); err == nil {
		t.Error("a key of another certificate is taken")
	}
	if s := fmt.Sprintf("%v %+v %#v", good, good, good); strings.Contains(s, "PRIVATE") || strings.Contains(s, "45") {
		t.Error(s)
	}
}

func TestOutside_countsWhatAClusterKeeps(t *testing.T) {
	c, m := three(t)
	v, err := etcd.Outside(m, c.Credentials())
	if err != nil {
		t.Fatal(err)
	}
	c.Keep("/other/a")
	if n, err := v.Objects(t.Context(), "https://10.0.0.1:2379"); n != 0 || err != nil {
		t.Error(n, err)
	}
	c.Keep("/registry/pods/a/b")
	if n, err := v.Objects(t.Context(), "https://10.0.0.1:2379"); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestClient_removesByID(t *testing.T) {
	c, m := three(t)
	cl, err := etcd.Dial(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no error
		if err := cl.Remove(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.State(); got != "etcd a c" {
		t.Error(got)
	}
}

func TestLook_saysWhereThereIsNoEtcd(t *testing.T) {
	if _, err := etcd.Look(t.Context(), hosttest.New("worker")); !errors.Is(err, etcd.ErrNone) {
		t.Error(err)
	}
}

func TestMember_isFoundByNameAndBeforeItStartedByAddress(t *testing.T) {
	fresh := etcd.Member{PeerURLs: []string{"https://10.0.0.4:2380"}}
	old := etcd.Member{Name: "a", PeerURLs: []string{"https://10.0.0.4:2380"}}
	if !fresh.At("d", "10.0.0.4") || fresh.At("d", "10.0.0.5") || !old.At("a", "10.0.0.9") || old.At("d", "10.0.0.4") {
		t.Error("members are mixed up")
	}
}

func TestRemovable(t *testing.T) {
	sick := errors.New("no answer")
	h := func(name string, err error) etcd.Health {
		return etcd.Health{Member: etcd.Member{Name: name}, Err: err}
	}
	learner := etcd.Health{Member: etcd.Member{Name: "l", Learner: true}}
	for name, tt := range map[string]struct {
		all   []etcd.Health
		leave string
		want  string // part of the error; empty where it may go
	}{
		"one of three":                      {[]etcd.Health{h("a", nil), h("b", nil), h("c", nil)}, "c", ""},
		"the dead one of three":             {[]etcd.Health{h("a", nil), h("b", nil), h("c", sick)}, "c", ""},
		"a healthy one beside a dead one":   {[]etcd.Health{h("a", nil), h("b", nil), h("c", sick)}, "b", "of the 2 members that stay 1 are healthy, and 2 are needed; not healthy: c (no answer)"},
		"the last":                          {[]etcd.Health{h("a", nil)}, "a", "without a member"},
		"one of two":                        {[]etcd.Health{h("a", nil), h("b", nil)}, "b", ""},
		"the dead one of two":               {[]etcd.Health{h("a", nil), h("b", sick)}, "b", "no quorum: 1 of 2 members are healthy, 2 are needed"},
		"two of three at once":              {[]etcd.Health{h("a", nil), h("b", nil), h("c", nil)}, "bc", ""},
		"two of five, one of the rest sick": {[]etcd.Health{h("a", nil), h("b", nil), h("c", sick), h("d", nil), h("e", nil)}, "de", ""},
		"two of five, the others sick":      {[]etcd.Health{h("a", nil), h("b", sick), h("c", sick), h("d", nil), h("e", nil)}, "de", "of the 3 members that stay 1 are healthy, and 2 are needed"},
		"a learner does not count":          {[]etcd.Health{h("a", nil), learner}, "a", "1 of 1 would go"},
		"a learner may go":                  {[]etcd.Health{h("a", nil), learner}, "l", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := etcd.Removable(tt.all, func(m etcd.Member) bool { return strings.Contains(tt.leave, m.Name) })
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
