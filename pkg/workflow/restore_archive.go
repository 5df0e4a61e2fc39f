package workflow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/google/renameio/v2"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
)

// localBackup is a backup on this machine that was read to its end.
type localBackup struct {
	path     string
	sum      string // sha256 of the file
	ids      []age.Identity
	contents *backup.Contents
}

// archive brings a backup to this machine, as it is: encrypted where it is. It is
// read twice, and by every control plane. It is proved before it is used.
func (s *Session) archive(ctx context.Context, which WhichBackup, ids []age.Identity) (*localBackup, error) {
	f, err := findBackup(ctx, s.o, which)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.close() }() // only read
	b := &localBackup{path: f.name, ids: ids}
	if _, err := os.Stat(f.name); err != nil {
		if b.path, err = s.fetch(ctx, f); err != nil {
			return nil, err
		}
	}
	r, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	b.contents, err = backup.Read(ctx, io.TeeReader(r, h), ids, nil)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, &fault.Error{Op: "read " + f.name, Err: err}
	}
	b.sum = hex.EncodeToString(h.Sum(nil))
	if err := f.trust.Check(b.contents.Signer); err != nil {
		return nil, err
	}
	return b, ours(s.o, b.contents)
}

// fetch copies a backup from its target into the state folder.
func (s *Session) fetch(ctx context.Context, f *found) (string, error) {
	dst := filepath.Join(s.dir.Root(), "backups", f.name)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return "", err
	}
	r, err := f.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // only read
	w, err := renameio.NewPendingFile(dst, renameio.WithPermissions(0o600))
	if err != nil {
		return "", err
	}
	defer func() { _ = w.Cleanup() }() // does nothing after it was renamed
	if _, err := io.Copy(w, r); err != nil {
		return "", fmt.Errorf("fetch %s: %w", f.name, err)
	}
	return dst, w.CloseAtomicallyReplace()
}

// fits refuses a backup that cannot make the cluster that the YAML describes.
func (s *Session) fits(c *backup.Contents) error {
	if missing := c.Missing(); len(missing) > 0 {
		return fault.New(fault.Backup, "kocli backup list shows the others", fmt.Errorf("it lacks %s", strings.Join(missing, ", ")))
	}
	minor := func(v string) string {
		if i := strings.LastIndex(v, "."); i > 0 {
			return v[:i]
		}
		return v
	}
	if minor(c.Kubernetes) != minor(s.inv.Version()) {
		return fault.New(fault.Usage, "set spec.kubernetes.version to "+c.Kubernetes+", and use its bundle",
			fmt.Errorf("the backup is of Kubernetes %s, and the YAML asks for %s: other versions may not read its data", c.Kubernetes, s.inv.Version()))
	}
	return s.sameEncryption(c)
}

// sameEncryption refuses a YAML whose API servers could not read the Secrets of the
// backup, or would write them with a key that nobody has made.
func (s *Session) sameEncryption(c *backup.Contents) error {
	const flag = "encryption-provider-config"
	conf, err := kubeadm.ClusterConfig(s.inv)
	if err != nil {
		return err
	}
	manifest, _ := c.File(kubeadm.APIServerManifestPath)
	was, is := bytes.Contains(manifest, []byte(flag)), bytes.Contains(conf, []byte(flag))
	if was == is {
		return nil
	}
	words := map[bool]string{true: "encrypted", false: "not encrypted"}
	return fault.New(fault.Usage, fmt.Sprintf("set spec.kubernetes.encryption.secrets to %t for the restore", was),
		fmt.Errorf("the backup is of a cluster whose Secrets were %s, and with the YAML they are %s", words[was], words[is]))
}

// sameEndpoint wants a bundle where the cluster is at another address than it was:
// kubelets and what runs in the cluster have to be told, which the phases of create
// do.
func (s *Session) sameEndpoint(c *backup.Contents) error {
	was := endpointOf(c)
	if s.bundle != nil || was == "" || was == s.inv.Endpoint() {
		return nil
	}
	return fault.New(fault.Usage, "give it the file that holds what is installed: --bundle FILE",
		fmt.Errorf("%w, and the API moves from %s to %s, which every node has to be told", errNoBundle, was, s.inv.Endpoint()))
}

// endpointOf is where the API was when the backup was made; empty where its YAML, of an
// older kocli, cannot be read.
func endpointOf(c *backup.Contents) string {
	old, err := config.Read("the YAML in the backup", bytes.NewReader(c.Small[backup.SpecEntry]))
	if err != nil {
		return ""
	}
	was, err := inventory.New(old)
	if err != nil {
		return ""
	}
	return was.Endpoint()
}

// snapshot is the snapshot of etcd as a file that hosts get.
func (b *localBackup) snapshot() *host.File {
	e, ok := b.contents.Entry(backup.SnapshotEntry)
	if !ok {
		return nil // Read refuses it
	}
	return &host.File{Size: e.Size, SHA256: e.SHA256, Open: func() (io.ReadCloser, error) {
		f, err := os.Open(b.path)
		if err != nil {
			return nil, err
		}
		return both{backup.Snapshot(f, b.ids), f}, nil
	}}
}

// both closes the file below a reader too.
type both struct {
	io.ReadCloser
	file io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.file.Close()) }

// files are what all control planes share: CAs and keys, what kocli gives to the API
// servers, and files of the user's below /etc/kubernetes that the YAML's settings of
// the control plane name.
func (b *localBackup) files(inv *inventory.Inventory) ([]host.File, error) {
	conf, err := kubeadm.ClusterConfig(inv)
	if err != nil {
		return nil, err
	}
	ours := append(backup.Shared(), kubeadm.EncryptionConfigPath, kubeadm.AuditPolicyPath)
	var out []host.File
	add := func(p string, data []byte) {
		f := host.Bytes(p, 0o600, firstCA(p, data))
		f.Secret = true
		out = append(out, f)
	}
	for _, p := range ours {
		data, ok := b.contents.File(p)
		if !ok && p == kubeadm.AuditPolicyPath && bytes.Contains(conf, []byte(p)) { // asked for since
			if data, err = kubeadm.AuditPolicy(inv); err != nil {
				return nil, err
			}
			ok = true
		}
		if ok {
			add(p, data)
		}
	}
	for _, e := range b.contents.Files {
		p, ok := strings.CutPrefix(e.Name, backup.FilesPrefix)
		if !ok || !strings.HasPrefix(p, "/etc/kubernetes/") || path.Clean(p) != p || strings.HasPrefix(p, kubeadm.PKIDir+"/") || strings.HasPrefix(p, kubeadm.ManifestsDir+"/") || slices.Contains(ours, p) {
			continue
		}
		if data, ok := b.contents.File(p); ok && bytes.Contains(conf, []byte(p)) {
			add(p, data)
		}
	}
	return out, nil
}

// firstCA is the CA whose key is beside it, of a file that may be the bundle of a
// rotation: whatever else it has is to be trusted no more once all is made anew.
func firstCA(name string, data []byte) []byte {
	for _, a := range pki.Authorities() {
		if c, err := pki.First(data); name == a.CertPath && err == nil {
			return pki.Encode(c)
		}
	}
	return data
}
