package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// clusterDocument returns the root of the one document with content.
func clusterDocument(data []byte) (*yaml.Node, error) {
	var found *yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.New("not YAML: " + strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
			continue // nothing between two separators
		}
		root := doc.Content[0]
		if root.Kind != yaml.MappingNode {
			return nil, Problem{Line: root.Line, Message: "must be an object with apiVersion, kind, metadata and spec"}
		}
		if err := known(root); err != nil {
			return nil, err
		}
		if found != nil {
			return nil, Problem{Line: root.Line,
				Message: fmt.Sprintf("a second cluster; the first starts at line %d, and a file holds exactly one", found.Line)}
		}
		found = root
	}
	if found == nil {
		return nil, errors.New("holds no cluster")
	}
	return found, nil
}

// known refuses documents of another kind or version before their fields are
// called unknown one by one.
func known(root *yaml.Node) error {
	for _, want := range []struct{ field, value string }{
		{"kind", v1alpha1.Kind}, {"apiVersion", v1alpha1.APIVersion},
	} {
		v := child(root, want.field)
		if v == nil {
			return Problem{Path: want.field, Line: root.Line,
				Message: fmt.Sprintf("Required value: must be %q", want.value)}
		}
		if v.Value != want.value {
			return Problem{Path: want.field, Line: v.Line,
				Message: fmt.Sprintf("Unsupported value: %q: must be %q", v.Value, want.value)}
		}
	}
	return nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
