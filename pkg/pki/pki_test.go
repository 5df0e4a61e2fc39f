package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
)

func cluster(t *testing.T) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: worker-1, address: 10.0.0.2}
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// serve leads to servers by address; others refuse. One with mutual wants a
// certificate of its clients.
func serve(certs map[string][2]string, mutual bool) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		pem, ok := certs[address]
		if !ok {
			return nil, errors.New("connection refused")
		}
		pair, err := tls.X509KeyPair([]byte(pem[0]), []byte(pem[1]))
		if err != nil {
			return nil, err
		}
		conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		if mutual {
			conf.ClientAuth, conf.ClientCAs, conf.MaxVersion = tls.RequireAndVerifyClientCert, x509.NewCertPool(), tls.VersionTLS12
		}
		here, there := net.Pipe()
		go func() {
			_ = tls.Server(there, conf).Handshake() // the client judges
			_ = there.Close()
		}()
		return here, nil
	}
}

// issued is a pair that ends after so many days.
func issued(name string, now time.Time, days int) [2]string {
	cert, key := kubetest.Issue(name, now.AddDate(0, 0, days), "127.0.0.1", "kubernetes")
	return [2]string{cert, key}
}

func find(t *testing.T, all []pki.Entry, name string) pki.Entry {
	t.Helper()
	for _, e := range all {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("%s is not listed", name)
	return pki.Entry{}
}

func TestSurvey_holdsFilesAgainstWhatIsServed(t *testing.T) {
	now := time.Now()
	m := hosttest.New("cp-1")
	api, old, server, peer, own := issued("apiserver", now, 364), issued("apiserver", now, 200), issued("etcd", now, 29), issued("etcd", now, -1), issued("self", now, 300)
	m.Write(kubeadm.CACertPath, 0o644, issued("ca", now, 3000)[0])
	m.Write(pki.Dir+"/apiserver.crt", 0o644, api[0])
	m.Write(pki.Dir+"/etcd/server.crt", 0o644, server[0])
	m.Write(pki.Dir+"/etcd/peer.crt", 0o644, peer[0])
	m.Write(pki.Dir+"/front-proxy-client.crt", 0o644, "not a certificate")
	admin := issued("kubernetes-admin", now, 364)
	c := kubetest.NewCluster(m.Wire)
	defer c.Close()
	m.Write("/etc/kubernetes/admin.conf", 0o600, kubetest.WithClient(c.Kubeconfig(), admin[0], admin[1]))
	client := issued("system:node:cp-1", now, 364)
	m.Write(pki.KubeletClientPath, 0o600, client[0]+client[1])
	conf, err := kubeadm.WithClientFile([]byte(c.Kubeconfig()), pki.KubeletClientPath, "https://10.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	m.Write(pki.KubeletConfPath, 0o600, string(conf))
	m.Write(pki.KubeletDir+"/kubelet.crt", 0o644, own[0])
	m.OnDial(serve(map[string][2]string{
		"127.0.0.1:6443": old, "10.0.0.100:6443": old, "127.0.0.1:2379": server, "10.0.0.1:2380": peer, "127.0.0.1:10250": own, "127.0.0.1:10257": own,
	}, true))
	n, _ := cluster(t).Node("cp-1")
	all, err := pki.Survey(t.Context(), m, cluster(t), n, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]pki.Entry{
		"ca":                         {State: pki.Valid, Days: 2999},
		"apiserver":                  {State: pki.Valid, Days: 199, Differs: true, Address: "127.0.0.1:6443"},
		"etcd-server":                {State: pki.Expiring, Days: 28, Address: "127.0.0.1:2379"},
		"etcd-peer":                  {State: pki.Expired, Days: -2, Address: "10.0.0.1:2380"},
		"admin.conf":                 {State: pki.Valid, Days: 363},
		"kubelet-client":             {State: pki.Valid, Days: 363},
		"kubelet-serving":            {State: pki.Valid, Days: 299, Address: "127.0.0.1:10250"},
		"controller-manager-serving": {State: pki.Valid, Days: 299, Address: "127.0.0.1:10257"},
		"endpoint":                   {State: pki.Valid, Days: 199, Address: "10.0.0.100:6443"},
		"front-proxy-client":         {State: pki.Unread, Problem: "there is no certificate in it"},
		"scheduler.conf":             {State: pki.Unread, Problem: "there is no such file"},
		"scheduler-serving":          {State: pki.Unread, Problem: "not served: connection refused", Address: "127.0.0.1:10259"},
	} {
		e := find(t, all, name)
		if e.State != want.State || e.Days != want.Days || e.Differs != want.Differs || e.Address != want.Address || e.Problem != want.Problem {
			t.Errorf("%s: %+v", name, e)
		}
	}
	e := find(t, all, "apiserver")
	if e.File == nil || e.Served == nil || e.File.Serial == e.Served.Serial || strings.Join(e.File.SANs, " ") != "kubernetes 127.0.0.1" {
		t.Errorf("%+v", e)
	}
	for _, e := range all {
		if e.Name == "super-admin.conf" || e.Name == "kubelet.conf" {
			t.Errorf("%s has nothing to say", e.Name)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil || strings.Contains(string(raw), "PRIVATE") {
		t.Errorf("%v: a key is shown", err)
	}
}

func TestSurvey_aHostThatHasNotJoinedHasNone(t *testing.T) {
	m := hosttest.New("worker-1")
	m.OnDial(serve(nil, false))
	n, _ := cluster(t).Node("worker-1")
	if all, err := pki.Survey(t.Context(), m, cluster(t), n, time.Now()); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestFacts_soon(t *testing.T) {
	now := time.Now()
	for name, x := range map[string]struct {
		made, left time.Duration
		want       bool
	}{
		"a year, 31 days left":  {365 * 24 * time.Hour, 31 * 24 * time.Hour, false},
		"a year, 30 days left":  {365 * 24 * time.Hour, 30 * 24 * time.Hour, true},
		"a week, 2 days left":   {7 * 24 * time.Hour, 2 * 24 * time.Hour, false},
		"a week, 12 hours left": {7 * 24 * time.Hour, 12 * time.Hour, true},
		"ended":                 {time.Hour, -time.Second, true},
	} {
		f := &pki.Facts{NotAfter: now.Add(x.left), NotBefore: now.Add(x.left - x.made)}
		if f.Soon(now) != x.want || f.Expired(now) != (x.left < 0) {
			t.Errorf("%s: %t, %t", name, f.Soon(now), f.Expired(now))
		}
	}
}

func TestSelect_inTheOrderOfRestartsAndByKnownNames(t *testing.T) {
	got, err := pki.Select([]string{"scheduler.conf", "apiserver", "etcd-peer"})
	if err != nil || strings.Join(pki.Names(got), " ") != "apiserver etcd-peer scheduler.conf" || strings.Join(pki.Pods(got), " ") != "etcd kube-apiserver kube-scheduler" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := pki.Select([]string{"apiserver", "api"}); err == nil || !strings.Contains(err.Error(), `"api"`) {
		t.Errorf("got %v", err)
	}
}
