// Package manifests holds the Kubernetes YAML that kocli applies. It is a leaf:
// rendering and applying are for whoever uses a file.
package manifests

import "embed"

// FS holds the manifests, as templates.
//
//go:embed *.yaml
var FS embed.FS
