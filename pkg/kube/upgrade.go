package kube

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// controlPlaneTier is the label of kubeadm's static pods; component says which.
const controlPlaneTier = "tier=control-plane"

// tag is the tag of an image: "v1.36.3". A digest behind it is left out.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	return image[strings.LastIndex(image, ":")+1:]
}

// ControlPlaneAt returns nil when the API server, the controller manager and the
// scheduler of a node are ready, each at a version that is wanted.
func (c *Client) ControlPlaneAt(ctx context.Context, node string, wanted func(version string) bool) error {
	l, err := c.Typed.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: controlPlaneTier, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return fmt.Errorf("list the static pods of %s: %w", node, err)
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		found := false
		for i := range l.Items {
			p := &l.Items[i]
			if p.Labels["component"] != name || len(p.Spec.Containers) == 0 {
				continue
			}
			found = true
			if v := tag(p.Spec.Containers[0].Image); !wanted(v) {
				return fmt.Errorf("pod %s is still at %s", p.Name, v)
			}
			if ok, why := PodReady(p); !ok {
				return fmt.Errorf("pod %s: %s", p.Name, why)
			}
		}
		if !found {
			return fmt.Errorf("%s of %s is not there", name, node)
		}
	}
	return nil
}

// APIServers returns the versions of the API servers by node, as their static pods
// have them.
func (c *Client) APIServers(ctx context.Context) (map[string]string, error) {
	pods, err := c.Pods(ctx, "kube-system", map[string]string{"tier": "control-plane", "component": "kube-apiserver"})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, p := range pods {
		if len(p.Spec.Containers) > 0 {
			out[p.Spec.NodeName] = tag(p.Spec.Containers[0].Image)
		}
	}
	return out, nil
}

// Image returns the image of the first container of a Deployment or a DaemonSet, and
// why its pods are not all ready; no image where there is none.
func (c *Client) Image(ctx context.Context, kind, namespace, name string) (image string, unready, err error) {
	var t corev1.PodTemplateSpec
	if kind == "Deployment" {
		d, err := c.Typed.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil, nil
		}
		if err != nil {
			return "", nil, err
		}
		t, unready = d.Spec.Template, c.DeploymentReady(ctx, namespace, name)
	} else {
		d, err := c.Typed.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil, nil
		}
		if err != nil {
			return "", nil, err
		}
		t, unready = d.Spec.Template, c.DaemonSetReady(ctx, namespace, name)
	}
	if len(t.Spec.Containers) > 0 {
		image = t.Spec.Containers[0].Image
	}
	return image, unready, nil
}
