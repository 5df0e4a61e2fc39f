package containerd_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/containerd"
	"github.com/kocli/kocli/pkg/host/fanout"
)

// machine is a host whose containerd is in this process: containerd's own
// stores, in a folder, without the daemon around them.
type machine struct {
	t      *testing.T
	dir    string
	client *client.Client
	db     *metadata.DB
	store  *flaky
	limit  int64        // bytes after which the stream is cut; negative: never
	got    atomic.Int64 // bytes that came
}

// flaky is a content store that can fail.
type flaky struct {
	content.Store
	fail atomic.Pointer[func(digest string) error]
}

func (f *flaky) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if fail := f.fail.Load(); fail != nil {
		if err := (*fail)(o.Desc.Digest.String()); err != nil {
			return nil, err
		}
	}
	return f.Store.Writer(ctx, opts...)
}

// where tells where the content store stands, as the daemon's introspection does.
type where struct {
	introspection.Service
	root string
}

func (w where) Plugins(context.Context, ...string) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{Plugins: []*introspectionapi.Plugin{{Exports: map[string]string{"root": w.root}}}}, nil
}

// differ applies, and never compares.
type differ struct {
	diff.Applier
	diff.Comparer
}

func newMachine(t *testing.T, dir string) *machine {
	t.Helper()
	m := &machine{t: t, dir: dir, limit: -1}
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.db = metadata.NewDB(db, cs, map[string]snapshots.Snapshotter{"overlayfs": sn})
	if err := m.db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(sn.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	m.store = &flaky{Store: m.db.ContentStore()}
	m.client, err = client.New("", client.WithServices(
		client.WithContentStore(m.store),
		client.WithSnapshotters(map[string]snapshots.Snapshotter{"overlayfs": m.db.Snapshotter("overlayfs")}),
		client.WithImageStore(metadata.NewImageStore(m.db)), client.WithLeasesService(metadata.NewLeaseManager(m.db)),
		client.WithDiffService(differ{Applier: apply.NewFileSystemApplier(m.store)}),
		client.WithIntrospectionService(where{root: filepath.Join(dir, "content")}),
	))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) ctx() context.Context {
	return namespaces.WithNamespace(m.t.Context(), containerd.Namespace)
}

// root is kocli's content store.
func (m *machine) root() string { return filepath.Join(m.dir, "kocli") }

// Run runs kocli node images.
func (m *machine) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	in := &cutter{r: c.Stdin, m: m}
	if err := containerd.Import(ctx, m.client, in, c.Stdout, m.root()); err != nil {
		return host.Output{}, &host.ExitError{Cmd: c.String(), Code: int(fault.CodeOf(err)), Stderr: []byte(err.Error() + " " + fault.HintOf(err))}
	}
	return host.Output{}, nil
}

// cutter counts what comes, and ends the stream where it is to be cut.
type cutter struct {
	r io.Reader
	m *machine
}

func (c *cutter) Read(p []byte) (int, error) {
	if c.m.limit >= 0 {
		if c.m.limit == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		p = p[:min(int64(len(p)), c.m.limit)]
	}
	n, err := c.r.Read(p)
	c.m.got.Add(int64(n))
	if c.m.limit >= 0 {
		c.m.limit -= int64(n)
	}
	return n, err
}

// source is a bundle's content.
type source struct {
	mu    sync.Mutex
	blobs map[string][]byte
	asked []string
}

func (s *source) add(mediaType string, data []byte) containerd.Blob {
	sum := sha256.Sum256(data)
	d := "sha256:" + hex.EncodeToString(sum[:])
	s.blobs[d] = data
	return containerd.Blob{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (s *source) open(d string) (*io.SectionReader, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, d)
	data, ok := s.blobs[d]
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), ok
}

// image makes an image whose layers hold a file each; one that was made before is
// shared.
func (s *source) image(t *testing.T, ref string, files ...string) containerd.Image {
	t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	var layers []containerd.Blob
	diffs := []string{}
	for _, f := range files {
		var plain, packed bytes.Buffer
		tw := tar.NewWriter(&plain)
		data := strings.Repeat(f, 2000)
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f, Size: int64(len(data)), Mode: 0o644})
		if err == nil {
			_, err = io.WriteString(tw, data)
		}
		zw := gzip.NewWriter(&packed)
		if err := errors.Join(err, tw.Close()); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(plain.Bytes())
		diffs = append(diffs, "sha256:"+hex.EncodeToString(sum[:]))
		if _, err := plain.WriteTo(zw); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, s.add("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes()))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"REF=" + ref}}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := s.add("application/vnd.oci.image.config.v1+json", config)
	list := []descriptor{}
	for _, l := range layers {
		list = append(list, descriptor(l))
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor(c), "layers": list})
	if err != nil {
		t.Fatal(err)
	}
	return containerd.Image{Ref: ref, Blobs: append([]containerd.Blob{s.add("application/vnd.oci.image.manifest.v1+json", manifest), c}, layers...)}
}

