package cli

import (
	"testing"

	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/workflow"
)

// Renewing certificates does nothing for a CA that ends.
func TestCertsHint(t *testing.T) {
	entry := func(name, node string, s pki.State) pki.Entry {
		return pki.Entry{Name: name, Node: node, State: s, File: &pki.Facts{}}
	}
	const renew, rescue, rotate = "kocli certs renew --all", "kocli certs renew --all while the cluster answers, kocli certs rescue where it does not", "kocli certs rotate-ca"
	for name, x := range map[string]struct {
		all  []pki.Entry
		want string
	}{
		"a certificate ends soon": {[]pki.Entry{entry("apiserver", "cp-1", pki.Expiring), entry("ca", "cp-1", pki.Valid)}, renew},
		"one has ended":           {[]pki.Entry{entry("apiserver", "cp-1", pki.Expired)}, rescue},
		"a CA ends soon":          {[]pki.Entry{entry("etcd-ca", "cp-1", pki.Expiring), entry("apiserver", "cp-1", pki.Valid)}, rotate},
		"both end soon":           {[]pki.Entry{entry("ca", "cp-1", pki.Expiring), entry("apiserver", "cp-1", pki.Expiring)}, renew + "; for the CA that ends: " + rotate},
		"a webhook's has ended":   {[]pki.Entry{entry("apiservice/x", "", pki.Expired)}, renew},
	} {
		if got := certsHint(&workflow.CertsReport{Certificates: x.all}); got != x.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
