package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// CABundle is what the API server verifies somebody else with whom it calls.
type CABundle struct {
	Name string // "validatingwebhookconfiguration/NAME: WEBHOOK", "apiservice/NAME"
	PEM  []byte
}

// CABundles lists the CAs of webhooks, of the conversion of custom resources, and of
// aggregated APIs. Kinds that the API server does not serve have none.
func (c *Client) CABundles(ctx context.Context) ([]CABundle, error) {
	validating, err1 := c.Typed.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	mutating, err2 := c.Typed.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	crds, err3 := c.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).List(ctx, metav1.ListOptions{})
	services, err4 := c.dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}).List(ctx, metav1.ListOptions{})
	var out []CABundle
	add := func(pem []byte, format string, args ...any) {
		if len(pem) > 0 {
			out = append(out, CABundle{fmt.Sprintf(format, args...), pem})
		}
	}
	if err1 == nil {
		for _, o := range validating.Items {
			for _, w := range o.Webhooks {
				add(w.ClientConfig.CABundle, "validatingwebhookconfiguration/%s: %s", o.Name, w.Name)
			}
		}
	}
	if err2 == nil {
		for _, o := range mutating.Items {
			for _, w := range o.Webhooks {
				add(w.ClientConfig.CABundle, "mutatingwebhookconfiguration/%s: %s", o.Name, w.Name)
			}
		}
	}
	if err3 == nil {
		for _, o := range crds.Items {
			add(bundleOf(o, "spec", "conversion", "webhook", "clientConfig", "caBundle"), "customresourcedefinition/%s", o.GetName())
		}
	}
	if err4 == nil {
		for _, o := range services.Items {
			add(bundleOf(o, "spec", "caBundle"), "apiservice/%s", o.GetName())
		}
	}
	var errs []error
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// bundleOf decodes a field of base64; nil where there is none.
func bundleOf(o unstructured.Unstructured, path ...string) []byte {
	text, found, err := unstructured.NestedString(o.Object, path...)
	if err != nil || !found {
		return nil
	}
	pem, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil // the API server takes none that is not
	}
	return pem
}
