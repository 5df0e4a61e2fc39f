package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

func sample(t testing.TB) []byte {
	t.Helper()
	m, c := archivetest.Sample()
	var b bytes.Buffer
	_, n, err := archive.Write(&b, m, c.Open)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("Write says %d bytes, wrote %d", n, b.Len())
	}
	return b.Bytes()
}

func read(data []byte) (*archive.Bundle, error) {
	return archive.NewReader(bytes.NewReader(data), int64(len(data)))
}

func mustRead(t testing.TB, data []byte) *archive.Bundle {
	t.Helper()
	b, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWrite_isReproducibleWhateverTheOrder(t *testing.T) {
	want := sample(t)
	m, c := archivetest.Sample()
	slices.Reverse(m.Items)
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Fatal("the same items in another order gave other bytes")
	}
}

func TestWrite_refusesContentThatDoesNotMatch(t *testing.T) {
	m, c := archivetest.Sample()
	d := m.Items[0].Blobs[2].Digest
	c[d] = append([]byte("x"), c[d][1:]...)
	_, _, err := archive.Write(io.Discard, m, c.Open)
	var be *archive.BlobError
	if !errors.As(err, &be) || be.Digest != d {
		t.Fatalf("got %v, want a BlobError of %s", err, d)
	}
}

func TestOpen_readsBackWhatWasWritten(t *testing.T) {
	path := archivetest.Write(t)
	b, err := archive.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	_, c := archivetest.Sample()
	for d, want := range c {
		r, err := b.OpenBlob(d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %v, %d bytes, want %d", d, err, len(got), len(want))
		}
	}
	if _, err := b.OpenBlob("sha256:" + strings.Repeat("0", 64)); fault.CodeOf(err) != fault.Bundle {
		t.Fatalf("unknown blob: %v", err)
	}
	var last, total int64
	if err := b.Verify(t.Context(), func(d, n int64) { last, total = d, n }); err != nil {
		t.Fatal(err)
	}
	if last != total || total == 0 {
		t.Fatalf("progress ended at %d of %d", last, total)
	}
}

