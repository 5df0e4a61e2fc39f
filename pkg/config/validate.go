package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// The minor versions of Kubernetes 1 that this kocli installs.
const (
	MinMinor = 34
	MaxMinor = 37
)

// maxHosts is how many nodes Kubernetes is tested with.
const maxHosts = 5000

// Validate returns all faults of a cluster that has its defaults.
func Validate(c *v1alpha1.Cluster) field.ErrorList {
	all := validateName(c.Metadata.Name, field.NewPath("metadata", "name"))
	spec := field.NewPath("spec")
	all = append(all, validateKubernetes(&c.Spec.Kubernetes, spec.Child("kubernetes"))...)
	all = append(all, validateNetwork(&c.Spec, spec)...)
	all = append(all, validateEndpoint(&c.Spec, spec.Child("controlPlane", "endpoint"))...)
	all = append(all, validateEtcd(&c.Spec, spec)...)
	all = append(all, validateSSH(&c.Spec.SSH, spec.Child("ssh"))...)
	all = append(all, validateContainerd(&c.Spec.Runtime.Containerd, spec.Child("runtime", "containerd"))...)
	all = append(all, validateHosts(&c.Spec, spec.Child("hosts"))...)
	all = append(all, validateMaintenance(&c.Spec.Maintenance, spec.Child("maintenance"))...)
	all = append(all, validateHooks(c.Spec.Hooks.BeforeUpgrade, spec.Child("hooks", "beforeUpgrade"))...)
	all = append(all, validateHooks(c.Spec.Hooks.AfterUpgrade, spec.Child("hooks", "afterUpgrade"))...)
	all = append(all, noBlanks(c.Spec.Preflight.Ignore, spec.Child("preflight", "ignore"))...)
	all = append(all, validateBackup(&c.Spec.Backup, spec.Child("backup"))...)
	all = append(all, validateRegistry(&c.Spec, spec)...)
	all = append(all, validateAddons(c.Spec.Addons, spec.Child("addons"))...)
	all = append(all, validateStorage(c.Spec.Storage, spec.Child("storage"))...)
	all = append(all, validateReserved(&c.Spec, spec)...)
	if len(all) == 0 {
		all = validateLogins(c)
	}
	return all
}

func validateName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "the cluster needs a name")}
	}
	return invalid(p, name, validation.IsDNS1123Label(name))
}

func validateMaintenance(m *v1alpha1.Maintenance, p *field.Path) field.ErrorList {
	var all field.ErrorList
	if err := m.MaxUnavailable.Check(); err != nil {
		all = append(all, field.Invalid(p.Child("maxUnavailable"), string(m.MaxUnavailable), err.Error()))
	}
	if err := m.DrainTimeout.Check(); err != nil {
		all = append(all, field.Invalid(p.Child("drainTimeout"), string(m.DrainTimeout), err.Error()))
	}
	return all
}

// validateReserved refuses what a later version will understand.
func validateReserved(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	var all field.ErrorList
	for _, r := range []struct {
		name string
		set  bool
	}{
		{"provider", s.Provider != nil},
	} {
		if r.set {
			all = append(all, field.Forbidden(p.Child(r.name), "not supported by this version of kocli yet: remove it"))
		}
	}
	return all
}

func validateKubernetes(k *v1alpha1.Kubernetes, p *field.Path) field.ErrorList {
	all := validateVersion(k.Version, p.Child("version"))
	for i, san := range k.APIServer.CertSANs {
		at := p.Child("apiServer", "certSANs").Index(i)
		name := strings.TrimPrefix(san, "*.")
		if !isIP(san) && len(validation.IsDNS1123Subdomain(name)) > 0 {
			all = append(all, field.Invalid(at, san, "must be an IP address or a DNS name"))
		}
	}
	all = append(all, validateArgs(k, p)...)
	all = append(all, validateAudit(&k.Audit, p.Child("audit"))...)
	all = append(all, noBlanks(k.IgnorePreflightErrors, p.Child("ignorePreflightErrors"))...)
	return append(all, validateOverrides(&k.Overrides, p.Child("overrides"))...)
}

func validateVersion(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, fmt.Sprintf("such as v1.%d.0", MaxMinor))}
	}
	minor, ok := parseVersion(v)
	switch {
	case !ok:
		return field.ErrorList{field.Invalid(p, v, fmt.Sprintf("must have the form vX.Y.Z, such as v1.%d.0", MaxMinor))}
	case minor < MinMinor || minor > MaxMinor:
		return field.ErrorList{field.Invalid(p, v, fmt.Sprintf("this kocli installs v1.%d to v1.%d", MinMinor, MaxMinor))}
	}
	return nil
}

// parseVersion returns the minor of v1.Y.Z; other majors count as minor -1.
func parseVersion(v string) (minor int, ok bool) {
	rest, ok := strings.CutPrefix(v, "v")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 {
		return 0, false
	}
	var n [3]int
	for i, s := range parts {
		u, err := strconv.ParseUint(s, 10, 16)
		if err != nil || strconv.FormatUint(u, 10) != s {
			return 0, false
		}
		n[i] = int(u)
	}
	if n[0] != 1 {
		return -1, true
	}
	return n[1], true
}

func validateHooks(list []v1alpha1.Hook, p *field.Path) field.ErrorList {
	var all field.ErrorList
	for i, h := range list {
		at := p.Index(i)
		if len(h.Command) == 0 || h.Command[0] == "" {
			all = append(all, field.Required(at.Child("command"), "a program and its arguments"))
		}
		all = append(all, oneOf(h.On, at.Child("on"), v1alpha1.HookOnOperator, v1alpha1.HookOnHost)...)
		if err := h.Timeout.Check(); err != nil {
			all = append(all, field.Invalid(at.Child("timeout"), string(h.Timeout), err.Error()))
		}
	}
	return all
}

func validateAudit(a *v1alpha1.Audit, p *field.Path) field.ErrorList {
	all := notNegative(p, map[string]int{"maxAge": a.MaxAge, "maxBackups": a.MaxBackups, "maxSize": a.MaxSize})
	if a.Policy != nil && !a.Enabled {
		all = append(all, field.Invalid(p.Child("enabled"), false, "must be true for the policy to have an effect"))
	}
	return all
}

// invalid turns the messages of apimachinery's validators into faults.
func invalid(p *field.Path, v string, msgs []string) field.ErrorList {
	var all field.ErrorList
	for _, m := range msgs {
		all = append(all, field.Invalid(p, v, m))
	}
	return all
}

func noBlanks(list []string, p *field.Path) field.ErrorList {
	var all field.ErrorList
	for i, s := range list {
		if strings.TrimSpace(s) == "" {
			all = append(all, field.Required(p.Index(i), "the name of a check"))
		}
	}
	return all
}

func notNegative(p *field.Path, values map[string]int) field.ErrorList {
	var all field.ErrorList
	for _, name := range sortedKeys(values) {
		if values[name] < 0 {
			all = append(all, field.Invalid(p.Child(name), values[name], "must be greater than zero"))
		}
	}
	return all
}

func validatePort(port int, p *field.Path) field.ErrorList {
	if port == 0 { // absent: inherited or defaulted
		return nil
	}
	if port < 1 || port > 65535 {
		return field.ErrorList{field.Invalid(p, port, "must be between 1 and 65535")}
	}
	return nil
}

// oneOf checks an enumerated value.
func oneOf[T ~string](v T, p *field.Path, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(p, v, allowed)}
}
