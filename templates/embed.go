// Package templates holds files that kocli writes and for which no Go type
// exists, and the profiles of `kocli init`. It is a leaf: it imports nothing of
// kocli, and rendering is for whoever uses a file.
package templates

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed init
var initFS embed.FS

// initDir is where the profiles are.
const initDir = "init"

// Profile returns the commented cluster.yaml of a profile.
func Profile(name string) ([]byte, error) {
	for _, p := range Profiles() {
		if p == name {
			return initFS.ReadFile(path.Join(initDir, name+".yaml"))
		}
	}
	return nil, fmt.Errorf("unknown profile %q: there are %s", name, strings.Join(Profiles(), ", "))
}

// Profiles returns the names of the profiles, in alphabetical order.
func Profiles() []string {
	entries, err := fs.ReadDir(initFS, initDir)
	if err != nil {
		return nil // the folder is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

//go:embed bundle/bundle.yaml
var bundleYAML string

// Bundle returns a commented bundle.yaml for a version of Kubernetes.
func Bundle(kubernetes string) string {
	return strings.ReplaceAll(bundleYAML, "{kubernetes}", kubernetes)
}
