package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NewToken returns a random bootstrap token: six characters, a dot, sixteen.
func NewToken() string {
	s := strings.ToLower(rand.Text()) // base32 of 130 random bits: a-z and 2-7
	return s[:6] + "." + s[6:22]
}

// CreateToken makes a bootstrap token that nodes can join with until it expires.
func (c *Client) CreateToken(ctx context.Context, now time.Time, ttl time.Duration) (string, error) {
	token := NewToken()
	id, secret, _ := strings.Cut(token, ".")
	_, err := c.Typed.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"description":                    "made by kocli for a join",
			"token-id":                       id,
			"token-secret":                   secret,
			"expiration":                     now.Add(ttl).UTC().Format(time.RFC3339),
			"usage-bootstrap-authentication": "true",
			"usage-bootstrap-signing":        "true",
			"auth-extra-groups":              "system:bootstrappers:kubeadm:default-node-token",
		},
	}, metav1.CreateOptions{FieldManager: FieldManager})
	if err != nil {
		return "", fmt.Errorf("make bootstrap token: %w", err)
	}
	return token, nil
}

// DeleteToken takes a bootstrap token back.
func (c *Client) DeleteToken(ctx context.Context, token string) error {
	id, _, _ := strings.Cut(token, ".")
	return c.Typed.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, "bootstrap-token-"+id, metav1.DeleteOptions{})
}

// TokenExpiry returns when a bootstrap token ends to be valid; false where the
// cluster does not know it.
func (c *Client) TokenExpiry(ctx context.Context, token string) (time.Time, bool, error) {
	id, _, _ := strings.Cut(token, ".")
	s, err := c.Typed.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, "bootstrap-token-"+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("look for bootstrap token %s: %w", id, err)
	}
	at, err := time.Parse(time.RFC3339, string(s.Data["expiration"]))
	if err != nil {
		return time.Time{}, false, fmt.Errorf("expiration of bootstrap token %s: %w", id, err)
	}
	return at, true, nil
}
