package workflow

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
)

func TestAddonsList_whatTheClusterHasAndWhatTheYAMLSays(t *testing.T) {
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	defer c.Close()
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	for revision, status := range map[string]string{"9": "superseded", "10": "deployed"} {
		c.Put("secrets", "metrics", "sh.helm.release.v1.metrics-server.v"+revision, kubetest.Object{
			"type": "helm.sh/release.v1",
			"metadata": kubetest.Object{"labels": kubetest.Object{
				"owner": "helm", "name": "metrics-server", "status": status, "version": revision, "modifiedAt": "1700000000",
				kube.LabelAddon: "metrics-server", kube.LabelVersion: "3.13.1",
			}},
		})
	}
	s := certSession(t, machines{"cp-1": m})
	off := false
	s.inv.Spec.Addons = []v1alpha1.Addon{{Name: "metrics-server", Enabled: &off}}
	rep, err := s.addonsList(t.Context())
	if err != nil || rep.Unread != "" || len(rep.Addons) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	storage, metrics := rep.Addons[0], rep.Addons[1]
	if storage.Name != "local-path-provisioner" || storage.Status != "absent" || storage.Declared != "" || storage.Storage != "local" {
		t.Errorf("%+v", storage)
	}
	if metrics.Status != "deployed" || metrics.Declared != "disabled" || metrics.Namespace != "metrics" || metrics.Version != "3.13.1" || metrics.Revision != 10 || metrics.Updated.Unix() != 1_700_000_000 {
		t.Errorf("%+v", metrics)
	}
	// Nobody answers: what there is is shown all the same.
	rep, err = certSession(t, machines{}).addonsList(t.Context())
	if err != nil || !strings.Contains(rep.Unread, "no route to host") || rep.Addons[1].Status != "unknown" {
		t.Errorf("%+v, %v", rep, err)
	}
}
