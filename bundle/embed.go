// Package bundle holds the catalogue: which component versions fit each
// version of Kubernetes, and where everything in a bundle comes from. It is
// data; pkg/archive/catalogue reads it. A leaf: it imports nothing of kocli.
package bundle

import _ "embed" // for Catalogue

// Catalogue is catalogue.yaml.
//
//go:embed catalogue.yaml
var Catalogue []byte
