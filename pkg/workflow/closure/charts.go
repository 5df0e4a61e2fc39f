package closure

import (
	"fmt"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/kube/helm"
	"github.com/kocli/kocli/pkg/steps/addons"
)

// addons are the names of the add-ons that the cluster has.
func (in Input) addons() []string {
	if in.Addons == nil {
		return nil
	}
	return addon.Enabled(&in.Inventory.Spec, in.Addons)
}

// charts renders the add-ons of the cluster with their values, as an install would:
// the images that every host may be asked for, and the charts that the bundle lacks.
func (in Input) charts() (images, lacking []reference, err error) {
	if in.Addons == nil {
		return nil, nil, nil
	}
	for _, a := range addon.Declared(&in.Inventory.Spec, in.Addons) {
		if !a.Enabled {
			continue
		}
		where := "spec.addons"
		if a.Storage != "" {
			where = "spec.storage"
		}
		chart, err := a.Chart(in.Bundle, in.Inventory.Version())
		if err != nil {
			lacking = append(lacking, reference{archive.KindChart, a.Name, a.Want, where})
			continue
		}
		r, err := addons.Release(a, chart)
		if err != nil {
			return nil, nil, err
		}
		manifest, err := helm.Render(r, in.Inventory.Version())
		if err != nil {
			return nil, nil, fault.New(fault.Usage, "correct its values in the cluster YAML: kocli addon values "+a.Name, err)
		}
		refs, err := workloadImages(manifest)
		if err != nil {
			return nil, nil, fmt.Errorf("chart of %s: %w", a.Name, err)
		}
		images = append(images, refs...)
		if a.Health.Volume {
			check, err := addons.VolumeCheck(a.Class, a.Helper, "")
			if err != nil {
				return nil, nil, err
			}
			refs, err := workloadImages(check)
			if err != nil {
				return nil, nil, err
			}
			images = append(images, refs...)
		}
	}
	return images, lacking, nil
}
