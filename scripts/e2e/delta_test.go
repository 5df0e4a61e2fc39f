//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/frames"
)

// edition is a bundle in which a few things are others.
type edition struct {
	b     *archive.Bundle
	blobs map[string][]byte // those that the bundle has not
}

func (e *edition) put(data []byte) archive.Descriptor {
	sum := sha256.Sum256(data)
	d := archive.Descriptor{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
	e.blobs[d.Digest] = data
	return d
}

func (e *edition) open(digest string) (io.ReadCloser, error) {
	if data, ok := e.blobs[digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return e.b.OpenBlob(digest)
}

func (e *edition) read(t *testing.T, digest string) []byte {
	t.Helper()
	r, err := e.open(digest)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

// file makes a program one that runs and is another: bytes at its end mean nothing.
func (e *edition) file(t *testing.T, it *archive.Item) {
	t.Helper()
	data := append(e.read(t, it.Digest), "\nanother build\n"...)
	d := e.put(data)
	it.Digest, it.Size = d.Digest, d.Size
	if it.Stored == nil {
		return
	}
	z, err := frames.New()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := z.Write(t.Context(), &b, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	delete(e.blobs, d.Digest)
	stored := e.put(b.Bytes())
	it.Compress(stored.Digest, stored.Size)
}

// image makes an image one that unpacks to the same, under other digests: zeros at
// the end of its largest layer mean nothing.
func (e *edition) image(t *testing.T, it *archive.Item) {
	t.Helper()
	it.Blobs = slices.Clone(it.Blobs)
	layers := it.Blobs[2:]
	k := 0
	for i, l := range layers {
		if l.Size > layers[k].Size {
			k = i
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(e.read(t, layers[k].Digest)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	content = append(content, make([]byte, 1024)...)
	sum := sha256.Sum256(content)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err = w.Write(content)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	replace := func(i int, data []byte) {
		d := e.put(data)
		d.MediaType = it.Blobs[i].MediaType
		it.Blobs[i] = d
	}
	edit := func(i int, change func(doc map[string]any)) {
		var doc map[string]any
		if err := json.Unmarshal(e.read(t, it.Blobs[i].Digest), &doc); err != nil {
			t.Fatal(err)
		}
		change(doc)
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		replace(i, data)
	}
	replace(2+k, b.Bytes())
	edit(1, func(doc map[string]any) {
		doc["rootfs"].(map[string]any)["diff_ids"].([]any)[k] = "sha256:" + hex.EncodeToString(sum[:])
	})
	edit(0, func(doc map[string]any) {
		point := func(to any, d archive.Descriptor) {
			to.(map[string]any)["digest"], to.(map[string]any)["size"] = d.Digest, d.Size
		}
		point(doc["config"], it.Blobs[1])
		point(doc["layers"].([]any)[k], it.Blobs[2+k])
	})
	it.Digest, it.Size = it.Blobs[0].Digest, archive.ImageSize(it.Blobs)
}

// nextEdition writes a bundle with another build of the kubelet and of the image
// of kube-proxy, and returns how many bytes of it are new.
func nextEdition(t *testing.T, from, to string) (fresh int64) {
	t.Helper()
	b, err := archive.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	e := &edition{b, map[string][]byte{}}
	m := b.Manifest()
	m.Items = slices.Clone(m.Items)
	changed := 0
	for i := range m.Items {
		it := &m.Items[i]
		switch {
		case it.Kind == archive.KindBinary && it.Name == "kubelet":
			e.file(t, it)
		case it.Kind == archive.KindImage && strings.HasPrefix(it.Name, "registry.k8s.io/kube-proxy:"):
			e.image(t, it)
		default:
			continue
		}
		changed++
	}
	if changed != 2 {
		t.Fatalf("%d things were changed", changed)
	}
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = archive.Write(f, &m, e.open)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, data := range e.blobs {
		fresh += int64(len(data))
	}
	return fresh
}

// Hosts of a running cluster hold what they were made from, in containerd and as
// installed files: only a delta has to come to them.
func Test11_aDeltaInPlaceOfTheBundle(t *testing.T) {
	dir := filepath.Join(env(t, "KOCLI_E2E_WORK"), "delta")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	base, next, delta := env(t, "KOCLI_E2E_BUNDLE"), filepath.Join(dir, "next.tar"), filepath.Join(dir, "delta.tar")
	fresh := nextEdition(t, base, next)
	bundle(t, dir, 0, "delta", "--base", base, next, "--to", delta)
	st, err := os.Stat(delta)
	if err != nil {
		t.Fatal(err)
	}
	figure(t, "delta.bytes", st.Size())
	hosts := []string{"host1", "host2", "host3"}

	// Hosts that hold nothing: refused with a list, and nothing is changed.
	was := map[string]string{}
	for _, h := range hosts {
		was[h] = sh(t, h, inventory)
	}
	t.Setenv("KOCLI_E2E_BUNDLE", delta)
	if r := want(t, 6, "root", "bundle", "push"); !strings.Contains(r.err, "host1,host2,host3") && !strings.Contains(r.err, "host2,host3") ||
		!strings.Contains(r.err, "of kubelet") || !strings.Contains(r.err, "kocli bundle apply --base") {
		t.Errorf("what is nowhere is not listed:\n%s", r)
	}
	for _, h := range hosts {
		if now := sh(t, h, inventory); now != was[h] {
			t.Errorf("%s was changed:\n%s", h, difference(was[h], now))
		}
	}

	// A cluster of the base; then the delta, killed on the way and typed again.
	t.Setenv("KOCLI_E2E_BUNDLE", base)
	want(t, 0, "root", "create")
	t.Setenv("KOCLI_E2E_BUNDLE", delta)
	signalAt(t, "root", syscall.SIGKILL, func(e event) bool { return e.Kind == "step-started" && e.Step == "content/push" }, "bundle", "push")
	r := want(t, 0, "root", "bundle", "push", "-o", "json")
	e := lastLine(t, r.out)
	figure(t, "delta.push.seconds", r.took.Seconds())
	figure(t, "delta.push.bytes-sent", e.SentBytes)
	figure(t, "delta.push.bytes-in-whole-blobs", fresh)
	if e.SentBytes > fresh/10 || e.MadeBlobs == 0 {
		t.Errorf("%d bytes sent, %d blobs made, where %d bytes are new", e.SentBytes, e.MadeBlobs, fresh)
	}
	for _, h := range hosts {
		if got := sh(t, h, "pgrep -af '[k]ocli node' || :; ls /var/lib/kocli/content/part"); got != "" {
			t.Errorf("left on %s: %s", h, got)
		}
	}
	// The whole bundle has nothing to send, and all that the hosts made is what it says.
	t.Setenv("KOCLI_E2E_BUNDLE", next)
	if r := want(t, 0, "root", "bundle", "push"); !strings.Contains(r.out, "have what they need") {
		t.Errorf("a push of the whole:\n%s", r)
	}
	for _, h := range hosts {
		if got := sh(t, h, `cd /var/lib/kocli/content/sha256 && for f in *; do [ -e "$f" ] || continue; echo "$f  $f"; done | sha256sum -c --quiet 2>&1 || :`); got != "" {
			t.Errorf("on %s: %s", h, got)
		}
	}

	// It is what a create with the delta installs.
	t.Setenv("KOCLI_E2E_BUNDLE", delta)
	if e := lastLine(t, want(t, 0, "root", "create", "-o", "json").out); e.Changed == 0 {
		t.Error("nothing was installed")
	}
	for _, h := range hosts {
		if got := sh(t, h, "tail -n 1 /usr/bin/kubelet; ls /var/lib/kocli/content/sha256"); got != "another build" {
			t.Errorf("%s: %.200q", h, got)
		}
	}
	if e := lastLine(t, want(t, 0, "root", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	healthy(t, time.Minute)
	want(t, 0, "root", "reset", "--yes")
}
