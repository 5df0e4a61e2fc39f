package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Labels that kocli gives to the releases that it makes.
const (
	LabelAddon   = "kocli.io/addon"         // name of the add-on
	LabelChart   = "kocli.io/chart-digest"  // of the chart's manifest, its first 32 digits
	LabelVersion = "kocli.io/chart-version" // "_" stands for "+"
	LabelValues  = "kocli.io/values-digest" // of the values that were set, its first 32 digits
)

// StatusDeployed is that of a release that is whole.
const StatusDeployed = "deployed"

// Release is a Helm release at its latest revision, as its Secret is labelled.
type Release struct {
	Name, Namespace string
	Revision        int
	Status          string // Helm's own word: "deployed", "pending-install"
	Updated         time.Time
	Labels          map[string]string // beside Helm's own
}

// Releases lists the Helm releases of the cluster, by namespace and name.
func (c *Client) Releases(ctx context.Context) ([]Release, error) { return c.releases(ctx, "", "") }

// Release returns a release; nil where there is none.
func (c *Client) Release(ctx context.Context, namespace, name string) (*Release, error) {
	all, err := c.releases(ctx, namespace, ",name="+name)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

func (c *Client) releases(ctx context.Context, namespace, selector string) ([]Release, error) {
	l, err := c.Typed.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm" + selector, FieldSelector: "type=" + helmRelease})
	if err != nil {
		return nil, fmt.Errorf("list the releases of Helm: %w", err)
	}
	latest := map[types.NamespacedName]Release{}
	for i := range l.Items {
		s := &l.Items[i]
		r := Release{Name: s.Labels["name"], Namespace: s.Namespace, Status: s.Labels["status"], Labels: map[string]string{}}
		if r.Revision, err = strconv.Atoi(s.Labels["version"]); err != nil {
			continue // somebody else's
		}
		if at, err := strconv.ParseInt(cmp.Or(s.Labels["modifiedAt"], s.Labels["createdAt"]), 10, 64); err == nil {
			r.Updated = time.Unix(at, 0).UTC()
		}
		for k, v := range s.Labels {
			if strings.HasPrefix(k, "kocli.io/") {
				r.Labels[k] = v
			}
		}
		at := types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
		if old, ok := latest[at]; !ok || old.Revision < r.Revision {
			latest[at] = r
		}
	}
	var out []Release
	for _, r := range latest {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Release) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// EnsureNamespace makes a namespace that is not there.
func (c *Client) EnsureNamespace(ctx context.Context, name string) error {
	_, err := c.Typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q,"labels":{"app.kubernetes.io/managed-by":%q}}}`, name, FieldManager)
	force := true
	_, err = c.Typed.CoreV1().Namespaces().Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
	return err
}

// Answers asks a path of the API for a list, and returns the names of its items. An
// API server that has nobody behind the path is an error.
func (c *Client) Answers(ctx context.Context, path string) ([]string, error) {
	raw, err := c.Typed.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	var l struct {
		Items []struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		} `json:"items"`
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", path, err)
	}
	var out []string
	for _, it := range l.Items {
		out = append(out, it.Metadata.Name)
	}
	return out, nil
}

// ClaimsOf lists who has volumes of a provisioner, as "namespace/name" of the claims.
func (c *Client) ClaimsOf(ctx context.Context, provisioner string) ([]string, error) {
	l, err := c.Typed.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []string
	for i := range l.Items {
		v := &l.Items[i]
		if v.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner {
			continue
		}
		name := "volume " + v.Name
		if r := v.Spec.ClaimRef; r != nil {
			name = r.Namespace + "/" + r.Name
		}
		out = append(out, name)
	}
	return out, nil
}

// PodEnded returns nil when a pod has ended well. One that has failed is an ErrFinal.
func (c *Client) PodEnded(ctx context.Context, namespace, name string) error {
	p, err := c.Typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get pod %s/%s: %w", namespace, name, err)
	}
	_, why := PodReady(p)
	switch p.Status.Phase {
	case "Succeeded":
		return nil
	case "Failed":
		return errors.Join(fmt.Errorf("pod %s/%s failed: %s", namespace, name, cmp.Or(why, p.Status.Message)), ErrFinal)
	}
	return fmt.Errorf("pod %s/%s: %s", namespace, name, why)
}

// DropPod deletes a pod and waits until it is gone.
func (c *Client) DropPod(ctx context.Context, namespace, name string) error {
	pods := c.Typed.CoreV1().Pods(namespace)
	if _, err := pods.Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		return nil
	}
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s/%s: %w", namespace, name, err)
	}
	return Poll(ctx, time.Second, func(ctx context.Context) error {
		if _, err := pods.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(fmt.Errorf("pod %s/%s is not gone", namespace, name), err)
		}
		return nil
	})
}

// DropClaim deletes a claim and waits until its volume is gone, whatever the class does
// with volumes that nobody claims.
func (c *Client) DropClaim(ctx context.Context, namespace, name string) error {
	claims, volumes := c.Typed.CoreV1().PersistentVolumeClaims(namespace), c.Typed.CoreV1().PersistentVolumes()
	claim, err := claims.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	volume := claim.Spec.VolumeName
	if volume != "" {
		const patch = `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`
		_, err := volumes.Patch(ctx, volume, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: FieldManager})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("volume %s: %w", volume, err)
		}
	}
	if err := claims.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s/%s: %w", namespace, name, err)
	}
	return Poll(ctx, time.Second, func(ctx context.Context) error {
		if _, err := claims.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(fmt.Errorf("claim %s/%s is not gone", namespace, name), err)
		}
		if volume == "" {
			return nil
		}
		if _, err := volumes.Get(ctx, volume, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(fmt.Errorf("volume %s is not gone", volume), err)
		}
		return nil
	})
}
