// Package v1alpha1 holds the types of cluster.yaml as the user writes them:
// apiVersion kocli.io/v1alpha1, kind Cluster. The comments of the fields are
// their documentation and the descriptions of the JSON schema, so they are
// written for the user.
//
// It owns shapes only. Decoding, defaults and validation are pkg/config's, and
// everything that works with a cluster uses pkg/inventory, the resolved view.
// It imports nothing of kocli and nothing of Kubernetes.
package v1alpha1

// APIVersion and Kind are what a cluster.yaml starts with.
const (
	APIVersion = "kocli.io/v1alpha1"
	Kind       = "Cluster"
)
