package backup_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

const canary = "the-secret-that-nobody-may-see"

// plane is a control plane with a real etcd.
func plane(t *testing.T) *hosttest.Machine {
	t.Helper()
	r := etcdtest.NewReal(t, t.TempDir(), "cp-1", "http://127.0.0.1:2380")
	c := r.Client(t)
	for i := range 100 {
		if _, err := c.Put(t.Context(), fmt.Sprintf("/registry/secrets/a/%03d", i), canary+strings.Repeat("x", 4000)); err != nil {
			t.Fatal(err)
		}
	}
	m := hosttest.New("cp-1")
	r.Install(m)
	ca, _ := m.Read("/etc/kubernetes/pki/etcd/ca.crt")
	m.Write("/etc/kubernetes/pki/ca.crt", 0o644, ca)
	m.Write("/etc/kubernetes/pki/ca.key", 0o600, canary)
	m.Write("/etc/kubernetes/manifests/etcd.yaml", 0o600, "pod")
	m.Write("/etc/kubernetes/kocli/encryption.yaml", 0o600, canary)
	m.Write("/etc/kubernetes/kocli/backup/key", 0o600, "the key that signs")
	m.Write("/etc/kubernetes/tmp/old", 0o600, "of an upgrade")
	m.Write("/var/lib/kubelet/config.yaml", 0o644, "kubelet")
	return m
}

