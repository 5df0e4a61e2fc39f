package kubeadm

import (
	"fmt"
	"reflect"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// KubeletConfig is the KubeletConfiguration that all nodes share, as YAML.
func KubeletConfig(inv *inventory.Inventory) ([]byte, error) { return render(componentConfigs(inv)[0]) }

// KubeletDiffers lists the fields that a KubeletConfiguration has otherwise than
// all nodes share them. What others filled in is not looked at.
func KubeletDiffers(have []byte, inv *inventory.Inventory) ([]string, error) {
	want, err := componentConfigs(inv)[0].merged()
	if err != nil {
		return nil, err
	}
	return differs(have, want, newKubelet)
}

// NodeKubeletDiffers is KubeletDiffers for the configuration of one node.
func NodeKubeletDiffers(have []byte, inv *inventory.Inventory, n inventory.Node, o NodeOptions) ([]string, error) {
	want, err := componentConfigs(inv)[0].merged()
	if err != nil {
		return nil, err
	}
	patch, err := KubeletPatch(n, o)
	if err != nil {
		return nil, err
	}
	var over v1alpha1.Object
	if err := yaml.Unmarshal(patch, &over); err != nil {
		return nil, err
	}
	return differs(have, merge(want, over), newKubelet)
}

// ProxyDiffers lists the fields that a KubeProxyConfiguration has otherwise.
func ProxyDiffers(have []byte, inv *inventory.Inventory) ([]string, error) {
	want, err := componentConfigs(inv)[1].merged()
	if err != nil {
		return nil, err
	}
	return differs(have, want, newKubeProxy)
}

// differs compares in the form that the type itself prints: "5m" is "5m0s".
func differs[T any](have []byte, want map[string]any, zero func() *T) ([]string, error) {
	h, err := typed(have, zero)
	if err != nil {
		return nil, err
	}
	data, err := yaml.Marshal(want)
	if err != nil {
		return nil, err
	}
	w, err := typed(data, zero)
	if err != nil {
		return nil, err
	}
	empty, err := toObject(zero())
	if err != nil {
		return nil, err
	}
	var out []string
	uncovered(h, prune(w, empty), "", &out)
	slices.Sort(out)
	return out, nil
}

func typed[T any](data []byte, zero func() *T) (v1alpha1.Object, error) {
	v := zero()
	if err := yaml.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("read %s: %w", reflect.TypeOf(v).Elem().Name(), err)
	}
	return toObject(v)
}

// uncovered collects the paths of what want has and have has not.
func uncovered(have, want map[string]any, at string, out *[]string) {
	for k, w := range want {
		h := have[k]
		wm, ok1 := w.(map[string]any)
		hm, ok2 := h.(map[string]any)
		switch {
		case ok1 && ok2:
			uncovered(hm, wm, at+k+".", out)
		case !reflect.DeepEqual(h, w):
			*out = append(*out, at+k)
		}
	}
}

// WithProxyConfig returns a KubeProxyConfiguration with the fields of the
// inventory laid over it: what kubeadm filled in, as where the kubeconfig is, stays.
func WithProxyConfig(have []byte, inv *inventory.Inventory) ([]byte, error) {
	var old v1alpha1.Object
	if err := yaml.Unmarshal(have, &old); err != nil {
		return nil, fmt.Errorf("read KubeProxyConfiguration: %w", err)
	}
	want, err := componentConfigs(inv)[1].merged()
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(merge(old, want))
}
