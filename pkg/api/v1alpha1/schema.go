package v1alpha1

import (
	_ "embed"
	"slices"
)

//go:generate go test -run TestSchema_isCurrent -update .

//go:embed cluster.schema.json
var schema []byte

// Schema returns the JSON schema of Cluster. It is made from these types and
// their comments; a test keeps it current.
func Schema() []byte { return slices.Clone(schema) }
