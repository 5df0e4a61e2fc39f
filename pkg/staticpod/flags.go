package staticpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/host"
)

// flagLine finds a flag in a manifest as kubeadm writes it: a line of its own.
func flagLine(flag string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(\s*- --` + regexp.QuoteMeta(flag) + `=)(\S*)$`)
}

// Flag returns the value of a flag in a manifest of kubeadm's. An error where it is
// not there, or not once.
func Flag(manifest []byte, flag string) (string, error) {
	all := flagLine(flag).FindAllSubmatch(manifest, -1)
	if len(all) != 1 {
		return "", fmt.Errorf("the manifest has --%s %d times, and it has to be there once", flag, len(all))
	}
	return string(all[0][2]), nil
}

// WithFlags returns a manifest with other values of flags that it has, and all else
// byte for byte.
func WithFlags(manifest []byte, flags map[string]string) ([]byte, error) {
	for flag, value := range flags {
		if _, err := Flag(manifest, flag); err != nil {
			return nil, err
		}
		manifest = flagLine(flag).ReplaceAllFunc(manifest, func(line []byte) []byte {
			return append(flagLine(flag).FindSubmatch(line)[1], value...)
		})
	}
	return manifest, nil
}

// RunsWith reports whether a container of a name runs, and all of them were started
// with these flags.
func RunsWith(ctx context.Context, r host.Reader, container string, flags map[string]string) (bool, error) {
	tasks, err := running(ctx, r, container)
	if err != nil || len(tasks) == 0 {
		return false, err
	}
	for _, pid := range tasks {
		line, err := r.ReadFile(ctx, "/proc/"+pid+"/cmdline")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // it has ended
		}
		if err != nil {
			return false, err
		}
		argv := strings.Split(string(line), "\x00")
		for flag, value := range flags {
			if !slices.Contains(argv, "--"+flag+"="+value) {
				return false, nil
			}
		}
	}
	return true, nil
}
