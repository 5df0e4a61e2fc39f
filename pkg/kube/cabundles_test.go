package kube_test

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/kube/kubetest"
)

// Kinds that the API does not serve, such as custom resources here, have none.
func TestCABundles_ofWebhooksAndAggregatedAPIs(t *testing.T) {
	_, c, look, _ := cluster(t)
	ca := base64.StdEncoding.EncodeToString([]byte("PEM"))
	hook := func(name string, bundle any) kubetest.Object {
		return kubetest.Object{"webhooks": []any{kubetest.Object{"name": name, "sideEffects": "None", "admissionReviewVersions": []any{"v1"}, "clientConfig": kubetest.Object{"url": "https://x", "caBundle": bundle}}}}
	}
	c.Put("validatingwebhookconfigurations", "", "policy", hook("a.policy", ca))
	c.Put("validatingwebhookconfigurations", "", "trusted", hook("b.policy", nil))
	c.Put("mutatingwebhookconfigurations", "", "inject", hook("i.mesh", ca))
	c.Put("apiservices", "", "v1beta1.metrics.k8s.io", kubetest.Object{"spec": kubetest.Object{"caBundle": ca}})
	c.Put("apiservices", "", "v1.apps", kubetest.Object{"spec": kubetest.Object{}})
	got, err := look.CABundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range got {
		names = append(names, b.Name+"="+string(b.PEM))
	}
	if want := "[validatingwebhookconfiguration/policy: a.policy=PEM mutatingwebhookconfiguration/inject: i.mesh=PEM apiservice/v1beta1.metrics.k8s.io=PEM]"; fmt.Sprint(names) != want {
		t.Errorf("%v", names)
	}
}

func TestRenewals_sayWhenKubeletsReported(t *testing.T) {
	_, c, look, _ := cluster(t)
	c.Put("namespaces", "", "kube-node-lease", kubetest.Object{})
	c.Put("leases", "kube-node-lease", "cp-1", kubetest.Object{"spec": kubetest.Object{"renewTime": "2026-01-02T03:04:05.000000Z"}})
	c.Put("leases", "kube-node-lease", "cp-2", kubetest.Object{"spec": kubetest.Object{}})
	got, err := look.Renewals(t.Context())
	if err != nil || len(got) != 1 || !got["cp-1"].Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("%v, %v", got, err)
	}
}
