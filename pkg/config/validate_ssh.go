package config

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

func validateSSH(s *v1alpha1.SSH, p *field.Path) field.ErrorList {
	all := validatePort(s.Port, p.Child("port"))
	all = append(all, validateUser(s.User, p.Child("user"))...)
	all = append(all, validateKeyFile(s.KeyFile, p.Child("keyFile"))...)
	all = append(all, validateSecrets(p, map[string]v1alpha1.SecretRef{
		"passphrase": s.Passphrase, "password": s.Password, "sudoPassword": s.SudoPassword})...)
	b := s.Bastion
	if b == nil {
		return all
	}
	p = p.Child("bastion")
	switch {
	case b.Address == "":
		all = append(all, field.Required(p.Child("address"), "an IP address or DNS name"))
	case !isHost(b.Address):
		all = append(all, field.Invalid(p.Child("address"), b.Address, "must be an IP address or a DNS name"))
	}
	all = append(all, validatePort(b.Port, p.Child("port"))...)
	all = append(all, validateUser(b.User, p.Child("user"))...)
	all = append(all, validateKeyFile(b.KeyFile, p.Child("keyFile"))...)
	if b.Agent != nil && !*b.Agent && b.KeyFile == "" && b.Password == "" {
		all = append(all, field.Required(p.Child("keyFile"), "no way to log in: give keyFile or password, or set agent to true"))
	}
	return append(all, validateSecrets(p, map[string]v1alpha1.SecretRef{
		"passphrase": b.Passphrase, "password": b.Password})...)
}

func validateUser(u string, p *field.Path) field.ErrorList {
	if strings.ContainsAny(u, " \t\n:@'\"\\") || strings.HasPrefix(u, "-") {
		return field.ErrorList{field.Invalid(p, u, "must be the name of a user")}
	}
	return nil
}

// validateKeyFile looks at the form. A key that was pasted in is a secret, and
// not shown again.
func validateKeyFile(f string, p *field.Path) field.ErrorList {
	switch {
	case strings.Contains(f, "PRIVATE KEY") || strings.Contains(f, "\n"):
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, "must be the path of a private key, not the key itself")}
	case strings.HasSuffix(f, ".pub"):
		return field.ErrorList{field.Invalid(p, f, "must be the private key, not the public one")}
	}
	return validatePath(f, p)
}

// validatePEMFile looks at the form of the path of a certificate or its key.
func validatePEMFile(f string, p *field.Path) field.ErrorList {
	if strings.Contains(f, "-----BEGIN") || strings.Contains(f, "\n") {
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, "must be the path of a file, not what it holds")}
	}
	return validatePath(f, p)
}

func validatePath(f string, p *field.Path) field.ErrorList {
	if strings.HasSuffix(f, "/") || strings.HasPrefix(f, "~") && !strings.HasPrefix(f, "~/") {
		return field.ErrorList{field.Invalid(p, f, "must be the path of a file; only ~/ stands for a home directory")}
	}
	return nil
}

func validateSecrets(p *field.Path, refs map[string]v1alpha1.SecretRef) field.ErrorList {
	var all field.ErrorList
	for _, name := range sortedKeys(refs) {
		if !refs[name].Valid() {
			all = append(all, field.Invalid(p.Child(name), field.OmitValueType{},
				"must be env:NAME, file:PATH or prompt; secrets are not written in this file"))
		}
	}
	return all
}

func validateContainerd(c *v1alpha1.Containerd, p *field.Path) field.ErrorList {
	all := oneOf(c.CgroupDriver, p.Child("cgroupDriver"), v1alpha1.CgroupSystemd, v1alpha1.CgroupCgroupfs)
	for _, reg := range sortedKeys(c.Mirrors) {
		m, at := c.Mirrors[reg], p.Child("mirrors").Key(reg)
		if !isRegistry(reg) {
			all = append(all, field.Invalid(at, reg, "must be a registry such as docker.io or harbor.example.com:8443"))
		}
		if len(m.Endpoints) == 0 {
			all = append(all, field.Required(at.Child("endpoints"), "at least one URL"))
		}
		for i, e := range m.Endpoints {
			u, err := url.Parse(e)
			switch {
			case err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "":
				all = append(all, field.Invalid(at.Child("endpoints").Index(i), field.OmitValueType{}, "must be a URL that starts with https:// or http://"))
			case u.User != nil:
				all = append(all, field.Invalid(at.Child("endpoints").Index(i), field.OmitValueType{}, "must not contain a user or password"))
			}
		}
	}
	return append(all, forbidFields(c.Overrides, p.Child("overrides"), map[string]string{
		"version": "kocli writes the version that fits its containerd",
		"imports": "kocli manages it",
	})...)
}

// isRegistry reports whether s is host or host:port.
func isRegistry(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && s != "" && u.User == nil && isHost(u.Hostname())
}

// CheckFiles reports the files on the operator's machine that a cluster names
// and that cannot be read. Load does not look at them: a file is also
// validated where it is not used.
func CheckFiles(c *v1alpha1.Cluster) field.ErrorList {
	var all field.ErrorList
	check := func(path string, p *field.Path) {
		if path == "" {
			return
		}
		if err := readable(path); err != nil {
			all = append(all, field.Invalid(p, path, err.Error()))
		}
	}
	login := func(s *v1alpha1.SSH, p *field.Path) {
		check(s.KeyFile, p.Child("keyFile"))
		if s.Bastion != nil {
			check(s.Bastion.KeyFile, p.Child("bastion", "keyFile"))
		}
	}
	login(&c.Spec.SSH, field.NewPath("spec", "ssh"))
	for i, h := range c.Spec.Hosts {
		if h.SSH != nil {
			login(h.SSH, field.NewPath("spec", "hosts").Index(i).Child("ssh"))
		}
	}
	backup := field.NewPath("spec", "backup")
	check(c.Spec.Backup.SFTP.KeyFile, backup.Child("sftp", "keyFile"))
	check(c.Spec.Backup.S3.CAFile, backup.Child("s3", "caFile"))
	if x := c.Spec.Etcd.External; x != nil {
		p := field.NewPath("spec", "etcd", "external")
		check(x.CAFile, p.Child("caFile"))
		check(x.CertFile, p.Child("certFile"))
		check(x.KeyFile, p.Child("keyFile"))
	}
	registry := field.NewPath("spec", "registry")
	if b := c.Spec.Registry.Builtin; b != nil {
		p := registry.Child("builtin")
		check(b.CertFile, p.Child("certFile"))
		check(b.KeyFile, p.Child("keyFile"))
		check(b.CAFile, p.Child("caFile"))
	}
	for i, x := range c.Spec.Registry.External {
		check(x.CAFile, registry.Child("external").Index(i).Child("caFile"))
	}
	for _, reg := range sortedKeys(c.Spec.Runtime.Containerd.Mirrors) {
		check(c.Spec.Runtime.Containerd.Mirrors[reg].CAFile,
			field.NewPath("spec", "runtime", "containerd", "mirrors").Key(reg).Child("caFile"))
	}
	return all
}

func readable(path string) error {
	path, err := ExpandPath(path)
	if err != nil {
		return err
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	return nil
}