func TestVerify_stopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mustRead(t, sample(t)).Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestSelect_byRoleArchVersionCNIAndEndpoint(t *testing.T) {
	b := mustRead(t, sample(t))
	refs := func(f archive.Filter) string {
		var out []string
		for _, im := range b.Images(f) {
			out = append(out, im.Ref[strings.LastIndex(im.Ref, "/")+1:])
		}
		return strings.Join(out, " ")
	}
	names := func(files []archive.File) string {
		var out []string
		for _, f := range files {
			out = append(out, f.Name)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ name, got, want string }{
		{"images of a worker", refs(archive.Filter{Role: archive.RoleWorker, Arch: "amd64"}), "haproxy:2.8.10 flannel-cni-plugin:v1.6.2-flannel1 flannel:v0.26.7 coredns:v1.14.2 kube-proxy:v1.36.3 pause:3.10.2"},
		{"images of a worker without a load balancer of its own", refs(archive.Filter{Role: archive.RoleWorker, Endpoint: "vip"}), "flannel-cni-plugin:v1.6.2-flannel1 flannel:v0.26.7 coredns:v1.14.2 kube-proxy:v1.36.3 pause:3.10.2"},
		{"images of a worker with one", refs(archive.Filter{Role: archive.RoleWorker, Endpoint: "local"}), "haproxy:2.8.10 flannel-cni-plugin:v1.6.2-flannel1 flannel:v0.26.7 coredns:v1.14.2 kube-proxy:v1.36.3 pause:3.10.2"},
		{"images of a control plane that needs neither", refs(archive.Filter{Role: archive.RoleControlPlane, Endpoint: "external"}), "flannel-cni-plugin:v1.6.2-flannel1 flannel:v0.26.7 coredns:v1.14.2 etcd:3.6.8-0 kube-apiserver:v1.36.3 kube-controller-manager:v1.36.3 kube-proxy:v1.36.3 kube-scheduler:v1.36.3 pause:3.10.2"},
		{"images of a control plane with a virtual IP", refs(archive.Filter{Role: archive.RoleControlPlane, Endpoint: "vip"}), "haproxy:2.8.10 keepalived:2.0.20 flannel-cni-plugin:v1.6.2-flannel1 flannel:v0.26.7 coredns:v1.14.2 etcd:3.6.8-0 kube-apiserver:v1.36.3 kube-controller-manager:v1.36.3 kube-proxy:v1.36.3 kube-scheduler:v1.36.3 pause:3.10.2"},
		{"nothing for another architecture", refs(archive.Filter{Arch: "arm64"}), ""},
		{"files of a worker", names(b.Files(archive.Filter{Role: archive.RoleWorker})), "bridge host-local loopback portmap containerd containerd-shim-runc-v2 ctr runc kubeadm kubelet kocli"},
		{"packages of Debian 12", names(b.Packages("debian", "12", archive.Filter{Arch: "amd64"})), "conntrack ebtables ethtool iptables libmnl0 nftables socat"},
		{"packages of another release", names(b.Packages("debian", "13", archive.Filter{})), ""},
	} {
		a, w := strings.Fields(c.got), strings.Fields(c.want)
		slices.Sort(a)
		slices.Sort(w)
		if !slices.Equal(a, w) {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if _, ok := b.Release("v1.36.3"); !ok || !b.HasArch("amd64") || b.HasArch("arm64") {
		t.Error("release or architecture is not found")
	}
}

func TestInspect_addsUp(t *testing.T) {
	b := mustRead(t, sample(t))
	in := b.Inspect()
	var sum int64
	for _, it := range in.Items {
		sum += it.Size
	}
	if in.SharedBytes == 0 || sum-in.SharedBytes > in.Size || in.Digest != b.Digest() {
		t.Fatalf("items %d, shared %d, file %d", sum, in.SharedBytes, in.Size)
	}
	if data, err := json.Marshal(in); err != nil || !bytes.Contains(data, []byte(`"sharedBytes"`)) {
		t.Fatalf("%s %v", data, err)
	}
}

// Every byte of the file belongs to one class; the first, the last and some in
// between of each tar entry are flipped here, bit by bit in turn.
func TestFlip_anyByteIsRefused(t *testing.T) {
	data := sample(t)
	var positions []int
	tr := tar.NewReader(bytes.NewReader(data))
	for off, i := 0, 0; ; i++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			positions = append(positions, off, off+511, off+512, len(data)-1)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for p := i % 13; p < 512 && (i < 5 || i%8 == 0); p += 37 { // headers are all made by one function
			positions = append(positions, off+p)
		}
		end := off + 512 + int(hdr.Size)
		next := (end + 511) / 512 * 512
		positions = append(positions, off+511, off+512, off+512+int(hdr.Size)/2, end-1, next-1)
		if hdr.Name == "index.json" || hdr.Name == "oci-layout" {
			for p := off + 512; p < end; p += 97 {
				positions = append(positions, p)
			}
		}
		off = next
	}
	for i, p := range positions {
		bad := slices.Clone(data)
		bad[p] ^= 1 << (i % 8)
		b, err := read(bad)
		if err == nil {
			err = b.Verify(t.Context(), nil)
		}
		if !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) == "" {
			t.Fatalf("byte %d flipped: got %v", p, err)
		}
	}
	t.Logf("%d of %d bytes flipped", len(positions), len(data))
}

func TestVerify_namesEveryDamagedBlobAndItsItem(t *testing.T) {
	data := sample(t)
	for _, word := range []string{"layer of kubelet", "layer of runc.amd64"} {
		i := bytes.Index(data, []byte(word))
		data[i] ^= 1
	}
	err := mustRead(t, data).Verify(t.Context(), nil)
	var de *archive.DamageError
	if !errors.As(err, &de) || len(de.Blobs) != 2 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"kubelet v1.36.3 (amd64)", "runc 1.4.3 (amd64)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	b := mustRead(t, data)
	r, err := b.OpenBlob(de.Blobs[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, archive.ErrDamaged) {
		t.Fatalf("reading a damaged blob: %v", err)
	}
}

func entryBytes(t *testing.T, hdr tar.Header, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	hdr.Size, hdr.Mode = int64(len(content)), 0o644
	if err := w.WriteHeader(&hdr); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// cuts returns the offsets of the headers, and of the end.
func cuts(t testing.TB, data []byte) []int {
	t.Helper()
	var out []int
	tr := tar.NewReader(bytes.NewReader(data))
	off := 0
	for {
		out = append(out, off)
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		off += 512 + (int(hdr.Size)+511)/512*512
	}
}

func TestOpen_refusesForeignTars(t *testing.T) {
	data := sample(t)
	at := cuts(t, data)
	blob := data[at[6]:at[7]]
	insert := func(where int, what []byte) []byte { return slices.Concat(data[:at[where]], what, data[at[where]:]) }
	last := len(at) - 1
	reg := func(name string) []byte { return entryBytes(t, tar.Header{Typeflag: tar.TypeReg, Name: name}, "x") }
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"path that climbs", insert(last, reg("../etc/passwd")), "outside"},
		{"path that climbs in the middle", insert(5, reg("blobs/../../x")), "outside"},
		{"absolute path", insert(5, reg("/etc/passwd")), "outside"},
		{"symbolic link", insert(5, entryBytes(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "blobs/x", Linkname: "/etc/passwd"}, "")), "regular"},
		{"hard link", insert(last, entryBytes(t, tar.Header{Typeflag: tar.TypeLink, Name: "blobs/x", Linkname: "index.json"}, "")), "regular"},
		{"device", insert(5, entryBytes(t, tar.Header{Typeflag: tar.TypeBlock, Name: "blobs/x"}, "")), "regular"},
		{"folder", insert(5, entryBytes(t, tar.Header{Typeflag: tar.TypeDir, Name: "blobs/"}, "")), "regular"},
		{"fifo first", insert(0, entryBytes(t, tar.Header{Typeflag: tar.TypeFifo, Name: "x"}, "")), "unexpected"},
		{"duplicate", insert(last, blob), "twice"},
		{"duplicate at once", insert(7, blob), "twice"},
		{"unlisted blob", insert(last, reg("blobs/sha256/"+strings.Repeat("0", 64))), "not listed"},
		{"unlisted file in the middle", insert(5, reg("README")), "not listed"},
		{"missing blob", slices.Concat(data[:at[6]], data[at[7]:]), "missing, or out of order"},
		{"missing last blob", slices.Concat(data[:at[last-1]], data[at[last]:]), "missing"},
		{"swapped blobs", slices.Concat(data[:at[5]], data[at[6]:at[7]], data[at[5]:at[6]], data[at[7]:]), "out of order"},
		{"data after the end", append(slices.Clone(data), make([]byte, 512)...), "after the end"},
		{"empty file", nil, "truncated"},
		{"no tar", bytes.Repeat([]byte("no tar"), 1000), "not a bundle"},
		{"another tar", slices.Concat(reg("a"), make([]byte, 4096)), "not a bundle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(c.data)
			if !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	t.Run("truncated anywhere", func(t *testing.T) {
		for n := 0; n < len(data); n += 2039 {
			if _, err := read(data[:n]); !errors.Is(err, archive.ErrDamaged) {
				t.Fatalf("cut at %d: %v", n, err)
			}
		}
	})
}

// A manifest that was changed together with index.json is consistent, and
// still refused when it lies.
func TestWrite_refusesManifestsThatLie(t *testing.T) {
	for name, change := range map[string]func(m *archive.Manifest){
		"digest of another algorithm": func(m *archive.Manifest) { m.Items[9].Digest = "md5:00" },
		"negative size":               func(m *archive.Manifest) { m.Items[9].Size = -1 },
		"path as file name":           func(m *archive.Manifest) { m.Items[9].File = "../x" },
		"unknown kind":                func(m *archive.Manifest) { m.Items[9].Kind = "virus" },
		"unknown role":                func(m *archive.Manifest) { m.Items[9].Role = "king" },
		"same item twice":             func(m *archive.Manifest) { m.Items = append(m.Items, m.Items[9]) },
		"image of the wrong size":     func(m *archive.Manifest) { m.Items[0].Size++ },
		"image without manifest":      func(m *archive.Manifest) { m.Items[0].Blobs = m.Items[0].Blobs[1:] },
		"reference with a climb":      func(m *archive.Manifest) { m.Items[0].Name = "a/../b:1" },
		"blob above the limit":        func(m *archive.Manifest) { m.Items[9].Size = archive.MaxBlobSize + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			m, c := archivetest.Sample()
			change(m)
			if _, _, err := archive.Write(io.Discard, m, c.Open); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestOpen_missingFileHasCodeAndHint(t *testing.T) {
	_, err := archive.Open(filepath.Join(t.TempDir(), "none.tar"))
	if !errors.Is(err, os.ErrNotExist) || fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) == "" {
		t.Fatalf("got %v", err)
	}
	if _, err := archive.Open(t.TempDir()); fault.CodeOf(err) != fault.Bundle {
		t.Fatalf("a folder: %v", err)
	}
}

func TestImageTar_sendsWhatTheHostLacks(t *testing.T) {
	b := mustRead(t, sample(t))
	images := b.Images(archive.Filter{Role: archive.RoleWorker})
	host := archive.DigestSet{}
	stream := func(have func(string) bool) map[string][]byte {
		t.Helper()
		size, write, err := b.ImageTar(images, have)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := write(&buf); err != nil {
			t.Fatal(err)
		}
		if int64(buf.Len()) != size {
			t.Fatalf("said %d bytes, wrote %d", size, buf.Len())
		}
		files := map[string][]byte{}
		tr := tar.NewReader(&buf)
		for {
			hdr, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return files
			}
			if err != nil {
				t.Fatal(err)
			}
			if files[hdr.Name], err = io.ReadAll(tr); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, content := archivetest.Sample()
	full := stream(nil)
	blobs := map[string]bool{}
	for _, im := range images {
		for _, d := range im.Blobs {
			blobs[d.Digest] = true
			if !bytes.Equal(full["blobs/sha256/"+d.Digest[7:]], content[d.Digest]) {
				t.Fatalf("%s of %s is not in the stream", d.Digest, im.Ref)
			}
		}
	}
	if len(full) != len(blobs)+2 {
		t.Fatalf("%d files, want %d blobs and 2", len(full), len(blobs))
	}
	if !bytes.Contains(full["index.json"], []byte(`"io.containerd.image.name":"registry.k8s.io/pause:3.10.2"`)) {
		t.Fatalf("index.json does not name the image: %s", full["index.json"])
	}
	shared := images[0].Blobs[2].Digest
	host[shared] = struct{}{}
	part := stream(host.Has)
	if _, ok := part["blobs/sha256/"+shared[7:]]; ok || len(part) != len(full)-1 {
		t.Fatalf("%d files with one layer present, want %d", len(part), len(full)-1)
	}
	for d := range blobs {
		host[d] = struct{}{}
	}
	if none := stream(host.Has); len(none) != 2+2*len(images) {
		t.Fatalf("%d files with all layers present, want manifests and configurations of %d images", len(none), len(images))
	}
}

func TestImageTar_manyHostsAtOnce(t *testing.T) {
	b := mustRead(t, sample(t))
	_, write, err := b.ImageTar(b.Images(archive.Filter{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := write(&want); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			var got bytes.Buffer
			if err := write(&got); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Errorf("stream differs: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestImageTar_refusesImageOfAnotherBundle(t *testing.T) {
	b := mustRead(t, sample(t))
	im := b.Images(archive.Filter{})[0]
	im.Blobs = slices.Clone(im.Blobs)
	im.Blobs[2].Digest = "sha256:" + strings.Repeat("1", 64)
	if _, _, err := b.ImageTar([]archive.Image{im}, nil); err == nil {
		t.Fatal("accepted")
	}
}

func TestParseDigests_readsOutputOfCtr(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	s := archive.ParseDigests("noise\n" + d + "\n\n sha512:00 \n" + d + "  \n")
	if !s.Has(d) || len(s) != 1 {
		t.Fatalf("%v", s)
	}
}

func FuzzOpen(f *testing.F) {
	data := sample(f)
	f.Add(data)
	f.Add([]byte{})
	f.Add(make([]byte, 2048))
	at := cuts(f, data)
	for _, i := range []int{1, 2, 3, 4, len(at) / 2, len(at) - 1} {
		f.Add(data[:at[i]])
		f.Add(append(slices.Clone(data[:at[i]]), make([]byte, 1024)...))
	}
	key, _ := newKey(f, "k")
	_, withKey := signedSample(f, key)
	f.Add(withKey)
	for i := range 40 {
		bad := slices.Clone(data)
		bad[i*len(bad)/40] ^= 0x10
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := read(in)
		if err != nil {
			if !errors.Is(err, archive.ErrDamaged) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if err := b.Verify(t.Context(), nil); err != nil {
			return
		}
		// What opens and verifies is exactly what a writer writes.
		m := b.Manifest()
		var out bytes.Buffer
		_, _, err = archive.Write(&out, &m, b.OpenBlob)
		if len(b.Signatures()) > 0 { // tested by itself, without their writer
			body := out.Len() - 1024
			out.Truncate(body)
			out.Write(in[body:])
		}
		if err != nil || !bytes.Equal(out.Bytes(), in) {
			t.Fatal(fmt.Errorf("accepted a file that is not canonical: %w", err))
		}
	})
}
