package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// What becomes of a volume whose claim is deleted.
const (
	reclaimDelete = "Delete"
	reclaimRetain = "Retain"
)

// validateAddons checks the form of spec.addons. Which add-ons there are and what
// values they take is for pkg/addon, which knows them.
func validateAddons(list []v1alpha1.Addon, p *field.Path) field.ErrorList {
	var all field.ErrorList
	for i, a := range list {
		at := p.Index(i)
		if a.Name == "" {
			all = append(all, field.Required(at.Child("name"), "kocli addon list shows what there is"))
		} else if slices.ContainsFunc(list[:i], func(o v1alpha1.Addon) bool { return o.Name == a.Name }) {
			all = append(all, field.Duplicate(at.Child("name"), a.Name))
		}
		if a.Namespace != "" {
			all = append(all, invalid(at.Child("namespace"), a.Namespace, validation.IsDNS1123Label(a.Namespace))...)
		}
	}
	return all
}

// validateStorage checks spec.storage: names, one default, and settings of each type.
func validateStorage(list []v1alpha1.Storage, p *field.Path) field.ErrorList {
	var all field.ErrorList
	first := "" // the default class
	for i, s := range list {
		at := p.Index(i)
		switch {
		case s.Name == "":
			all = append(all, field.Required(at.Child("name"), "the name of the storage class, such as local"))
		case slices.ContainsFunc(list[:i], func(o v1alpha1.Storage) bool { return o.Name == s.Name }):
			all = append(all, field.Duplicate(at.Child("name"), s.Name))
		default:
			all = append(all, invalid(at.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		if s.Default != nil && *s.Default {
			if first != "" {
				all = append(all, field.Invalid(at.Child("default"), true, fmt.Sprintf("one class can be the default, and %s is", first)))
			}
			first = s.Name
		}
		all = append(all, oneOf(s.ReclaimPolicy, at.Child("reclaimPolicy"), reclaimDelete, reclaimRetain)...)
		if f := oneOf(s.Type, at.Child("type"), v1alpha1.StorageLocal); len(f) > 0 {
			all = append(all, f...)
			continue
		}
		if slices.ContainsFunc(list[:i], func(o v1alpha1.Storage) bool { return o.Type == s.Type }) {
			all = append(all, field.Invalid(at.Child("type"), s.Type, "there is one storage of this type already"))
		}
		if s.Local != nil {
			all = append(all, validateFolder(s.Local.Path, at.Child("local", "path"))...)
		}
	}
	return all
}

// validateFolder refuses folders that are the system's, or whose content is.
func validateFolder(dir string, p *field.Path) field.ErrorList {
	if !path.IsAbs(dir) || path.Clean(dir) != dir {
		return field.ErrorList{field.Invalid(p, dir, "must be an absolute path without . and ..")}
	}
	for _, own := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/tmp", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/containerd", "/var/lib/cni", "/var/lib/kocli"} {
		if dir == own || strings.HasPrefix(dir, own+"/") {
			return field.ErrorList{field.Invalid(p, dir, "is in "+own+", which is the system's")}
		}
	}
	if slices.Contains([]string{"/", "/home", "/mnt", "/opt", "/srv", "/var", "/var/lib"}, dir) {
		return field.ErrorList{field.Invalid(p, dir, "must be a folder of its own")}
	}
	return nil
}
