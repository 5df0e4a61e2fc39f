package kube

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// DeprecatedRequest is an API that is deprecated and was asked for.
type DeprecatedRequest struct {
	API     string // "storage.k8s.io/v1beta1 volumeattributesclasses"
	Removed string // minor that does not serve it any more: "1.37"
}

const deprecatedMetric = "apiserver_requested_deprecated_apis{"

var metricLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)

// DeprecatedRequests asks an API server which deprecated APIs it was asked for since
// it started, of those whose removal is set.
func (c *Client) DeprecatedRequests(ctx context.Context) ([]DeprecatedRequest, error) {
	raw, err := c.Typed.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the metrics of the API server: %w", err)
	}
	var out []DeprecatedRequest
	s := bufio.NewScanner(bytes.NewReader(raw))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if !strings.HasPrefix(s.Text(), deprecatedMetric) {
			continue
		}
		l := map[string]string{}
		for _, m := range metricLabel.FindAllStringSubmatch(s.Text(), -1) {
			l[m[1]] = m[2]
		}
		r := DeprecatedRequest{
			API:     strings.TrimPrefix(l["group"]+"/"+l["version"], "/") + " " + strings.TrimSuffix(l["resource"]+"/"+l["subresource"], "/"),
			Removed: l["removed_release"],
		}
		if r.Removed != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, s.Err()
}

// fewObjects is how many objects are named.
const fewObjects = 5

// WrittenThrough counts the objects of a resource whose fields somebody owns through a
// version of its API, and names some. A resource that is not served at that version has
// none. They are listed through another version where there is one: API servers count
// who asks for one that goes, kocli too.
func (c *Client) WrittenThrough(ctx context.Context, group, version, resource string) (some []string, count int, err error) {
	through, err := c.besides(schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
	if err != nil || through.Empty() {
		return nil, 0, err
	}
	list, err := c.dynamic.Resource(through).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("list %s.%s/%s: %w", resource, group, through.Version, err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		if !slices.ContainsFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.APIVersion == group+"/"+version }) {
			continue
		}
		if count++; count <= fewObjects {
			some = append(some, strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))
		}
	}
	return some, count, nil
}

// besides is a version through which a resource is served beside the one that is named;
// that one itself where it is the only one, and nothing where it is not served.
func (c *Client) besides(named schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	all, err := c.mapper.ResourcesFor(schema.GroupVersionResource{Group: named.Group, Resource: named.Resource})
	if meta.IsNoMatchError(err) {
		return schema.GroupVersionResource{}, nil
	}
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("ask which APIs are served: %w", err)
	}
	if !slices.Contains(all, named) {
		return schema.GroupVersionResource{}, nil
	}
	for _, r := range all {
		if r.Group == named.Group && r.Resource == named.Resource && r != named {
			return r, nil
		}
	}
	return named, nil
}
