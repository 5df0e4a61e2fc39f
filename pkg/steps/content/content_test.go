package content_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/patch"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/content"
)

// relayed is a machine in memory on which a relay really runs, in a folder that
// is copied into the machine afterwards.
type relayed struct {
	*hosttest.Machine
	dir  string
	also string // of blobs that others hold
}

func (h relayed) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	if c.Argv[0] != "relay" && c.Argv[0] != "apply" {
		return h.Machine.Run(ctx, c)
	}
	var err error
	cut := h.Do("run "+c.Argv[0], func() error {
		if c.Argv[0] == "apply" {
			err = patch.Apply(ctx, c.Stdin, c.Stdout, h.dir, h.also)
			return nil
		}
		err = fanout.Relay(ctx, c.Stdin, c.Stdout, h.dir)
		return nil
	})
	if r, ok := c.Stdin.(io.Closer); ok {
		_ = r.Close()
	}
	if err != nil && c.Argv[0] == "apply" { // as the process says it
		err = &host.ExitError{Cmd: "apply", Code: int(fault.CodeOf(err)), Stderr: []byte(err.Error())}
	}
	for _, p := range h.Files() {
		if strings.HasPrefix(p, fanout.Root()) {
			h.Delete(p)
		}
	}
	err = errors.Join(err, cut)
	walk := filepath.WalkDir(h.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		data, err := os.ReadFile(p)
		h.Write(filepath.Join(fanout.Root(), strings.TrimPrefix(p, h.dir)), 0o600, string(data))
		return err
	})
	return host.Output{}, errors.Join(err, walk)
}

// hosts is the dialer of a world.
type hosts map[string]relayed

func (d hosts) Look(_ context.Context, node string) (host.Reader, error) {
	return host.NewBatch(node, d[node].Machine, 200*time.Microsecond), nil
}

func (d hosts) Dial(_ context.Context, node string) (host.Host, error) { return d[node], nil }

// blob is content of a test's bundle.
func blob(text string) (host.File, fanout.Item) {
	sum := sha256.Sum256([]byte(text))
	f := host.Bytes("/usr/bin/"+text, 0o755, []byte(text))
	return f, fanout.Item{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(text)), Content: bytes.NewReader([]byte(text))}
}

func digestOf(f host.File) string { d, _ := f.Blob(); return d }

// world has two hosts that need two files of the bundle and one that is none of it.
func world(t *testing.T, mode fanout.Mode) (plan.Step, hosts, []host.File) {
	t.Helper()
	a, itemA := blob("kubelet")
	b, itemB := blob("runc")
	items := map[string]fanout.Item{itemA.Digest: itemA, itemB.Digest: itemB}
	files := []host.File{a, b, host.Bytes("/etc/rendered", 0o644, []byte("x"))}
	install := converge.Files{Name: "test/files", List: func(context.Context, host.Reader) ([]host.File, error) { return files, nil }}
	d := hosts{}
	o := content.Options{
		Dialer: d, Mode: mode, Now: time.Now, Relay: []string{"relay"},
		Item: func(digest string) (fanout.Item, bool) { it, ok := items[digest]; return it, ok },
	}
	for _, n := range []string{"n1", "n2"} {
		m := hosttest.New(n)
		m.OnDial((&net.Dialer{}).DialContext)
		d[n] = relayed{m, filepath.Join(t.TempDir(), n), ""}
		o.Nodes = append(o.Nodes, content.Node{Name: n, IP: "127.0.0.1", Steps: []plan.Step{install}})
	}
	return content.Push(o), d, files[:2]
}

func TestPush_converges(t *testing.T) {
	for _, mode := range []fanout.Mode{fanout.SSH, fanout.Chain} {
		t.Run(string(mode), func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				s, d, _ := world(t, mode)
				return plantest.World{Step: s, Host: d["n1"].Machine, State: func() string { return strings.Join(d["n2"].Files(), "\n") }}
			})
		})
	}
}

func TestPush_sendsWhatIsInTheBundleAndLacking(t *testing.T) {
	s, d, files := world(t, fanout.Chain)
	d["n2"].Write(files[0].Path, 0o755, "kubelet") // installed already
	changes, err := s.Check(t.Context(), d["n1"])
	if err != nil || len(changes) != 2 || changes[0].Bytes != int64(len("kubelet")+len("runc")) || changes[1].Bytes != int64(len("runc")) {
		t.Fatalf("%v, %v", changes, err)
	}
	if err := s.Apply(t.Context(), d["n1"]); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[string]int{"n1": 2, "n2": 1} {
		have, err := fanout.Stored(t.Context(), d[n])
		if err != nil || len(have) != want || have[digestOf(files[1])] != 4 {
			t.Errorf("%s: %v, %v", n, have, err)
		}
	}
}
