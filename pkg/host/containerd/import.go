package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
)

// Namespace is the kubelet's part of containerd.
const Namespace = "k8s.io"

// snapshotter is what containerd uses where nothing else is configured.
const snapshotter = "overlayfs"

// importer is one run of Import.
type importer struct {
	client *client.Client
	store  content.Store
	root   string // of kocli's content store
	labels map[string]string
	images []Image
	able   []string            // what the snapshotter can
	slots  *semaphore.Weighted // of what unpacks
	locks  *keyedLock

	blobs  map[string]*arrival
	stored []string // blobs that are taken from kocli's content store
	lacks  []string // blobs that have to come
}

// arrival is a blob and whether it is there.
type arrival struct {
	desc  ocispec.Descriptor
	there chan struct{} // closed when it is in containerd's content store
}

// Import has the images be there that the first line of in orders. It answers on
// out what it lacks, takes that from in, and returns when all are unpacked and
// named. root is the folder of kocli's content store; what is taken from there
// leaves it. Blobs that turn out to be wrong carry fault.Bundle.
func Import(ctx context.Context, c *client.Client, in io.Reader, out io.Writer, root string) (err error) {
	silent := logrus.New() // errors are returned, and nobody reads a log of the library
	silent.SetOutput(io.Discard)
	ctx = log.WithLogger(namespaces.WithNamespace(ctx, Namespace), logrus.NewEntry(silent))
	r := bufio.NewReaderSize(in, 1<<20)
	var o order
	if err := readLine(r, &o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	if err := o.check(); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	ctx, release, err := c.WithLease(ctx)
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	i := &importer{
		client: c, store: c.ContentStore(), root: root, labels: o.Labels, images: o.Images,
		slots: semaphore.NewWeighted(workers()), locks: newKeyedLock(), blobs: map[string]*arrival{},
	}
	if err := i.look(ctx); err != nil {
		return err
	}
	if err := i.room(ctx); err != nil {
		return err
	}
	if i.able, err = c.GetSnapshotterCapabilities(ctx, snapshotter); err != nil {
		return err
	}
	if err := writeLine(out, answer{i.lacks}); err != nil {
		return err
	}
	if err := i.run(ctx, r); err != nil {
		return explain(err) // the lease stays: what has arrived is used by the next run
	}
	errs := []error{release(ctx)}
	for d := range i.blobs { // an earlier run may have got what this one found in containerd
		if err := os.Remove(fanout.Path(root, d)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// workers is how many layers are unpacked, and how many blobs taken from the
// disk, at once.
func workers() int64 { return int64(min(8, max(2, runtime.NumCPU()))) }

// look finds out where each blob is.
func (i *importer) look(ctx context.Context) error {
	i.lacks = []string{}
	for _, im := range i.images {
		for _, b := range im.Blobs {
			if i.blobs[b.Digest] != nil {
				continue
			}
			a := &arrival{ocispec.Descriptor{MediaType: b.MediaType, Digest: digest.Digest(b.Digest), Size: b.Size}, make(chan struct{})}
			i.blobs[b.Digest] = a
			there, err := i.has(ctx, a.desc)
			if err != nil {
				return fmt.Errorf("ask containerd for %s: %w", b.Digest, err)
			}
			if there {
				close(a.there)
			} else if st, err := os.Lstat(fanout.Path(i.root, b.Digest)); err == nil && st.Mode().IsRegular() && st.Size() == b.Size {
				i.stored = append(i.stored, b.Digest)
			} else {
				i.lacks = append(i.lacks, b.Digest)
			}
		}
	}
	return nil
}

// has reports whether containerd has a blob, and leases it.
func (i *importer) has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if _, err := i.store.Info(ctx, d.Digest); err != nil {
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return false, err
	}
	w, err := i.store.Writer(ctx, content.WithRef(ref(d)), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, w.Close() // it was collected in between
}

// ref names the writing of a blob.
func ref(d ocispec.Descriptor) string { return "kocli-" + d.Digest.String() }

// run takes blobs in and unpacks images until all is done.
func (i *importer) run(ctx context.Context, in *bufio.Reader) error {
	g, ctx := errgroup.WithContext(ctx)
	received := make(chan error, 1)
	go func() { received <- i.receive(ctx, in) }()
	g.Go(func() error {
		select {
		case err := <-received:
			return err
		case <-ctx.Done(): // whoever waits for bytes is not waited for
			return context.Cause(ctx)
		}
	})
	files, taking := errgroup.WithContext(ctx)
	files.SetLimit(int(workers()))
	g.Go(func() error {
		for _, d := range i.stored {
			files.Go(func() error { return i.take(taking, d) })
		}
		return files.Wait()
	})
	for _, im := range i.images {
		g.Go(func() error {
			for _, b := range im.Blobs {
				select {
				case <-i.blobs[b.Digest].there:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if err := i.make(ctx, im); err != nil {
				return fmt.Errorf("image %s: %w", im.Ref, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// receive takes in what comes on the stream.
func (i *importer) receive(ctx context.Context, in *bufio.Reader) error {
	left := map[string]bool{}
	for _, d := range i.lacks {
		left[d] = true
	}
	for {
		var p piece
		if err := readLine(in, &p); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if p.End {
			if len(left) > 0 {
				return fmt.Errorf("read the stream: it ended, and %d blobs are lacking", len(left))
			}
			return nil
		}
		if !left[p.Digest] || p.Size != i.blobs[p.Digest].desc.Size {
			return fmt.Errorf("read the stream: %d bytes of %.80q were not asked for", p.Size, p.Digest)
		}
		delete(left, p.Digest)
		body := io.LimitReader(in, p.Size)
		if err := i.put(ctx, p.Digest, body); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, body); err != nil { // somebody else brought it meanwhile
			return err
		}
	}
}

// take takes a blob from kocli's content store. One that is wrong leaves it.
func (i *importer) take(ctx context.Context, d string) error {
	name := fanout.Path(i.root, d)
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = errors.Join(i.put(ctx, d, f), f.Close())
	if fault.CodeOf(err) == fault.Bundle {
		err = errors.Join(fmt.Errorf("%s is damaged, and is removed: %w", name, err), os.Remove(name))
	}
	return err
}

// put writes a blob into containerd's content store.
func (i *importer) put(ctx context.Context, d string, r io.Reader) error {
	a := i.blobs[d]
	w, err := i.writer(ctx, a.desc)
	if err == nil {
		err = errors.Join(content.Copy(ctx, w, r, a.desc.Size, a.desc.Digest), w.Close())
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		// What was written of it may be what is wrong.
		if errdefs.IsFailedPrecondition(err) || strings.Contains(err.Error(), "unexpected commit") {
			err = fault.New(fault.Bundle, "", fmt.Errorf("%s is not what its digest says: %w", d, err))
			if aborted := i.store.Abort(context.WithoutCancel(ctx), ref(a.desc)); !errdefs.IsNotFound(aborted) {
				err = errors.Join(err, aborted)
			}
		}
		return fmt.Errorf("store %s: %w", d, err)
	}
	close(a.there)
	return nil
}

// writer opens the writing of a blob. A containerd that is being restarted, or
// another writer of the same blob, is waited for.
func (i *importer) writer(ctx context.Context, d ocispec.Descriptor) (content.Writer, error) {
	for start := time.Now(); ; {
		w, err := i.store.Writer(ctx, content.WithRef(ref(d)), content.WithDescriptor(d))
		if !errdefs.IsUnavailable(err) || time.Since(start) > patience {
			return w, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// make unpacks an image whose blobs are there, and names it.
func (i *importer) make(ctx context.Context, im Image) error {
	target := i.blobs[im.Blobs[0].Digest].desc
	o := []unpack.UnpackerOpt{unpack.WithDuplicationSuppressor(i.locks), unpack.WithUnpackPlatform(unpack.Platform{
		SnapshotterKey: snapshotter, Snapshotter: i.client.SnapshotService(snapshotter), SnapshotterCapabilities: i.able, Applier: i.client.DiffService(),
	})}
	if slices.Contains(i.able, "rebase") { // layers of one image side by side: from containerd 2.2 on
		o = append(o, unpack.WithUnpackLimiter(i.slots))
	} else {
		if err := i.slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer i.slots.Release(1)
	}
	u, err := unpack.NewUnpacker(ctx, i.store, o...)
	if err != nil {
		return err
	}
	h := images.SetChildrenMappedLabels(i.store, images.ChildrenHandler(i.store), images.ChildGCLabels)
	err = images.Dispatch(ctx, u.Unpack(h), nil, target)
	if _, uerr := u.Wait(); err == nil {
		err = uerr
	}
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	named := images.Image{Name: im.Ref, Target: target, Labels: i.labels}
	if _, err = i.client.ImageService().Create(ctx, named); !errdefs.IsAlreadyExists(err) {
		return err
	}
	fields := []string{"target"}
	for k := range i.labels {
		fields = append(fields, "labels."+k)
	}
	_, err = i.client.ImageService().Update(ctx, named, fields...)
	return err
}

// keyedLock lets one goroutine at a time work on what a key names.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is given back
}

func newKeyedLock() *keyedLock { return &keyedLock{held: map[string]chan struct{}{}} }

// Lock waits until nobody holds the key.
func (l *keyedLock) Lock(ctx context.Context, key string) error {
	for {
		l.mu.Lock()
		c := l.held[key]
		if c == nil {
			l.held[key] = make(chan struct{})
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unlock gives the key back.
func (l *keyedLock) Unlock(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held[key])
	delete(l.held, key)
}
