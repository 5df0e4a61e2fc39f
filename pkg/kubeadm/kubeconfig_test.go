package kubeadm_test

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/kubeadm"
)

const embedded = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: Q0E=}}]
users: [{name: u, user: {client-certificate-data: Q0VSVAo=, client-key-data: S0VZCg==}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestKubeconfig_clientCertificates(t *testing.T) {
	data, file, err := kubeadm.ClientCertificateOf([]byte(embedded))
	if err != nil || string(data) != "CERT\n" || file != "" {
		t.Errorf("%q, %q, %v", data, file, err)
	}
	pair, err := kubeadm.ClientPairOf([]byte(embedded))
	if err != nil || string(pair) != "CERT\nKEY\n" {
		t.Errorf("%q, %v", pair, err)
	}
	next, err := kubeadm.WithClientFile([]byte(embedded), "/pair.pem", "https://10.0.0.9:8443")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"client-certificate: /pair.pem", "client-key: /pair.pem", "server: https://10.0.0.9:8443", "certificate-authority-data: Q0E=", "current-context: x"} {
		if !strings.Contains(string(next), want) {
			t.Errorf("it lacks %q:\n%s", want, next)
		}
	}
	if strings.Contains(string(next), "S0VZCg==") {
		t.Error("the key is still inside")
	}
	if data, file, err = kubeadm.ClientCertificateOf(next); err != nil || data != nil || file != "/pair.pem" {
		t.Errorf("%q, %q, %v", data, file, err)
	}
	for _, bad := range []string{"users: []", "{", "users: [{name: u, user: {token: t}}]"} {
		if _, err := kubeadm.ClientPairOf([]byte(bad)); err == nil {
			t.Errorf("%q has no pair", bad)
		}
	}
}

func TestKubeconfig_authorities(t *testing.T) {
	data, file, err := kubeadm.AuthorityOf([]byte(embedded))
	if err != nil || string(data) != "CA" || file != "" {
		t.Errorf("%q, %q, %v", data, file, err)
	}
	next, err := kubeadm.WithAuthority([]byte(embedded), []byte("BOTH"))
	if err != nil {
		t.Fatal(err)
	}
	if data, _, err := kubeadm.AuthorityOf(next); err != nil || string(data) != "BOTH" || !strings.Contains(string(next), "S0VZCg==") || !strings.Contains(string(next), "https://10.0.0.1:6443") {
		t.Errorf("%q, %v in\n%s", data, err, next)
	}
	named := strings.Replace(embedded, "certificate-authority-data: Q0E=", "certificate-authority: /ca.crt", 1)
	if data, file, err := kubeadm.AuthorityOf([]byte(named)); err != nil || data != nil || file != "/ca.crt" {
		t.Errorf("%q, %q, %v", data, file, err)
	}
	for _, bad := range []string{"clusters: []", "{"} {
		if _, _, err := kubeadm.AuthorityOf([]byte(bad)); err == nil {
			t.Errorf("%q has no cluster", bad)
		}
	}
}
