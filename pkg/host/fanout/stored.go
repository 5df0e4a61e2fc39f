package fanout

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kocli/kocli/pkg/host"
)

// Stored asks a host which blobs it has: in its content store, and in folders of
// others as Relay takes them. The sizes, in bytes, are by digest.
func Stored(ctx context.Context, r host.Reader, also ...string) (map[string]int64, error) {
	argv := append([]string{"find", filepath.Join(Root(), "sha256")}, also...)
	c := host.Command(append(argv, "-maxdepth", "1", "-type", "f", "-printf", `%f %s\n`)...)
	c.Once = true // it changes while nothing else on the host does
	out, err := r.Query(ctx, c)
	var x *host.ExitError
	if err != nil && !errors.As(err, &x) { // find complains of folders that are not there
		return nil, err
	}
	have := map[string]int64{}
	for _, l := range strings.Split(out.Text(), "\n") {
		name, size, _ := strings.Cut(l, " ")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil && digestForm.MatchString("sha256:"+name) {
			have["sha256:"+name] = n
		}
	}
	return have, nil
}
