package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// Options say what a backup is made with.
type Options struct {
	Cluster    string
	Kocli      string    // version of the kocli that asked
	Created    time.Time // UTC
	Recipients []age.Recipient
	Plain      bool // not encrypted: only where it was said so
	Key        archive.PrivateKey
	Spec       []byte // the cluster YAML
	State      []byte // kocli's record
	Kubernetes string
}

// maxFile is the largest file of a host that is taken, in bytes: configuration is
// smaller.
const maxFile = 8 << 20

// Write makes a backup of the control plane that r reads, into w, in one pass. The
// receipt lacks the name. An error that has fault.Unhealthy where etcd has no
// quorum.
func Write(ctx context.Context, w io.Writer, r host.Reader, o Options) (Receipt, error) {
	if len(o.Recipients) == 0 && !o.Plain {
		return Receipt{}, errors.New("a backup is encrypted for somebody, or said to be plain")
	}
	v, err := etcd.Look(ctx, r)
	if errors.Is(err, etcd.ErrNone) {
		return Receipt{}, fault.New(fault.Unhealthy, "an etcd outside the cluster is backed up where it is; kocli saves the members that kubeadm runs", fmt.Errorf("%s: %w", r.Name(), err))
	}
	if err != nil {
		return Receipt{}, err
	}
	out := newCounter(w)
	b := bufio.NewWriterSize(out, 1<<20)
	sealed := io.WriteCloser(closer{b})
	if len(o.Recipients) > 0 {
		if sealed, err = age.Encrypt(b, o.Recipients...); err != nil {
			return Receipt{}, fault.New(fault.Usage, "give recipients as age-keygen prints them: age1...", err)
		}
	}
	z, err := zstd.NewWriter(sealed, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(true))
	if err != nil {
		return Receipt{}, err
	}
	defer func() { _ = z.Close() }() // ends its goroutines; what matters was closed before
	t := &entries{tar: tar.NewWriter(z), created: o.Created}
	m, err := t.all(ctx, r, v, o)
	if err != nil {
		return Receipt{}, err
	}
	if err := errors.Join(t.tar.Close(), z.Close(), sealed.Close(), b.Flush()); err != nil {
		return Receipt{}, err
	}
	rc := Receipt{
		Header: m.Header, Size: out.n, SHA256: out.sum(), Encrypted: len(o.Recipients) > 0, CA: m.CA,
		Kubernetes: m.Kubernetes, Etcd: m.Etcd.Version, Keys: m.Etcd.Keys, Revision: m.Etcd.Revision,
	}
	for _, f := range m.Files {
		if f.Name == SnapshotEntry {
			rc.Database = f.Size
		}
	}
	return rc, nil
}

// closer is a writer that needs no closing.
type closer struct{ io.Writer }

func (closer) Close() error { return nil }

// entries writes the entries of an archive and remembers them.
type entries struct {
	tar     *tar.Writer
	created time.Time
	list    []File
}

func (t *entries) all(ctx context.Context, r host.Reader, v *etcd.View, o Options) (Manifest, error) {
	m := Manifest{Header: Header{Format: Format, Version: Version, Cluster: o.Cluster, Node: r.Name(), Created: o.Created.UTC(), Kocli: o.Kocli}, Kubernetes: o.Kubernetes}
	ca, err := r.ReadFile(ctx, kubeadm.CACertPath)
	if err != nil {
		return m, fmt.Errorf("read the cluster's CA on %s: %w", r.Name(), err)
	}
	if m.CA, err = Fingerprint(ca); err != nil {
		return m, fmt.Errorf("%s on %s: %w", kubeadm.CACertPath, r.Name(), err)
	}
	head, err := json.Marshal(m.Header)
	if err != nil {
		return m, err
	}
	if err := t.bytes(headerEntry, 0, head); err != nil {
		return m, err
	}
	for _, e := range []struct {
		name string
		data []byte
	}{{SpecEntry, o.Spec}, {StateEntry, o.State}} {
		if len(e.data) == 0 {
			continue
		}
		if err := t.bytes(e.name, 0, e.data); err != nil {
			return m, err
		}
	}
	if err := t.files(ctx, r); err != nil {
		return m, err
	}
	if err := t.etcd(ctx, v, &m); err != nil {
		return m, err
	}
	m.Files = t.list
	doc, err := sign(manifestContext, m, o.Key)
	if err != nil {
		return m, err
	}
	return m, t.bytes(manifestEntry, 0, doc)
}

