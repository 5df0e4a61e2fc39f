package config

import (
	"net/url"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// validateEtcd checks an etcd outside the cluster. What is said of members on
// control planes has no meaning beside it.
func validateEtcd(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	x := s.Etcd.External
	if x == nil {
		return nil
	}
	at := p.Child("etcd", "external")
	var all field.ErrorList
	if len(x.Endpoints) == 0 {
		all = append(all, field.Required(at.Child("endpoints"), "at least one URL, such as https://10.0.0.5:2379"))
	}
	for i, e := range x.Endpoints {
		one := at.Child("endpoints").Index(i)
		u, err := url.Parse(e)
		switch {
		case err != nil:
			all = append(all, field.Invalid(one, field.OmitValueType{}, "must be a URL such as https://10.0.0.5:2379"))
		case u.User != nil:
			all = append(all, field.Invalid(one, field.OmitValueType{}, "must not contain a user or password"))
		case u.Scheme != "https" || !isHost(u.Hostname()) || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
			all = append(all, field.Invalid(one, e, "must be an https URL with a port and no path, such as https://10.0.0.5:2379"))
		case slices.Contains(x.Endpoints[:i], e):
			all = append(all, field.Duplicate(one, e))
		}
	}
	files := map[string]string{"caFile": x.CAFile, "certFile": x.CertFile, "keyFile": x.KeyFile}
	for _, name := range sortedKeys(files) {
		if files[name] == "" {
			all = append(all, field.Required(at.Child(name), "a file in PEM on this machine"))
			continue
		}
		all = append(all, validatePEMFile(files[name], at.Child(name))...)
	}
	if len(s.Kubernetes.Etcd.ExtraArgs) > 0 {
		all = append(all, field.Forbidden(p.Child("kubernetes", "etcd", "extraArgs"), "kocli does not run etcd where spec.etcd.external is set"))
	}
	if etcd, ok := s.Kubernetes.Overrides.ClusterConfiguration["etcd"].(map[string]any); ok && etcd["local"] != nil {
		all = append(all, field.Forbidden(p.Child("kubernetes", "overrides", "clusterConfiguration", "etcd", "local"), "kocli does not run etcd where spec.etcd.external is set"))
	}
	return all
}
