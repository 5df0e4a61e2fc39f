package content_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/content"
)

// program is content of which the next version differs in a byte here and there.
func program(seed uint64, size, version int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	for i := 100; i < size; i += 1000 {
		out[i] += byte(version)
	}
	return out
}

// bundles are the old one, the new one, and the delta from one to the other, with a
// kubelet of so many bytes.
type bundles struct{ old, whole, delta *archive.Bundle }

func newBundles(t testing.TB, kubelet int) bundles {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, version int) string {
		c := archivetest.Content{}
		zipped := c.File(archive.KindBinary, "kubelet", name, "kubelet", archive.RoleAll, program(1, kubelet, version))
		c.Compress(&zipped)
		zipped.Component = "kubernetes"
		plain := c.File(archive.KindBinary, "runc", name, "runc", archive.RoleAll, program(2, 50_000, version))
		plain.Component = "kubernetes"
		same := c.File(archive.KindBinary, "ctr", "1", "ctr", archive.RoleAll, program(3, 10_000, 0))
		same.Component = "kubernetes"
		m := &archive.Manifest{Name: name, BuiltBy: "test", Architectures: []string{"amd64"}, Items: []archive.Item{zipped, plain, same}}
		if version > 0 {
			fresh := c.File(archive.KindBinary, "fresh", name, "fresh", archive.RoleAll, program(4, 10_000, 0))
			fresh.Component = "kubernetes"
			m.Items = append(m.Items, fresh)
		}
		var b bytes.Buffer
		if _, _, err := archive.Write(&b, m, c.Open); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".tar")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	paths := []string{write("v1", 0), write("v2", 3), filepath.Join(dir, "d.tar")}
	if _, err := delta.Make(t.Context(), delta.Options{Base: paths[0], Input: paths[1], Output: paths[2], Version: "test"}); err != nil {
		t.Fatal(err)
	}
	var b bundles
	for i, to := range []**archive.Bundle{&b.old, &b.whole, &b.delta} {
		var err error
		if *to, err = delta.Open(paths[i], nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*to).Close() })
	}
	return b
}

// site has two hosts to which programs of a bundle are to come.
type site struct {
	hosts hosts
	bin   string // where programs are installed
	o     content.Options
	sent  int64
	made  int
}

func newSite(t testing.TB, b *archive.Bundle) *site {
	t.Helper()
	s := &site{hosts: hosts{}, bin: t.TempDir()}
	files, err := payload.For(b, payload.Target{Arch: archivetest.Arch}).Binaries("kubernetes", s.bin)
	if err != nil {
		t.Fatal(err)
	}
	install := converge.Files{Name: "test/files", List: func(context.Context, host.Reader) ([]host.File, error) { return files, nil }}
	s.o = content.Options{
		Dialer: s.hosts, Mode: fanout.Chain, Now: time.Now, Relay: []string{"relay"},
		Item: func(digest string) (fanout.Item, bool) {
			x, ok := b.Section(digest)
			if !ok {
				return fanout.Item{}, false
			}
			return fanout.Item{Digest: digest, Size: x.Size(), Content: x}, true
		},
		Delta: content.Of(b, []string{"apply"}, "the hint"),
		Done:  func(r fanout.Report) { s.sent = r.Sent },
		Made:  func(blobs int, _ int64) { s.made = blobs },
	}
	for _, n := range []string{"n1", "n2"} {
		m := hosttest.New(n)
		m.OnDial((&net.Dialer{}).DialContext)
		s.hosts[n] = relayed{m, filepath.Join(t.TempDir(), n), t.TempDir()}
		s.o.Nodes = append(s.o.Nodes, content.Node{Name: n, IP: "127.0.0.1", Steps: []plan.Step{install}})
	}
	return s
}