// etcd writes the snapshot, and what etcd said of itself before and after.
func (t *entries) etcd(ctx context.Context, v *etcd.View, m *Manifest) error {
	members, err := v.Members(ctx)
	if err != nil {
		return fault.New(fault.Unhealthy, "bring back enough control planes for a quorum: kocli status; with one left for good: kocli recover", err)
	}
	for _, e := range members {
		m.Members = append(m.Members, e.Name)
	}
	if m.Etcd, err = v.Mark(ctx); err != nil {
		return err
	}
	var c *counter
	var size int64
	err = v.Snapshot(ctx, func(n int64) (io.Writer, error) {
		size = n
		if err := t.header(SnapshotEntry, 0, n); err != nil {
			return nil, err
		}
		c = newCounter(t.tar)
		return c, nil
	})
	if err != nil {
		return err
	}
	t.list = append(t.list, File{Name: SnapshotEntry, Size: size, SHA256: c.sum()})
	m.After, err = v.HashAt(ctx, m.Etcd.Revision)
	return err
}

func (t *entries) header(name string, mode uint32, size int64) error {
	tarMode := int64(mode)
	if tarMode == 0 {
		tarMode = 0o600
	}
	return t.tar.WriteHeader(&tar.Header{Name: name, Mode: tarMode, Size: size, ModTime: t.created, Typeflag: tar.TypeReg, Format: tar.FormatPAX})
}

func (t *entries) bytes(name string, mode uint32, data []byte) error {
	if err := t.header(name, mode, int64(len(data))); err != nil {
		return err
	}
	if _, err := t.tar.Write(data); err != nil {
		return err
	}
	if name != manifestEntry {
		sum := sha256.Sum256(data)
		t.list = append(t.list, File{Name: name, Size: int64(len(data)), Mode: mode, SHA256: hex.EncodeToString(sum[:])})
	}
	return nil
}

// files writes the configuration of a control plane.
func (t *entries) files(ctx context.Context, r host.Reader) error {
	paths, err := Configuration(ctx, r)
	if err != nil {
		return err
	}
	type content struct {
		data []byte
		mode uint32
		err  error
	}
	read := make([]content, len(paths))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, p := range paths {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			info, err := r.Stat(ctx, p)
			if err != nil {
				read[i].err = err
				return
			}
			if info.Size() > maxFile {
				read[i].err = fmt.Errorf("%s has %d bytes, which no configuration has", p, info.Size())
				return
			}
			read[i].mode = uint32(info.Mode().Perm())
			read[i].data, read[i].err = r.ReadFile(ctx, p)
		})
	}
	wg.Wait()
	for i, p := range paths {
		if read[i].err != nil {
			return fmt.Errorf("read the configuration of %s: %w", r.Name(), read[i].err)
		}
		if err := t.bytes(FilesPrefix+p, read[i].mode, read[i].data); err != nil {
			return err
		}
	}
	return nil
}

// Where a control plane keeps its configuration, and what is left out: what
// kubeadm keeps of earlier upgrades, and kocli's own access to where backups go.
const (
	kubernetesDir = "/etc/kubernetes"
	kubeletDir    = "/var/lib/kubelet"
)

// Configuration lists the files of a control plane that a backup holds, sorted.
func Configuration(ctx context.Context, r host.Reader) ([]string, error) {
	out, err := r.Query(ctx, host.Command("find", kubernetesDir, "-type", "f"))
	if err != nil {
		return nil, fmt.Errorf("list %s on %s: %w", kubernetesDir, r.Name(), err)
	}
	var paths []string
	for p := range strings.Lines(string(out.Stdout)) {
		p = strings.TrimSuffix(p, "\n")
		if path.Clean(p) != p || !strings.HasPrefix(p, kubernetesDir+"/") || strings.HasPrefix(p, kubernetesDir+"/tmp/") || strings.HasPrefix(p, ScheduleDir+"/") {
			continue
		}
		paths = append(paths, p)
	}
	for _, p := range []string{kubeletDir + "/config.yaml", kubeletDir + "/kubeadm-flags.env"} {
		if _, err := r.Stat(ctx, p); err == nil {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// ScheduleDir holds, on a host, what its own backups are made with. It is not part
// of a backup.
const ScheduleDir = kubeadm.ConfigDir + "/backup"

// counter counts and sums up what goes through it.
type counter struct {
	w io.Writer
	h hash.Hash
	n int64
}

func newCounter(w io.Writer) *counter { return &counter{w: w, h: sha256.New()} }

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	_, _ = c.h.Write(p[:n]) // never fails
	c.n += int64(n)
	return n, err
}

func (c *counter) sum() string { return hex.EncodeToString(c.h.Sum(nil)) }