func signingKey(t *testing.T) archive.PrivateKey {
	t.Helper()
	name := filepath.Join(t.TempDir(), "site")
	if _, _, _, err := archive.GenerateKey(name); err != nil {
		t.Fatal(err)
	}
	k, err := archive.ReadPrivateKey(name + ".key")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func options(t *testing.T, id *age.X25519Identity) backup.Options {
	t.Helper()
	o := backup.Options{Cluster: "prod", Kocli: "v1", Created: time.Date(2026, 11, 25, 2, 30, 0, 0, time.UTC), Key: signingKey(t), Spec: []byte("kind: Cluster\n"), State: []byte("{}"), Kubernetes: "v1.36.3"}
	if id == nil {
		o.Plain = true
	} else {
		o.Recipients = []age.Recipient{id.Recipient()}
	}
	return o
}

func write(t *testing.T, o backup.Options) ([]byte, backup.Receipt) {
	t.Helper()
	var b bytes.Buffer
	r, err := backup.Write(t.Context(), &b, plane(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), r
}

func TestWrite_holdsAllThatAClusterIsMadeOfAndNothingInTheClear(t *testing.T) {
	id := identity(t)
	o := options(t, id)
	data, r := write(t, o)
	if bytes.Contains(data, []byte(canary)) {
		t.Error("the archive holds a secret in the clear")
	}
	if sum := sha256.Sum256(data); r.Size != int64(len(data)) || r.SHA256 != fmt.Sprintf("%x", sum) || r.Keys != 100 || !r.Encrypted || r.Cluster != "prod" || r.Node != "cp-1" {
		t.Errorf("%+v", r)
	}
	if len(data) > int(r.Database)/2 {
		t.Errorf("%d bytes of %d: it is not compressed", len(data), r.Database)
	}
	var db bytes.Buffer
	c, err := backup.Read(t.Context(), bytes.NewReader(data), []age.Identity{id}, &db)
	if err != nil {
		t.Fatal(err)
	}
	if c.Signer.ID() != o.Key.Public().ID() || c.Etcd.Keys != 100 || c.CA != r.CA || !slices.Equal(c.Members, []string{"cp-1"}) {
		t.Errorf("%+v", c.Manifest)
	}
	var names []string
	for _, f := range c.Files {
		names = append(names, f.Name)
	}
	want := "header.json kocli/cluster.yaml kocli/state.json files/etc/kubernetes/kocli/encryption.yaml files/etc/kubernetes/manifests/etcd.yaml " +
		"files/etc/kubernetes/pki/apiserver-etcd-client.crt files/etc/kubernetes/pki/apiserver-etcd-client.key files/etc/kubernetes/pki/ca.crt files/etc/kubernetes/pki/ca.key " +
		"files/etc/kubernetes/pki/etcd/ca.crt files/var/lib/kubelet/config.yaml etcd/snapshot.db"
	if strings.Join(names, " ") != want {
		t.Errorf("it holds\n%s, not\n%s", strings.Join(names, " "), want)
	}
	if key, ok := c.File("/etc/kubernetes/pki/ca.key"); !ok || string(key) != canary {
		t.Errorf("the CA's key is %q", key)
	}
	snapshot := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(snapshot, db.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := datadir.Check(t.Context(), snapshot, t.TempDir(), c.Etcd, c.Etcd.Hash, c.After); err != nil || f.Keys != 100 {
		t.Errorf("%+v, %v", f, err)
	}
	again, err := io.ReadAll(backup.Snapshot(bytes.NewReader(data), []age.Identity{id}))
	if err != nil || !bytes.Equal(again, db.Bytes()) {
		t.Errorf("the snapshot alone has %d bytes, not %d: %v", len(again), db.Len(), err)
	}
}

// What others make of it, when kocli is not there.
func TestWrite_isATarThatZstdAndTarRead(t *testing.T) {
	data, _ := write(t, options(t, nil))
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	tr := tar.NewReader(z)
	n := 0
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || h.Mode&0o077 != 0 && strings.HasSuffix(h.Name, ".key") {
			t.Fatal(h, err)
		}
		n++
	}
	if n != 13 {
		t.Errorf("%d entries", n)
	}
}

// remade is an archive that says other things of itself, signed by whoever likes.
func remade(t *testing.T, data []byte, change func(name string, body []byte) []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var out bytes.Buffer
	zw, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	tr, tw := tar.NewReader(z), tar.NewWriter(zw)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if body = change(h.Name, body); body == nil {
			continue
		}
		h.Size = int64(len(body))
		if err := errors.Join(tw.WriteHeader(h), second(tw.Write(body))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func second[T any](_ T, err error) error { return err }

func TestRead_refusesWhatIsNotGood(t *testing.T) {
	id := identity(t)
	sealed, _ := write(t, options(t, id))
	plain, _ := write(t, options(t, nil))
	flip := func(data []byte, at int) []byte {
		out := slices.Clone(data)
		out[at] ^= 1
		return out
	}
	for name, tt := range map[string]struct {
		data []byte
		ids  []age.Identity
		code fault.Code
		want string
	}{
		"without a key":             {sealed, nil, fault.BackupKey, "no key was given"},
		"with a wrong key":          {sealed, []age.Identity{identity(t)}, fault.BackupKey, "for other keys"},
		"cut short":                 {sealed[:len(sealed)/2], []age.Identity{id}, fault.Backup, "damaged"},
		"cut by one byte":           {sealed[:len(sealed)-1], []age.Identity{id}, fault.Backup, "damaged"},
		"a bit flips":               {flip(sealed, len(sealed)/2), []age.Identity{id}, fault.Backup, "damaged"},
		"a plain one cut short":     {plain[:len(plain)/2], nil, fault.Backup, "cut short"},
		"the beginning is gone":     {sealed[10:], []age.Identity{id}, fault.Backup, "not a backup"},
		"something else":            {[]byte("PK\x03\x04"), nil, fault.Backup, "not a backup"},
		"empty":                     {nil, nil, fault.Backup, "not a backup"},
		"a file that was replaced":  {remade(t, plain, replace("files/etc/kubernetes/pki/ca.key", "mine")), nil, fault.Backup, "ca.key is not what its manifest says"},
		"a file that was taken out": {remade(t, plain, replace("kocli/state.json", "")), nil, fault.Backup, "entries, and its manifest names"},
		"a manifest that was changed": {remade(t, plain, func(n string, b []byte) []byte {
			if n == "manifest.json" {
				return bytes.Replace(b, []byte(`"keys":100`), []byte(`"keys":101`), 1)
			}
			return b
		}), nil, fault.Backup, "signature"},
		"no manifest": {remade(t, plain, replace("manifest.json", "")), nil, fault.Backup, "no manifest"},
		"of a newer kocli": {remade(t, plain, func(n string, b []byte) []byte {
			if n == "header.json" {
				return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1)
			}
			return b
		}), nil, fault.Backup, "format 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := backup.Read(t.Context(), bytes.NewReader(tt.data), tt.ids, nil)
			if err == nil || fault.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) || fault.HintOf(err) == "" {
				t.Errorf("code %d, hint %q: %v", fault.CodeOf(err), fault.HintOf(err), err)
			}
		})
	}
}

// A few bits of a zstd stream may be one or the other (a copy of the same bytes from
// somewhere else): what they give is then what was written.
func TestRead_findsTheBitsThatFlipInAPlainOne(t *testing.T) {
	plain, _ := write(t, options(t, nil))
	unpack := func(data []byte) string {
		r, err := zstd.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		out, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		return string(out)
	}
	found := 0
	for at := 0; at < len(plain); at += 53 {
		flipped := slices.Clone(plain)
		flipped[at] ^= 1 << (at % 8)
		_, err := backup.Read(t.Context(), bytes.NewReader(flipped), nil, nil)
		switch {
		case err == nil && unpack(flipped) != unpack(plain):
			t.Errorf("bit %d of byte %d of %d was not noticed", at%8, at, len(plain))
		case err != nil && fault.CodeOf(err) != fault.Backup:
			t.Errorf("code %d: %v", fault.CodeOf(err), err)
		case err != nil:
			found++
		}
	}
	if found < len(plain)/53*9/10 {
		t.Errorf("%d of %d bits were found", found, len(plain)/53)
	}
}

func replace(name, with string) func(string, []byte) []byte {
	return func(n string, b []byte) []byte {
		switch {
		case n != name:
			return b
		case with == "":
			return nil
		}
		return []byte(with)
	}
}

// What fails on the way is none of the archive's fault, and not called damage.
func TestRead_tellsAFullDiskFromADamagedArchive(t *testing.T) {
	plain, _ := write(t, options(t, nil))
	_, err := backup.Read(t.Context(), bytes.NewReader(plain), nil, full{})
	if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	_, err = backup.Read(t.Context(), io.MultiReader(bytes.NewReader(plain[:1000]), gone{}), nil, nil)
	if !errors.Is(err, syscall.ECONNRESET) || strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

type gone struct{}

func (gone) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

func TestTrust(t *testing.T) {
	a, b := signingKey(t).Public(), signingKey(t).Public()
	for name, tt := range map[string]struct {
		t    backup.Trust
		good bool
	}{
		"the cluster's key":              {backup.Trust{Keys: []archive.PublicKey{b, a}}, true},
		"another key":                    {backup.Trust{Keys: []archive.PublicKey{b}}, false},
		"no key is known":                {backup.Trust{}, false},
		"no key is known, but its ID is": {backup.Trust{Accept: a.ID()}, true},
	} {
		err := tt.t.Check(a)
		if (err == nil) != tt.good || err != nil && (fault.CodeOf(err) != fault.BackupKey || !strings.Contains(fault.HintOf(err), a.ID())) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReceipt_thatWasChangedIsRefused(t *testing.T) {
	doc, err := backup.SignReceipt(backup.Receipt{Header: backup.Header{Format: backup.Format, Version: 1}, Keys: 7, SHA256: "aa"}, signingKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if r, _, err := backup.OpenReceipt(doc); err != nil || r.Keys != 7 {
		t.Error(r, err)
	}
	if _, _, err := backup.OpenReceipt(bytes.Replace(doc, []byte(`"keys":7`), []byte(`"keys":8`), 1)); fault.CodeOf(err) != fault.Backup {
		t.Error(err)
	}
	if !json.Valid(doc) {
		t.Error("it is no JSON")
	}
}

func TestIdentities_andRecipients(t *testing.T) {
	f := filepath.Join(t.TempDir(), "key")
	public, err := backup.GenerateIdentity(f, f+".pub")
	if err != nil || !strings.HasPrefix(public, "age1") {
		t.Fatal(public, err)
	}
	if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	if _, err := backup.GenerateIdentity(f, f+".2"); fault.CodeOf(err) != fault.Usage {
		t.Errorf("a key is overwritten: %v", err)
	}
	ids, err := backup.Identities(f)
	if err != nil || len(ids) != 1 {
		t.Error(ids, err)
	}
	if _, err := backup.Recipients([]string{public, "age1nonsense"}); fault.CodeOf(err) != fault.Usage {
		t.Error(err)
	}
	if err := os.WriteFile(f, []byte("# ours\n"+public+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Identities(f); fault.CodeOf(err) != fault.BackupKey || strings.Contains(err.Error(), public) {
		t.Error(err)
	}
	if r, err := backup.RecipientsFile(f); err != nil || len(r) != 1 || r[0] != public {
		t.Error(r, err)
	}
}

// What is not known to be signed yet is not kept without a limit.
func TestRead_refusesMoreThanAnyBackupHas(t *testing.T) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	add := func(name string, data []byte) {
		err1 := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Typeflag: tar.TypeReg})
		_, err2 := w.Write(data)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
	}
	add("header.json", []byte(`{"format":"kocli-backup","version":1}`))
	for i := range 5 {
		add(fmt.Sprintf("files/etc/kubernetes/%d", i), make([]byte, 15<<20))
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = backup.Read(t.Context(), &out, nil, nil)
	if fault.CodeOf(err) != fault.Backup || !strings.Contains(err.Error(), "kubernetes/4") {
		t.Error(err)
	}
}
