package v1alpha1_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

var update = flag.Bool("update", false, "write what is generated")

func TestSchema_isCurrent(t *testing.T) {
	t.Chdir(filepath.Join("..", "..", ".."))
	r := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true}
	if err := r.AddGoComments("github.com/kocli/kocli", "./pkg/api/v1alpha1"); err != nil {
		t.Fatal(err)
	}
	for k, c := range r.CommentMap {
		r.CommentMap[k] = strings.Join(strings.Fields(c), " ")
	}
	s := r.Reflect(&v1alpha1.Cluster{})
	s.ID = "https://kocli.io/schemas/v1alpha1/cluster.json"
	s.Title = "kocli cluster.yaml"
	for _, d := range s.Definitions {
		if d.Properties == nil {
			continue
		}
		for p := d.Properties.Oldest(); p != nil; p = p.Next() {
			if p.Value.Description == "" && p.Value.Ref == "" {
				t.Errorf("field %s has no comment", p.Key)
			}
		}
	}
	want, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	path := filepath.Join("pkg", "api", "v1alpha1", "cluster.schema.json")
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, v1alpha1.Schema()) {
		t.Error("cluster.schema.json is behind the types: go generate ./pkg/api/...")
	}
}