func newSource() *source { return &source{blobs: map[string][]byte{}} }

// many are images that share their first layer.
func many(t *testing.T, s *source, n int) []containerd.Image {
	t.Helper()
	var out []containerd.Image
	for k := range n {
		out = append(out, s.image(t, fmt.Sprintf("registry.k8s.io/i%d:v1", k), "base", fmt.Sprintf("file%d", k)))
	}
	return out
}

func request(s *source, images []containerd.Image) containerd.Request {
	return containerd.Request{Images: images, Labels: map[string]string{"io.cri-containerd.pinned": "pinned"}, Open: s.open}
}

func send(t *testing.T, m *machine, s *source, images []containerd.Image) []string {
	t.Helper()
	s.asked = nil
	if err := containerd.Send(t.Context(), m, "kocli", request(s, images)); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(s.asked)
}

// check holds what containerd has against what it should have, after its garbage
// collector went through it.
func (m *machine) check(images []containerd.Image) {
	m.t.Helper()
	if _, err := m.db.GarbageCollect(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	list, err := m.client.ImageService().List(m.ctx())
	if err != nil || len(list) != len(images) {
		m.t.Errorf("%d images of %d, %v", len(list), len(images), err)
	}
	for _, want := range images {
		im, err := m.client.GetImage(m.ctx(), want.Ref)
		if err != nil {
			m.t.Error(err)
			continue
		}
		if im.Target().Digest.String() != want.Blobs[0].Digest || im.Labels()["io.cri-containerd.pinned"] != "pinned" {
			m.t.Errorf("%s: %s, %v", want.Ref, im.Target().Digest, im.Labels())
		}
		if ok, err := im.IsUnpacked(m.ctx(), "overlayfs"); err != nil || !ok {
			m.t.Errorf("%s is not unpacked: %v", want.Ref, err)
		}
		for _, b := range want.Blobs {
			if _, err := m.store.Info(m.ctx(), im.Target().Digest); err != nil {
				m.t.Errorf("%s lost %s: %v", want.Ref, b.Digest, err)
			}
		}
		ids, err := im.RootFS(m.ctx())
		if err != nil || len(ids) != len(want.Blobs)-2 {
			m.t.Errorf("%s: layers %v, %v", want.Ref, ids, err)
		}
	}
}

func TestImport_imagesAreUnpackedPinnedAndKept(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 12)
	images = append(images, s.image(t, "docker.io/library/same:1", "base")) // all of it is in the others
	send(t, m, s, images)
	m.check(images)

	// What an image holds is what its layers held.
	im, err := m.client.GetImage(m.ctx(), images[3].Ref)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := m.client.SnapshotService("overlayfs").View(m.ctx(), "look", chainID(t, im, m.ctx()))
	if err != nil {
		t.Fatal(err)
	}
	err = mount.WithTempMount(m.ctx(), mounts, func(root string) error {
		for _, f := range []string{"base", "file3"} {
			data, err := os.ReadFile(filepath.Join(root, f))
			if err != nil || string(data) != strings.Repeat(f, 2000) {
				t.Errorf("%s: %d bytes, %v", f, len(data), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// Nothing is asked for twice.
	before := m.got.Load()
	if asked := send(t, m, s, images); len(asked) > 0 || m.got.Load()-before > 16<<10 {
		t.Errorf("asked for %v again, %d bytes came", asked, m.got.Load()-before)
	}
	if leases, err := m.client.LeasesService().List(m.ctx()); err != nil || len(leases) > 0 {
		t.Errorf("leases are left: %v, %v", leases, err)
	}
}

func chainID(t *testing.T, im client.Image, ctx context.Context) string {
	t.Helper()
	c, err := im.Config(ctx)
	if err != nil {
		t.Fatal(err)
	}
	info, err := im.ContentStore().Info(ctx, c.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return info.Labels["containerd.io/gc.ref.snapshot.overlayfs"]
}

func TestImport_twoOfManyThatChangedBringTheirOwnBlobsOnly(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 20)
	send(t, m, s, images)
	for _, k := range []int{4, 17} {
		images[k] = s.image(t, images[k].Ref, "base", fmt.Sprintf("newer%d", k))
	}
	asked := send(t, m, s, images)
	if len(asked) != 2*3 { // a manifest, a configuration and a layer each
		t.Errorf("asked for %d blobs", len(asked))
	}
	m.check(images)
}

func TestImport_takesWhatKocliHasStored(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 3)
	var put []string
	for _, b := range images[0].Blobs {
		put = append(put, keep(t, m, b.Digest, s.blobs[b.Digest]))
	}
	rotten := images[1].Blobs[2+1].Digest
	data := bytes.Clone(s.blobs[rotten])
	data[len(data)/2] ^= 1
	bad := keep(t, m, rotten, data)

	err := containerd.Send(t.Context(), m, "kocli", request(s, images))
	if fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "is damaged, and is removed") {
		t.Errorf("a damaged blob in the store: %v", err)
	}
	if _, err := os.Stat(bad); err == nil {
		t.Error("the damaged blob is still there")
	}
	asked := send(t, m, s, images)
	if slices.Contains(asked, images[0].Blobs[3].Digest) || !slices.Contains(asked, rotten) {
		t.Errorf("asked for %v", asked)
	}
	m.check(images)
	for _, name := range put {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is still in kocli's store", name)
		}
	}
}

func keep(t *testing.T, m *machine, digest string, data []byte) string {
	t.Helper()
	name := fanout.Path(m.root(), digest)
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestImport_cutAnywhereNamesNothingHalfAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := newSource()
	images := many(t, s, 3)
	whole := newMachine(t, filepath.Join(dir, "whole"))
	send(t, whole, s, images)
	total := whole.got.Load()
	for cut := int64(0); cut < total; cut += total/9 + 1 {
		m := newMachine(t, filepath.Join(dir, fmt.Sprint(cut)))
		m.limit = cut
		if err := containerd.Send(t.Context(), m, "kocli", request(s, images)); err == nil {
			t.Fatalf("cut at %d: no error", cut)
		}
		list, err := m.client.ListImages(m.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range list {
			if ok, err := im.IsUnpacked(m.ctx(), "overlayfs"); err != nil || !ok {
				t.Errorf("cut at %d: %s is named and not unpacked: %v", cut, im.Name(), err)
			}
		}
		if _, err := m.db.GarbageCollect(t.Context()); err != nil { // what has arrived survives it
			t.Fatal(err)
		}
		var there []string
		err = m.store.Walk(m.ctx(), func(i content.Info) error { there = append(there, i.Digest.String()); return nil })
		if err != nil {
			t.Fatal(err)
		}
		m.limit = -1
		asked := send(t, m, s, images)
		if len(asked) != len(s.blobs)-len(there) {
			t.Errorf("cut at %d: %d of %d blobs were there, and %d were sent again", cut, len(there), len(s.blobs), len(asked))
		}
		m.check(images)
	}
}

func TestImport_refusesBytesThatAreNotWhatTheirDigestSays(t *testing.T) {
	for k, what := range []string{"manifest", "configuration", "first layer", "last layer"} {
		m, s := newMachine(t, t.TempDir()), newSource()
		images := many(t, s, 1)
		wrong := images[0].Blobs[k].Digest
		right := s.blobs[wrong]
		s.blobs[wrong] = bytes.Clone(right)
		s.blobs[wrong][len(right)/2] ^= 1
		err := containerd.Send(t.Context(), m, "kocli", request(s, images))
		if fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), wrong) || !strings.Contains(fault.HintOf(err), "bundle verify") {
			t.Errorf("%s: %v, hint %q", what, err, fault.HintOf(err))
		}
		if list, err := m.client.ListImages(m.ctx()); err != nil || len(list) > 0 {
			t.Errorf("%s: it is named: %v", what, err)
		}
		s.blobs[wrong] = right
		send(t, m, s, images)
		m.check(images)
	}
}

func TestImport_refusesOrdersAndPiecesThatMeanNothing(t *testing.T) {
	s := newSource()
	im := s.image(t, "registry.k8s.io/pause:1", "base")
	order := func(change func(*containerd.Image)) string {
		c := containerd.Image{Ref: im.Ref, Blobs: slices.Clone(im.Blobs)}
		change(&c)
		data, err := json.Marshal(map[string]any{"images": []containerd.Image{c}})
		if err != nil {
			t.Fatal(err)
		}
		return string(data) + "\n"
	}
	right := order(func(*containerd.Image) {})
	for name, stream := range map[string]string{
		"nothing":                        "",
		"no JSON":                        "hello\n",
		"no name":                        order(func(c *containerd.Image) { c.Ref = "" }),
		"no configuration":               order(func(c *containerd.Image) { c.Blobs = c.Blobs[:1] }),
		"a digest of another algorithm":  order(func(c *containerd.Image) { c.Blobs[1].Digest = "sha512:" + strings.Repeat("a", 128) }),
		"a path as digest":               order(func(c *containerd.Image) { c.Blobs[1].Digest = "sha256:../../../../etc/passwd" }),
		"a negative size":                order(func(c *containerd.Image) { c.Blobs[1].Size = -1 }),
		"a blob of two sizes":            order(func(c *containerd.Image) { c.Blobs = append(c.Blobs, c.Blobs[1]); c.Blobs[1].Size++ }),
		"an end before anything":         right + `{"end":true}` + "\n",
		"bytes that nobody asked for":    right + `{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}` + "\nx",
		"a blob of another size":         right + fmt.Sprintf(`{"digest":%q,"size":1}`, im.Blobs[0].Digest) + "\nx",
		"a blob that is cut off":         right + fmt.Sprintf(`{"digest":%q,"size":%d}`, im.Blobs[0].Digest, im.Blobs[0].Size) + "\nx",
		"a line that does not end":       right + strings.Repeat("x", 100_000),
		"a line that is longer than all": strings.Repeat("x", 17<<20),
	} {
		m := newMachine(t, t.TempDir())
		if err := containerd.Import(t.Context(), m.client, strings.NewReader(stream), io.Discard, m.root()); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if list, err := m.client.ListImages(m.ctx()); err != nil || len(list) > 0 {
			t.Errorf("%s: %d images, %v", name, len(list), err)
		}
	}
}

func TestImport_aContainerdThatIsRestartedKeepsWhatArrived(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 4)
	away := images[2].Blobs[3].Digest
	fail := func(d string) error {
		if d == away {
			return fmt.Errorf("connection error: %w", errdefs.ErrInternal)
		}
		return nil
	}
	m.store.fail.Store(&fail)
	if err := containerd.Send(t.Context(), m, "kocli", request(s, images)); err == nil {
		t.Fatal("no error")
	}
	m.store.fail.Store(nil)
	if _, err := m.db.GarbageCollect(t.Context()); err != nil { // as a restart does
		t.Fatal(err)
	}
	asked := send(t, m, s, images)
	if !slices.Contains(asked, away) || slices.Contains(asked, images[0].Blobs[3].Digest) || len(asked) >= len(s.blobs) {
		t.Errorf("%d of %d blobs were sent again", len(asked), len(s.blobs))
	}
	m.check(images)
}

