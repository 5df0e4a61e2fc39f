// Package backup is the archive that holds all that a cluster is made anew from:
// a snapshot of etcd, the certificates and configuration of a control plane, and
// kocli's own spec and state. One stream: tar, zstd, age; nothing of it is ever
// written anywhere in the clear. Its last entry is a signed manifest, and beside
// each archive stands a signed receipt, which says what is in it to those who
// cannot decrypt it, and whose presence says that it is complete.
//
//	age -d -i KEY NAME.tar.zst.age | zstd -d | tar -x   # without kocli
//
// It reads a control plane through a host.Reader, and knows nothing of plans or of
// where archives are kept (see backup/target).
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
)

// Format and Version are of what this kocli writes. It reads older versions.
const (
	Format  = "kocli-backup"
	Version = 1
)

// Names of entries of an archive.
const (
	headerEntry   = "header.json"
	manifestEntry = "manifest.json"
	// SnapshotEntry is the snapshot of etcd.
	SnapshotEntry = "etcd/snapshot.db"
	// FilesPrefix is before the absolute path of a file of the host.
	FilesPrefix = "files"
	// SpecEntry and StateEntry are the cluster YAML and kocli's record.
	SpecEntry  = "kocli/cluster.yaml"
	StateEntry = "kocli/state.json"
)

// Contexts of signatures.
const (
	manifestContext = "kocli backup manifest v1"
	receiptContext  = "kocli backup receipt v1"
)

// Header is the first entry: what an archive is, before anything of it is used.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"` // that it was made of
	Created time.Time `json:"created"`
	Kocli   string    `json:"kocliVersion"`
}

// check refuses what this kocli cannot read.
func (h Header) check() error {
	if h.Format != Format {
		return fault.New(fault.Backup, "name a file that kocli backup create made", errors.New("this is not a backup of kocli's"))
	}
	if h.Version > Version {
		return fault.New(fault.Backup, fmt.Sprintf("use kocli %s or newer, which made it", h.Kocli),
			fmt.Errorf("the backup has format %d, and this kocli knows up to %d", h.Version, Version))
	}
	return nil
}

// File is one entry of an archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"sizeBytes"`
	Mode   uint32 `json:"mode"` // permission bits on the host; zero where it was no file
	SHA256 string `json:"sha256"`
}

// Manifest is the last entry: what has to be in an archive. Its JSON is stable.
type Manifest struct {
	Header
	// CA is the sha256 of the cluster's CA, by which a cluster is known.
	CA         string   `json:"caSHA256"`
	Kubernetes string   `json:"kubernetes"`
	Members    []string `json:"etcdMembers"`
	// Etcd is what etcd held before the snapshot was taken, and After its hash at the
	// same revision afterwards: history may have been compacted in between.
	Etcd  etcd.Mark `json:"etcd"`
	After etcd.Hash `json:"etcdHashAfter"`
	Files []File    `json:"files"`
}

// Receipt stands beside an archive. It holds nothing secret. Its JSON is stable.
type Receipt struct {
	Header
	Name       string `json:"name"`
	Size       int64  `json:"sizeBytes"`
	SHA256     string `json:"sha256"` // of the archive
	Encrypted  bool   `json:"encrypted"`
	CA         string `json:"caSHA256"`
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcdVersion"`
	Keys       int64  `json:"keys"`
	Revision   int64  `json:"revision"`
	Database   int64  `json:"snapshotBytes"`
}

// Name is what an archive is called: its cluster, when it was begun, and the node.
func Name(h Header, encrypted bool) string {
	n := fmt.Sprintf("%s-%s-%s.tar.zst", h.Cluster, h.Created.UTC().Format("20060102T150405Z"), h.Node)
	if encrypted {
		n += ".age"
	}
	return n
}

// ReceiptName is the receipt of an archive.
func ReceiptName(archive string) string { return archive + ".json" }

// IsReceipt returns the archive that a file is the receipt of.
func IsReceipt(name string) (archive string, ok bool) {
	archive, ok = strings.CutSuffix(name, ".json")
	return archive, ok && (strings.HasSuffix(archive, ".tar.zst") || strings.HasSuffix(archive, ".tar.zst.age"))
}

// signed is a document with its signature. The document is kept byte for byte.
type signed struct {
	Document  json.RawMessage   `json:"document"`
	PublicKey string            `json:"publicKey"` // PEM
	Signature archive.Signature `json:"signature"`
}

func sign(context string, v any, key archive.PrivateKey) ([]byte, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	pub, err := key.Public().PEM()
	if err != nil {
		return nil, err
	}
	return json.Marshal(signed{Document: doc, PublicKey: string(pub), Signature: key.SignMessage(context, digest(doc))})
}

// open returns the signer of a document whose signature is good.
func open(context string, data []byte, v any) (archive.PublicKey, error) {
	var s signed
	if err := json.Unmarshal(data, &s); err != nil {
		return archive.PublicKey{}, damaged(err)
	}
	key, err := archive.ParsePublicKey([]byte(s.PublicKey))
	if err != nil {
		return key, damaged(err)
	}
	if !key.VerifyMessage(context, digest(s.Document), s.Signature) {
		return key, damaged(fmt.Errorf("the signature of key %s does not fit", s.Signature.KeyID))
	}
	if err := json.Unmarshal(s.Document, v); err != nil {
		return key, damaged(err)
	}
	return key, nil
}

// OpenReceipt reads a receipt and returns who signed it.
func OpenReceipt(data []byte) (Receipt, archive.PublicKey, error) {
	var r Receipt
	key, err := open(receiptContext, data, &r)
	if err == nil {
		err = r.check()
	}
	return r, key, err
}

// SignReceipt returns what stands beside an archive.
func SignReceipt(r Receipt, key archive.PrivateKey) ([]byte, error) {
	return sign(receiptContext, r, key)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// damaged is an archive that is not what was written.
func damaged(err error) error {
	return fault.New(fault.Backup, "restore from another one: kocli backup list shows them", fmt.Errorf("the backup is damaged: %w", err))
}

// Fingerprint is the sha256 of a CA's certificate, by which a cluster is known.
func Fingerprint(pemData []byte) (string, error) {
	block, _ := pem.Decode(pemData)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("the cluster's CA is not in PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
