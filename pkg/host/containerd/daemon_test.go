//go:build daemon

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/containerd"
)

// These tests run real daemons, which `make test-long` builds. The names of their
// folders, as in KOCLI_TEST_CONTAINERD=DIR:DIR, hold containerd and ctr.

// daemon is a containerd of its own in a private folder.
type daemon struct {
	t   *testing.T
	bin string
	dir string
	cmd *exec.Cmd
}

func newDaemon(t *testing.T, bin string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd") // an address has no room for long paths
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, bin: bin, dir: dir}
	// Neither pods nor networks: only content, snapshots and images.
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.podsandbox.controller.v1.podsandbox"]
[grpc]
address = %q
[ttrpc]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), d.socket(), filepath.Join(dir, "t"))
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(func() {
		d.kill()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "s") }

// start starts the daemon and waits until it answers.
func (d *daemon) start() {
	d.t.Helper()
	var said bytes.Buffer
	d.cmd = exec.Command(filepath.Join(d.bin, "containerd"), "-c", filepath.Join(d.dir, "config.toml"))
	d.cmd.Stderr = &said
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for range 300 {
		if c, err := client.New(d.socket(), client.WithTimeout(time.Second)); err == nil {
			ok, err := c.IsServing(d.t.Context())
			if err := errors.Join(err, c.Close()); ok && err == nil {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.kill()
	d.t.Fatalf("containerd does not answer: %s", said.String())
}

// kill ends the daemon as a loss of power does.
func (d *daemon) kill() {
	_ = d.cmd.Process.Signal(syscall.SIGKILL)
	_ = d.cmd.Wait() // it says that it was killed
}

// Run runs kocli node images.
func (d *daemon) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	conn, err := containerd.Connect(ctx, d.socket())
	if err != nil {
		return host.Output{}, err
	}
	err = errors.Join(containerd.Import(ctx, conn, c.Stdin, c.Stdout, filepath.Join(d.dir, "kocli")), conn.Close())
	return host.Output{}, err
}

// check holds what the daemon has against what it should have, as ctr sees it.
func (d *daemon) check(images []containerd.Image) {
	d.t.Helper()
	c, err := client.New(d.socket())
	if err != nil {
		d.t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(d.t.Context(), containerd.Namespace)
	for _, want := range images {
		im, err := c.GetImage(ctx, want.Ref)
		if err != nil {
			d.t.Error(err)
			continue
		}
		unpacked, err := im.IsUnpacked(ctx, "overlayfs")
		if err != nil || !unpacked || im.Target().Digest.String() != want.Blobs[0].Digest || im.Labels()["io.cri-containerd.pinned"] != "pinned" {
			d.t.Errorf("%s: unpacked %t, %s, %v, %v", want.Ref, unpacked, im.Target().Digest, im.Labels(), err)
		}
	}
	if err := c.Close(); err != nil {
		d.t.Error(err)
	}
	out, err := exec.Command(filepath.Join(d.bin, "ctr"), "-a", d.socket(), "-n", containerd.Namespace, "images", "check", "-q").Output()
	if lines := strings.Fields(string(out)); err != nil || len(lines) != len(images) {
		d.t.Errorf("ctr finds %d images complete, want %d: %v\n%s", len(lines), len(images), err, out)
	}
}

// each runs a test with every daemon.
func each(t *testing.T, test func(t *testing.T, d *daemon)) {
	t.Helper()
	bins := filepath.SplitList(os.Getenv("KOCLI_TEST_CONTAINERD"))
	if len(bins) == 0 {
		t.Fatal("KOCLI_TEST_CONTAINERD names no folders with containerd and ctr: run this with make test-long")
	}
	for _, bin := range bins {
		t.Run(filepath.Base(bin), func(t *testing.T) { test(t, newDaemon(t, bin)) })
	}
}

func TestDaemon_takesImagesInAndIsSentOnlyWhatItLacks(t *testing.T) {
	each(t, func(t *testing.T, d *daemon) {
		s := newSource()
		images := many(t, s, 8)
		push := func() int {
			s.asked = nil
			if err := containerd.Send(t.Context(), d, "kocli", request(s, images)); err != nil {
				t.Fatal(err)
			}
			return len(s.asked)
		}
		if n := push(); n != 8*3+1 { // each a manifest, a configuration and a layer, and the one that they share
			t.Errorf("%d blobs were sent", n)
		}
		d.check(images)
		images[2] = s.image(t, images[2].Ref, "base", "changed")
		if n := push(); n != 3 {
			t.Errorf("%d blobs were sent for the one image that changed", n)
		}
		d.check(images)
		if n := push(); n != 0 {
			t.Errorf("%d blobs were sent again", n)
		}
	})
}

func TestDaemon_killedInTheMiddleKeepsWhatArrived(t *testing.T) {
	each(t, func(t *testing.T, d *daemon) {
		s := newSource()
		images := many(t, s, 8)
		q := request(s, images)
		sent := 0
		q.Open = func(digest string) (*io.SectionReader, bool) {
			if sent++; sent == 14 {
				time.Sleep(500 * time.Millisecond) // what was sent is taken in
				d.kill()
			}
			return s.open(digest)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := containerd.Send(ctx, d, "kocli", q); err == nil {
			t.Fatal("nobody noticed that containerd was killed")
		}
		d.start()
		s.asked = nil
		if err := containerd.Send(t.Context(), d, "kocli", request(s, images)); err != nil {
			t.Fatal(err)
		}
		if n := len(s.asked); n == 0 || n > 8*3+1-10 {
			t.Errorf("%d blobs were sent again, of %d that were there", n, 13)
		}
		d.check(images)
	})
}