// small is a folder on a disk of its own.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("this test mounts a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestImport_aDiskWithoutRoomIsRefusedBeforeAnythingComes(t *testing.T) {
	m, s := newMachine(t, small(t, "64m")), newSource()
	images := many(t, s, 2)
	err := containerd.Send(t.Context(), m, "kocli", request(s, images))
	if err == nil || !strings.Contains(err.Error(), "MiB are free there") || !strings.Contains(err.Error(), "free space below") {
		t.Errorf("got %v", err)
	}
	if len(s.asked) > 0 {
		t.Errorf("%d blobs were sent", len(s.asked))
	}
}

func TestImport_aDiskThatFillsUpOnTheWaySaysSo(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 3)
	fail := func(d string) error {
		if d == images[1].Blobs[3].Digest {
			return errors.New("rpc error: write /var/lib/containerd/x: " + syscall.ENOSPC.Error())
		}
		return nil
	}
	m.store.fail.Store(&fail)
	err := containerd.Send(t.Context(), m, "kocli", request(s, images))
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "free space below") {
		t.Errorf("got %v", err)
	}
	m.store.fail.Store(nil)
	send(t, m, s, images)
	m.check(images)
}

func TestSend_refusesWhatTheBundleDoesNotHave(t *testing.T) {
	m, s := newMachine(t, t.TempDir()), newSource()
	images := many(t, s, 1)
	maps.DeleteFunc(s.blobs, func(d string, _ []byte) bool { return d == images[0].Blobs[2].Digest })
	err := containerd.Send(t.Context(), m, "kocli", request(s, images))
	if err == nil || !strings.Contains(err.Error(), images[0].Blobs[2].Digest) {
		t.Errorf("got %v", err)
	}
}

// exits is a host on which kocli ends at once.
type exits int

func (e exits) Run(_ context.Context, c host.Cmd) (host.Output, error) {
	return host.Output{}, &host.ExitError{Cmd: c.String(), Code: int(e)}
}

func TestSend_whereKocliCannotRun(t *testing.T) {
	s := newSource()
	images := many(t, s, 1)
	for code, want := range map[exits]bool{126: true, 127: true, exits(fault.Usage): true, exits(fault.Failure): false} {
		err := containerd.Send(t.Context(), code, "kocli", request(s, images))
		if err == nil || errors.Is(err, containerd.ErrNoKocli) != want {
			t.Errorf("exit %d: %v", code, err)
		}
	}
}
