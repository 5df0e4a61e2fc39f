package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Workload is a component of the cluster, and how many of its pods are ready.
type Workload struct {
	Kind      string `json:"kind"` // Deployment, DaemonSet, or Pod for a static pod
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Want      int    `json:"want"`
	Have      int    `json:"ready"`
	Reason    string `json:"reason,omitempty"` // why not all are ready
}

// Ready reports whether all pods that should be there are ready.
func (w Workload) Ready() bool { return w.Have >= w.Want && w.Reason == "" }

// Workloads looks at the control plane's static pods, deployments and
// daemonsets of namespaces, in that order. A namespace that does not exist has
// none.
func (c *Client) Workloads(ctx context.Context, namespaces ...string) ([]Workload, error) {
	var out []Workload
	for _, ns := range namespaces {
		pods, err := c.Pods(ctx, ns, nil)
		if err != nil {
			return nil, err
		}
		for i := range pods {
			if pods[i].Labels["tier"] == "control-plane" {
				out = append(out, staticPod(&pods[i]))
			}
		}
		deps, err := c.Typed.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list deployments in %s: %w", ns, err)
		}
		for _, d := range deps.Items {
			want := 1
			if d.Spec.Replicas != nil {
				want = int(*d.Spec.Replicas)
			}
			out = append(out, workload("Deployment", d.ObjectMeta, d.Spec.Selector, want, int(d.Status.AvailableReplicas), pods))
		}
		sets, err := c.Typed.AppsV1().DaemonSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list daemonsets in %s: %w", ns, err)
		}
		for _, d := range sets.Items {
			out = append(out, workload("DaemonSet", d.ObjectMeta, d.Spec.Selector, int(d.Status.DesiredNumberScheduled), int(d.Status.NumberAvailable), pods))
		}
	}
	return out, nil
}

func staticPod(p *corev1.Pod) Workload {
	w := Workload{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, Want: 1, Have: 1}
	if ok, why := PodReady(p); !ok {
		w.Have, w.Reason = 0, why
	}
	return w
}

// workload asks the pods for the reason where some are not ready.
func workload(kind string, m metav1.ObjectMeta, selector *metav1.LabelSelector, want, have int, pods []corev1.Pod) Workload {
	w := Workload{Kind: kind, Namespace: m.Namespace, Name: m.Name, Want: want, Have: have}
	if have >= want {
		return w
	}
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		sel = labels.Nothing()
	}
	var why []string
	for i := range pods {
		p := &pods[i]
		if !sel.Matches(labels.Set(p.Labels)) {
			continue
		}
		if ok, reason := PodReady(p); !ok {
			where := p.Spec.NodeName
			if where == "" {
				where = "no node"
			}
			why = append(why, fmt.Sprintf("%s on %s: %s", p.Name, where, reason))
		}
	}
	if len(why) == 0 {
		why = append(why, fmt.Sprintf("%d of %d pods are ready", have, want))
	}
	w.Reason = strings.Join(why, "; ")
	return w
}

// Version returns the version of the API server.
func (c *Client) Version(ctx context.Context) (string, error) {
	raw, err := c.Typed.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return "", err
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("read version: %w", err)
	}
	return v.GitVersion, nil
}

// NodeRoles returns the roles that the labels of a node name, sorted.
func NodeRoles(n *corev1.Node) []string {
	var out []string
	for l := range n.Labels {
		if role, ok := strings.CutPrefix(l, "node-role.kubernetes.io/"); ok && role != "" {
			out = append(out, role)
		}
	}
	slices.Sort(out)
	return out
}

// InternalIP is the address that a node is reached by from others; empty where it
// has not said.
func InternalIP(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}
