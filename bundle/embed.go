// Package bundle holds the catalogue: which component versions fit each
// version of Kubernetes, and where everything in a bundle comes from. It is
// data; pkg/archive/catalogue reads it. A leaf: it imports nothing of kocli.
package bundle

import _ "embed" // for the files

// Catalogue is catalogue.yaml.
//
//go:embed catalogue.yaml
var Catalogue []byte

// Upgrades is upgrades.yaml: what goes away with each version of Kubernetes.
// pkg/upgrade reads it.
//
//go:embed upgrades.yaml
var Upgrades []byte

// Addons is addons.yaml: what can run in a cluster beside Kubernetes.
// pkg/archive/catalogue reads it.
//
//go:embed addons.yaml
var Addons []byte
