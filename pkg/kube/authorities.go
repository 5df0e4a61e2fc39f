package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// rootCA is the ConfigMap that the controller manager keeps in every namespace: pods
// find the CA of the API server there.
const rootCA = "kube-root-ca.crt"

// RootCA is what the pods of a namespace trust.
type RootCA struct {
	PEM     string
	Changed time.Time // last, by the clock of an API server; zero where it does not say
}

// RootCAs returns what the pods of each namespace trust.
func (c *Client) RootCAs(ctx context.Context) (map[string]RootCA, error) {
	l, err := c.Typed.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + rootCA})
	if err != nil {
		return nil, fmt.Errorf("list what pods trust: %w", err)
	}
	out := map[string]RootCA{}
	for _, m := range l.Items {
		x := RootCA{PEM: m.Data["ca.crt"]}
		for _, f := range m.ManagedFields {
			if f.Time != nil && f.Time.After(x.Changed) {
				x.Changed = f.Time.Time
			}
		}
		out[m.Namespace] = x
	}
	return out, nil
}

// Template is a Deployment or a DaemonSet, and an annotation of its pods.
type Template struct {
	Kind, Namespace, Name string
	Value                 string
	Unready               error // why its pods are not all ready and of this template
}

// Templates lists the Deployments and DaemonSets of namespaces whose pods are given
// what they need to talk to the API, with an annotation of theirs.
func (c *Client) Templates(ctx context.Context, annotation string, namespaces ...string) ([]Template, error) {
	var out []Template
	add := func(kind string, m metav1.ObjectMeta, t corev1.PodTemplateSpec, ready func(context.Context, string, string) error) {
		if a := t.Spec.AutomountServiceAccountToken; a != nil && !*a {
			return
		}
		out = append(out, Template{kind, m.Namespace, m.Name, t.Annotations[annotation], ready(ctx, m.Namespace, m.Name)})
	}
	for _, ns := range namespaces {
		deps, err := c.Typed.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list deployments in %s: %w", ns, err)
		}
		for _, d := range deps.Items {
			add("Deployment", d.ObjectMeta, d.Spec.Template, c.DeploymentReady)
		}
		sets, err := c.Typed.AppsV1().DaemonSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list daemonsets in %s: %w", ns, err)
		}
		for _, d := range sets.Items {
			ready := c.DaemonSetReady
			if d.Status.ObservedGeneration >= d.Generation && d.Status.DesiredNumberScheduled == 0 {
				ready = func(context.Context, string, string) error { return nil } // for nodes that there are none of
			}
			add("DaemonSet", d.ObjectMeta, d.Spec.Template, ready)
		}
	}
	return out, nil
}

// Annotate sets an annotation on the pods of a Deployment or DaemonSet, which replaces
// them one after another where the value is a new one.
func (c *Client) Annotate(ctx context.Context, t Template, key, value string) error {
	if t.Kind == "DaemonSet" {
		return c.AnnotateTemplate(ctx, t.Namespace, t.Name, key, value)
	}
	patch, err := templateAnnotation(key, value)
	if err != nil {
		return err
	}
	_, err = c.Typed.AppsV1().Deployments(t.Namespace).Patch(ctx, t.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	return err
}

// templateAnnotation is a merge patch.
func templateAnnotation(key, value string) ([]byte, error) {
	return json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}}}})
}

// APIPod is a pod that is given what it needs to talk to the API.
type APIPod struct {
	Namespace, Name string
	Started         time.Time // its oldest container, by the clock of its node
}

// APIPods lists the pods that are given the CA of the API server, but those of some
// namespaces. Whether they use it nobody can tell.
func (c *Client) APIPods(ctx context.Context, but ...string) ([]APIPod, error) {
	l, err := c.Typed.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var out []APIPod
	for _, p := range l.Items {
		if slices.Contains(but, p.Namespace) || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || !slices.ContainsFunc(p.Spec.Volumes, hasRootCA) {
			continue
		}
		x := APIPod{Namespace: p.Namespace, Name: p.Name}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil && (x.Started.IsZero() || s.State.Running.StartedAt.Time.Before(x.Started)) {
				x.Started = s.State.Running.StartedAt.Time
			}
		}
		out = append(out, x)
	}
	return out, nil
}

func hasRootCA(v corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ConfigMap != nil && s.ConfigMap.Name == rootCA
	})
}
