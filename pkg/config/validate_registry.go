package config

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// validateRegistry checks the registries of a cluster.
func validateRegistry(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	at := p.Child("registry")
	var all field.ErrorList
	names := map[string]bool{}
	for name := range s.Runtime.Containerd.Mirrors {
		names[name] = true
	}
	once := func(name string, p *field.Path) {
		if names[name] {
			all = append(all, field.Duplicate(p, name))
		}
		names[name] = true
	}
	if b := s.Registry.Builtin; b != nil {
		all = append(all, validateBuiltin(s, b, at.Child("builtin"))...)
		once(inventory.RegistryName(b), at.Child("builtin", "name"))
	}
	for i, x := range s.Registry.External {
		one := at.Child("external").Index(i)
		if !isRegistry(x.Name) {
			all = append(all, field.Invalid(one.Child("name"), x.Name, "must be a registry such as harbor.example.com or harbor.example.com:8443"))
		} else {
			once(x.Name, one.Child("name"))
		}
		all = append(all, validatePEMFile(x.CAFile, one.Child("caFile"))...)
		all = append(all, validateRegistryLogin(x.Username, x.Password, one)...)
	}
	return all
}

func validateBuiltin(s *v1alpha1.ClusterSpec, b *v1alpha1.BuiltinRegistry, p *field.Path) field.ErrorList {
	var all field.ErrorList
	if len(b.Hosts) == 0 {
		all = append(all, field.Required(p.Child("hosts"), "names of hosts in spec.hosts that the registry runs on"))
	}
	for i, h := range b.Hosts {
		one := p.Child("hosts").Index(i)
		switch {
		case !slices.ContainsFunc(s.Hosts, func(x v1alpha1.Host) bool { return x.Name == h }):
			all = append(all, field.NotFound(one, h))
		case slices.Contains(b.Hosts[:i], h):
			all = append(all, field.Duplicate(one, h))
		}
	}
	if len(validation.IsDNS1123Subdomain(b.Name)) > 0 || isIP(b.Name) || !strings.Contains(b.Name, ".") {
		all = append(all, field.Invalid(p.Child("name"), b.Name, "must be a DNS name with a dot, such as registry.example.com: images are called by it"))
	}
	all = append(all, validatePort(b.Port, p.Child("port"))...)
	who := portOwner(s, b.Port)
	if e := s.ControlPlane.Endpoint; e.Mode != v1alpha1.EndpointNone && e.Mode != v1alpha1.EndpointExternal && (b.Port == e.Port || b.Port == e.Port+1) {
		who = "the load balancer of the control planes"
	}
	if who != "" {
		all = append(all, field.Invalid(p.Child("port"), b.Port, "belongs to "+who))
	}
	if strings.ContainsAny(b.DataDir, " \t\n\"'%\\:") {
		all = append(all, field.Invalid(p.Child("dataDir"), b.DataDir, "must not have blanks, quotes, colons and %"))
	} else {
		all = append(all, validateFolder(b.DataDir, p.Child("dataDir"))...)
	}
	given := 0
	files := map[string]string{"certFile": b.CertFile, "keyFile": b.KeyFile, "caFile": b.CAFile}
	for _, name := range sortedKeys(files) {
		if files[name] != "" {
			given++
			all = append(all, validatePEMFile(files[name], p.Child(name))...)
		}
	}
	if given != 0 && given != len(files) {
		for _, name := range sortedKeys(files) {
			if files[name] == "" {
				all = append(all, field.Required(p.Child(name), "certFile, keyFile and caFile go together"))
			}
		}
	}
	if strings.ContainsAny(b.Username, ":\n\r") {
		all = append(all, field.Invalid(p.Child("username"), b.Username, "must not contain a colon"))
	}
	return append(all, validateSecrets(p, map[string]v1alpha1.SecretRef{"password": b.Password})...)
}

func validateRegistryLogin(user string, password v1alpha1.SecretRef, p *field.Path) field.ErrorList {
	all := validateSecrets(p, map[string]v1alpha1.SecretRef{"password": password})
	switch {
	case strings.ContainsAny(user, ":\n\r"):
		all = append(all, field.Invalid(p.Child("username"), user, "must not contain a colon"))
	case user != "" && password == "":
		all = append(all, field.Required(p.Child("password"), "the password of the user: env:NAME, file:PATH or prompt"))
	case user == "" && password != "":
		all = append(all, field.Required(p.Child("username"), "the user whose password it is"))
	}
	return all
}
