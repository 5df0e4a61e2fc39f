// Package config reads cluster.yaml: it decodes strictly, fills in defaults
// and validates, and reports every fault at once with its field path and line.
// It also resolves the secrets that the file refers to.
//
// It works on the user's types (pkg/api/v1alpha1). It does not know kubeadm,
// hosts or preflight checks: what those have to say about a file is passed to
// Load as a Validator.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
)

// maxSize is the largest cluster.yaml that is read, in bytes. A thousand hosts
// with labels stay far below.
const maxSize = 4 << 20

// Validator finds faults in a cluster that has its defaults. The paths start
// at spec or metadata.
type Validator func(*v1alpha1.Cluster) field.ErrorList

// Load reads the cluster of a file, with defaults filled in. All faults are
// reported at once, as Problems inside a fault.Error with the code Usage.
func Load(path string, more ...Validator) (*v1alpha1.Cluster, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Usage,
			fmt.Sprintf("write one with: kocli init --profile single > %s", path), err)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "name a readable file with -f", err)
	}
	defer f.Close() //nolint:errcheck // only read
	return Read(path, f, more...)
}

// Read is Load from a reader; name stands for the file in messages.
func Read(name string, r io.Reader, more ...Validator) (*v1alpha1.Cluster, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fault.New(fault.Usage, "name a readable file with -f", fmt.Errorf("read %s: %w", name, err))
	}
	c, err := parse(data, more)
	if err != nil {
		return nil, &fault.Error{
			Op: name, Code: fault.Usage, Err: err,
			Hint: "correct the file, then: kocli validate -f " + name,
		}
	}
	return c, nil
}

// parse decodes, defaults and validates.
func parse(data []byte, more []Validator) (*v1alpha1.Cluster, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d MiB, which no cluster.yaml is", maxSize>>20)
	}
	doc, err := clusterDocument(data)
	if err != nil {
		var one Problem
		if errors.As(err, &one) {
			return nil, Problems{one}
		}
		return nil, err
	}
	c := &v1alpha1.Cluster{}
	d := newDecoder()
	d.decode(doc, c)
	Default(c)
	faults := Validate(c)
	for _, v := range more {
		faults = append(faults, v(c)...)
	}
	if p := d.problems(faults); len(p) > 0 {
		return nil, p
	}
	return c, nil
}

// Schema returns the JSON schema of cluster.yaml, made from the Go types.
func Schema() []byte { return v1alpha1.Schema() }