// hold has a host hold blobs of a bundle: all of them, or those named.
func (s *site) hold(t testing.TB, node string, b *archive.Bundle, digests ...string) {
	t.Helper()
	if m := b.Manifest(); len(digests) == 0 {
		for _, d := range m.Contents() {
			digests = append(digests, d.Digest)
		}
	}
	for _, d := range digests {
		r, ok := b.Section(d)
		if !ok {
			t.Fatalf("%s is not there", d)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		h := s.hosts[node]
		h.Write(fanout.Path(fanout.Root(), d), 0o600, string(data))
		p := fanout.Path(h.dir, d)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// holds wants a host to hold all of a bundle, and no patch of the delta.
func (s *site) holds(t testing.TB, node string, b bundles) {
	t.Helper()
	have, err := fanout.Stored(t.Context(), s.hosts[node])
	if err != nil {
		t.Fatal(err)
	}
	m := b.whole.Manifest()
	for _, d := range m.Contents() {
		if have[d.Digest] != d.Size {
			t.Errorf("%s lacks %s", node, d.Digest)
		}
	}
	for _, d := range s.o.Delta.Patches {
		if _, there := have[d]; there {
			t.Errorf("%s still has the patch %s", node, d)
		}
	}
}

func (s *site) apply(t testing.TB) error {
	t.Helper()
	return content.Push(s.o).Apply(t.Context(), s.hosts["n1"])
}

func TestDelta_convergesWhereverItIsCut(t *testing.T) {
	b := newBundles(t, 100_000)
	plantest.Converges(t, func() plantest.World {
		s := newSite(t, b.delta)
		s.hold(t, "n1", b.old)
		s.hold(t, "n2", b.old)
		return plantest.World{Step: content.Push(s.o), Host: s.hosts["n1"].Machine, State: func() string { return strings.Join(s.hosts["n2"].Files(), "\n") }}
	})
}

func TestDelta_isSentInPlaceOfTheWhole(t *testing.T) {
	b := newBundles(t, 100_000)
	s := newSite(t, b.delta)
	s.hold(t, "n1", b.old)
	s.hold(t, "n2", b.old)
	changes, err := content.Push(s.o).Check(t.Context(), nil)
	if err != nil || len(changes) != 2 || !strings.Contains(changes[0].To, "2 made there") {
		t.Fatalf("%v, %v", changes, err)
	}
	if err := content.Refusal(t.Context(), s.o); err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t); err != nil {
		t.Fatal(err)
	}
	s.holds(t, "n1", b)
	s.holds(t, "n2", b)
	whole := b.whole.Size()
	if s.made != 4 || s.sent == 0 || s.sent > whole/10 || changes[0].Bytes > whole/10 {
		t.Errorf("%d blobs made, %d bytes sent for two hosts, of %d", s.made, s.sent, whole)
	}
	// The whole bundle has nothing to send any more.
	after := newSite(t, b.whole)
	after.hosts["n1"], after.hosts["n2"] = s.hosts["n1"], s.hosts["n2"]
	if c, err := content.Push(after.o).Check(t.Context(), nil); err != nil || len(c) > 0 {
		t.Errorf("%v, %v", c, err)
	}
}

// After an install, kocli's store is empty: programs are where they run.
func TestDelta_goesOnFromWhatIsInstalled(t *testing.T) {
	b := newBundles(t, ledger.Large)
	s := newSite(t, b.delta)
	old := b.old.Manifest()
	for _, n := range []string{"n1", "n2"} {
		h := s.hosts[n]
		for _, it := range old.Items {
			r, err := b.old.OpenBlob(it.Digest)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if it.Name == "runc" { // too small for the ledger; it is there from a push
				s.hold(t, n, b.old, it.Digest)
				continue
			}
			p := filepath.Join(s.bin, it.Name)
			h.Write(p, 0o755, string(data))
			if err := os.WriteFile(p, data, 0o600); err != nil { // the process reads the real disk
				t.Fatal(err)
			}
			st, err := h.Stat(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if it.Name == "kubelet" {
				lines, err := ledger.Lines([]ledger.Entry{{Kind: ledger.Content, Name: p, SHA256: it.Digest[7:], Size: it.Size, ModTime: st.ModTime().Unix()}})
				if err != nil {
					t.Fatal(err)
				}
				h.Write(ledger.Path(), 0o600, string(lines))
			}
		}
	}
	// Changed since, it is no base any more.
	kubelet, _ := s.hosts["n2"].Read(filepath.Join(s.bin, "kubelet"))
	s.hosts["n2"].Write(filepath.Join(s.bin, "kubelet"), 0o755, "another")
	var nowhere *content.NowhereError
	if err := content.Refusal(t.Context(), s.o); !errors.As(err, &nowhere) || len(nowhere.Blobs) != 1 || fault.NodeOf(err) != "n2" {
		t.Errorf("got %v", err)
	}
	s.hosts["n2"].Write(filepath.Join(s.bin, "kubelet"), 0o755, kubelet)
	if err := s.apply(t); err != nil || s.made != 4 {
		t.Fatal(err, s.made)
	}
	for _, it := range b.whole.Items(archive.Filter{}) {
		have, err := fanout.Stored(t.Context(), s.hosts["n2"])
		if d := it.Digests()[0]; err != nil || it.Name != "ctr" && have[d] == 0 {
			t.Errorf("%s is not there: %v", it.Name, err)
		}
	}
}

func TestDelta_listsWhatIsNowhere(t *testing.T) {
	b := newBundles(t, 100_000)
	s := newSite(t, b.delta)
	s.hold(t, "n1", b.old)
	err := content.Refusal(t.Context(), s.o)
	if fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) != "the hint" || fault.NodeOf(err) != "n2" {
		t.Fatalf("%v (%s)", err, fault.HintOf(err))
	}
	for _, want := range []string{
		"3 blobs are neither in the delta nor made of what the host has",
		" of ctr 1 (amd64): it is as in v1, and the host has not got it",
		" of kubelet v2 (amd64): the delta has changes to sha256:",
		" of runc v2 (amd64): the delta has changes to sha256:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if err := s.apply(t); fault.CodeOf(err) != fault.Bundle || s.sent > 0 || len(s.hosts["n2"].Files()) > 0 {
		t.Errorf("something was changed: %v", err)
	}
	if _, err := content.Push(s.o).Check(t.Context(), nil); fault.CodeOf(err) != fault.Bundle {
		t.Errorf("a preview: %v", err)
	}
	// Hosts that lack the same are named together.
	s = newSite(t, b.delta)
	if err := content.Refusal(t.Context(), s.o); fault.NodeOf(err) != "n1,n2" || strings.Count(err.Error(), "of kubelet") != 1 {
		t.Errorf("got %v", err)
	}
	// What comes before has to be whole in the delta.
	s.hold(t, "n1", b.old)
	s.hold(t, "n2", b.old)
	s.o.Nodes[1].First = s.o.Nodes[1].Steps
	if err := content.Refusal(t.Context(), s.o); fault.NodeOf(err) != "n2" || !strings.Contains(err.Error(), "would have to be whole in the delta") {
		t.Errorf("got %v", err)
	}
}

// A run that was killed once its blobs were made leaves patches; the next one
// has them removed, and sends nothing.
func TestDelta_restsAreRemoved(t *testing.T) {
	b := newBundles(t, 100_000)
	s := newSite(t, b.delta)
	for _, n := range []string{"n1", "n2"} {
		s.hold(t, n, b.whole)
		s.hold(t, n, b.delta, s.o.Delta.Patches[0])
	}
	changes, err := content.Push(s.o).Check(t.Context(), nil)
	if err != nil || len(changes) != 2 || changes[0].Bytes != 0 {
		t.Fatalf("%v, %v", changes, err)
	}
	if err := s.apply(t); err != nil || s.sent > 0 || s.made > 0 {
		t.Fatal(err, s.sent, s.made)
	}
	s.holds(t, "n1", b)
	// Patches that came and are still to be used are not sent again.
	s = newSite(t, b.delta)
	for _, n := range []string{"n1", "n2"} {
		s.hold(t, n, b.old)
		s.hold(t, n, b.delta, slices.Clone(s.o.Delta.Patches)...)
		for _, it := range b.delta.Items(archive.Filter{}) {
			if it.Name == "fresh" && b.delta.Has(it.Digest) {
				s.hold(t, n, b.delta, it.Digest)
			}
		}
	}
	if err := s.apply(t); err != nil || s.sent > 0 || s.made == 0 {
		t.Fatal(err, s.sent, s.made)
	}
	s.holds(t, "n2", b)
}

// What a host says of a delta that is wrong, or of another kocli, is told with its
// name and what to do.
func TestDelta_saysWhatAHostSays(t *testing.T) {
	b := newBundles(t, 100_000)
	s := newSite(t, b.delta)
	s.hold(t, "n1", b.old)
	s.hold(t, "n2", b.old)
	for _, it := range b.old.Items(archive.Filter{}) { // damaged since, which only reading shows
		if it.Name == "runc" {
			if err := os.WriteFile(fanout.Path(s.hosts["n2"].dir, it.Digest), make([]byte, it.Size), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.apply(t); fault.CodeOf(err) != fault.Bundle || fault.NodeOf(err) != "n2" || fault.HintOf(err) != "the hint" || !strings.Contains(err.Error(), "not what its digest says") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	// It has left the store: the same command says what there is to do.
	var nowhere *content.NowhereError
	if err := s.apply(t); !errors.As(err, &nowhere) || len(nowhere.Blobs) != 1 || fault.NodeOf(err) != "n2" {
		t.Errorf("got %v", err)
	}
	s.hold(t, "n2", b.old)
	release, err := fanout.Hold(s.hosts["n2"].dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t); fault.CodeOf(err) != fault.Locked || !strings.Contains(fault.HintOf(err), "wait until") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t); err != nil {
		t.Fatal(err)
	}
	s.holds(t, "n2", b)
}
