package kube

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"
)

// KeepConfigMap returns a ConfigMap as PutBackConfigMap takes it: YAML that kubectl reads
// too, with its data and its annotations. Nil where there is none.
func (c *Client) KeepConfigMap(ctx context.Context, namespace, name string) ([]byte, error) {
	m, err := c.Typed.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get configmap %s/%s: %w", namespace, name, err)
	}
	return yaml.Marshal(corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: m.Labels, Annotations: m.Annotations},
		Data:       m.Data,
	})
}

// PutBackConfigMap has a ConfigMap have the data and the annotations that were kept:
// kubeadm signs what it made itself in one of them. It writes nothing where they are so.
func (c *Client) PutBackConfigMap(ctx context.Context, kept []byte) error {
	var old corev1.ConfigMap
	if err := yaml.UnmarshalStrict(kept, &old); err != nil {
		return fmt.Errorf("read the configmap that was kept: %w", err)
	}
	api := c.Typed.CoreV1().ConfigMaps(old.Namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		m, err := api.Get(ctx, old.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = api.Create(ctx, &old, metav1.CreateOptions{FieldManager: FieldManager})
			return err
		}
		if err != nil || maps.Equal(m.Data, old.Data) && maps.Equal(m.Annotations, old.Annotations) {
			return err
		}
		m.Data, m.Annotations = old.Data, old.Annotations
		_, err = api.Update(ctx, m, metav1.UpdateOptions{FieldManager: FieldManager})
		return err
	})
	if err != nil {
		return fmt.Errorf("put configmap %s/%s back: %w", old.Namespace, old.Name, err)
	}
	return nil
}
