package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/kocli/kocli/pkg/fault"
)

// ConfigMap returns the data of a ConfigMap; nil where there is none.
func (c *Client) ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error) {
	m, err := c.Typed.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get configmap %s/%s: %w", namespace, name, err)
	}
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	return m.Data, nil
}

// SetConfigMap writes one key of a ConfigMap, which has to exist when create is
// false.
func (c *Client) SetConfigMap(ctx context.Context, namespace, name, key, value string, create bool) error {
	api := c.Typed.CoreV1().ConfigMaps(namespace)
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		m, err := api.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && create {
			_, err = api.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": FieldManager}},
				Data:       map[string]string{key: value},
			}, metav1.CreateOptions{FieldManager: FieldManager})
			return err
		}
		if err != nil {
			return err
		}
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[key] = value
		_, err = api.Update(ctx, m, metav1.UpdateOptions{FieldManager: FieldManager})
		return err
	})
}

// ErrFinal is wrapped by what Poll need not wait for: it does not pass by itself.
var ErrFinal = errors.New("waiting does not help")

// Poll calls ready every interval until it returns nil or ctx ends; then the
// last reason is the error. An error of the API is a reason like any other; a
// host that is lost is not: its connection does not come back. Nor is an ErrFinal.
func Poll(ctx context.Context, interval time.Duration, ready func(ctx context.Context) error) error {
	var last error
	for {
		err := ready(ctx)
		if err == nil || fault.CodeOf(err) == fault.Unreachable || errors.Is(err, ErrFinal) {
			return err
		}
		if last == nil || ctx.Err() == nil { // that time is up is no reason
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("no longer waiting: %w", last)
		case <-time.After(interval):
		}
	}
}

// Pods returns the pods that a label selector chooses.
func (c *Client) Pods(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	l, err := c.Typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	return l.Items, nil
}

// PodReady reports whether a pod is ready, and if not, why, in the words of its
// containers.
func PodReady(p *corev1.Pod) (bool, string) {
	if p.DeletionTimestamp != nil {
		return false, "is being deleted"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true, ""
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return false, c.Message
		}
	}
	var why []string
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			why = append(why, strings.TrimSpace(s.Name+": "+s.State.Waiting.Reason+" "+s.State.Waiting.Message))
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			why = append(why, fmt.Sprintf("%s: ended with %d %s", s.Name, s.State.Terminated.ExitCode, s.State.Terminated.Reason))
		}
	}
	if len(why) == 0 {
		why = append(why, string(p.Status.Phase))
	}
	return false, strings.Join(why, "; ")
}

// PodGet asks a pod over HTTP through the API server.
func (c *Client) PodGet(ctx context.Context, p *corev1.Pod, port int, path string, query map[string]string) ([]byte, error) {
	r := c.Typed.CoreV1().RESTClient().Get().Namespace(p.Namespace).Resource("pods").
		Name(fmt.Sprintf("%s:%d", p.Name, port)).SubResource("proxy").Suffix(path)
	for k, v := range query {
		r = r.Param(k, v)
	}
	return r.DoRaw(ctx)
}

// DaemonSetReady returns nil when every node that should run the pod runs it.
func (c *Client) DaemonSetReady(ctx context.Context, namespace, name string) error {
	d, err := c.Typed.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.DesiredNumberScheduled == 0 || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberAvailable < s.DesiredNumberScheduled {
		return fmt.Errorf("daemonset %s/%s: %d of %d pods are ready", namespace, name, s.NumberAvailable, s.DesiredNumberScheduled)
	}
	return nil
}

// DeploymentReady returns nil when all replicas are available.
func (c *Client) DeploymentReady(ctx context.Context, namespace, name string) error {
	d, err := c.Typed.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas < want || s.AvailableReplicas < want {
		return fmt.Errorf("deployment %s/%s: %d of %d replicas are ready", namespace, name, s.AvailableReplicas, want)
	}
	return nil
}

// Explain adds to an error why the pods of a workload are not ready.
func (c *Client) Explain(ctx context.Context, err error, namespace string, selector map[string]string) error {
	pods, perr := c.Pods(ctx, namespace, selector)
	if perr != nil {
		return err
	}
	for i := range pods {
		if ok, why := PodReady(&pods[i]); !ok {
			err = fmt.Errorf("%w; pod %s on %s: %s", err, pods[i].Name, pods[i].Spec.NodeName, why)
		}
	}
	return err
}

// TemplateAnnotation is an annotation of the pods of a DaemonSet; empty where there
// is none, or no such DaemonSet.
func (c *Client) TemplateAnnotation(ctx context.Context, namespace, name, key string) (string, error) {
	d, err := c.Typed.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("get daemonset %s/%s: %w", namespace, name, err)
	}
	return d.Spec.Template.Annotations[key], nil
}

// AnnotateTemplate sets an annotation on the pods of a DaemonSet, which replaces
// them one after another where the value is a new one.
func (c *Client) AnnotateTemplate(ctx context.Context, namespace, name, key, value string) error {
	patch, err := templateAnnotation(key, value)
	if err != nil {
		return err
	}
	_, err = c.Typed.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	return err
}
