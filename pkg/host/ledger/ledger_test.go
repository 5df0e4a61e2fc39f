package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
)

func put(t *testing.T, h host.Host, name, content string) bool {
	t.Helper()
	changed, err := h.Put(t.Context(), host.Bytes(name, 0o600, []byte(content)))
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func read(t *testing.T, r host.Reader) ledger.Book {
	t.Helper()
	b, err := ledger.Read(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHost_keepsTheOriginalOnce(t *testing.T) {
	m := hosttest.New("n")
	m.Write("/etc/there", 0o644, "original")
	for i := range 3 { // three runs of kocli
		h := ledger.Wrap(m)
		put(t, h, "/etc/there", fmt.Sprint("run ", i))
		put(t, h, "/etc/new", fmt.Sprint("run ", i))
	}
	if text, _ := m.Read(ledger.OriginalPath("/etc/there")); text != "original" {
		t.Errorf("the original is %q", text)
	}
	if _, ok := m.Read(ledger.OriginalPath("/etc/new")); ok {
		t.Error("there was no original to keep")
	}
	b := read(t, m)
	if len(b) != 2 || !b.Has("/etc/there", ledger.FileKept) || !b.Has("/etc/new", ledger.FileAbsent) {
		t.Errorf("the ledger holds %v", b)
	}
}

func TestHost_notesBeforeItWrites(t *testing.T) {
	m := hosttest.New("n")
	m.CutAfter(1)
	if _, err := ledger.Wrap(m).Put(t.Context(), host.Bytes("/etc/new", 0o600, nil)); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("got %v", err)
	}
	m.CutBefore(0)
	if _, ok := m.Read("/etc/new"); ok || !read(t, m).Has("/etc/new", ledger.FileAbsent) {
		t.Errorf("file there: %t, ledger %v", ok, read(t, m))
	}
}

func TestHost_manyAtOnce(t *testing.T) {
	m := hosttest.New("n")
	h := ledger.Wrap(m)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := h.Put(t.Context(), host.Bytes(fmt.Sprintf("/f%d", i%10), 0o600, []byte("x"))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b := read(t, m); len(b) != 10 {
		t.Errorf("%d entries", len(b))
	}
}

// digests counts how often a file is read for its digest.
func digests(m *hosttest.Machine) *int {
	n := new(int)
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		if argv[0] == "sha256sum" {
			*n++
		}
		return "", 0, false
	})
	return n
}

func TestDiffers_trustsSizeAndTimeOfLargeFiles(t *testing.T) {
	m := hosttest.New("n")
	f := host.Bytes("/usr/bin/large", 0o755, bytes.Repeat([]byte("x"), 2<<20))
	h := ledger.Wrap(m)
	if changed, err := h.Put(t.Context(), f); err != nil || !changed {
		t.Fatalf("%t, %v", changed, err)
	}
	n := digests(m)
	differs := func(f host.File) string {
		t.Helper()
		d, err := ledger.Differs(t.Context(), m, f)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := differs(f); d != "" || *n != 0 {
		t.Errorf("%q, %d digests", d, *n)
	}
	if changed, err := ledger.Wrap(m).Put(t.Context(), f); err != nil || changed || *n != 0 {
		t.Errorf("put again: %t, %v, %d digests", changed, err, *n)
	}
	other := host.Bytes(f.Path, 0o755, bytes.Repeat([]byte("y"), 2<<20))
	if d := differs(other); d != "content" || *n != 1 {
		t.Errorf("another content is wanted: %q, %d digests", d, *n)
	}
	mode := f
	mode.Mode = 0o700
	if d := differs(mode); d != "mode 0755" {
		t.Errorf("another mode is wanted: %q", d)
	}
	// Somebody changed the file: its size tells.
	m.Write(f.Path, 0o755, "short")
	if d := differs(f); d != "content" {
		t.Errorf("a file that was changed: %q", d)
	}
	m.Delete(f.Path)
	if d := differs(f); d != "absent" {
		t.Errorf("a file that is gone: %q", d)
	}
	// kocli itself wrote another version since: the last entry counts.
	if _, err := h.Put(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if d := differs(f); d != "content" {
		t.Errorf("an older version is wanted: %q", d)
	}
	if d := differs(other); d != "" {
		t.Errorf("the newer version: %q", d)
	}
}

func TestDiffers_readsSmallFiles(t *testing.T) {
	m := hosttest.New("n")
	n := digests(m)
	put(t, ledger.Wrap(m), "/small", "x")
	if d, err := ledger.Differs(t.Context(), m, host.Bytes("/small", 0o600, []byte("x"))); err != nil || d != "" || *n == 0 {
		t.Errorf("%q, %v, %d digests", d, err, *n)
	}
}

func TestRead_passesOverATornLine(t *testing.T) {
	m := hosttest.New("n")
	if b := read(t, m); len(b) != 0 {
		t.Errorf("without a file: %v", b)
	}
	m.Write(ledger.Path(), 0o600, `{"kind":"swap","name":"/dev/a"}`+"\n\nnot json\n{}\n"+`{"kind":"package","name":"soc`)
	if b := read(t, m); len(b) != 1 || b[0].Name != "/dev/a" {
		t.Errorf("got %v", b)
	}
	m.Cut()
	if _, err := ledger.Read(t.Context(), m); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("a lost host: %v", err)
	}
}

func TestAppend_keepsOrderAndTheFirstEntryTellsWhatWas(t *testing.T) {
	m := hosttest.New("n")
	add := func(e ...ledger.Entry) {
		t.Helper()
		if err := ledger.Append(t.Context(), m, e...); err != nil {
			t.Fatal(err)
		}
	}
	add(ledger.Entry{Kind: ledger.Sysctl, Name: "a", Value: "0"}, ledger.Entry{Kind: ledger.Sysctl, Name: "b", Value: "1"})
	add()
	add(ledger.Entry{Kind: ledger.Sysctl, Name: "a", Value: "9"}, ledger.Entry{Kind: ledger.Package, Name: "it's \"x\"\n"})
	got := read(t, m).Of(ledger.Sysctl)
	want := []ledger.Entry{{Kind: ledger.Sysctl, Name: "a", Value: "0"}, {Kind: ledger.Sysctl, Name: "b", Value: "1"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if b := read(t, m); len(b) != 4 || b[3].Name != "it's \"x\"\n" {
		t.Errorf("got %v", b)
	}
	if m.Writes() != 2 {
		t.Errorf("%d writes for two entries and nothing", m.Writes())
	}
}

func TestOriginalPath_staysBelowItsFolder(t *testing.T) {
	for _, name := range []string{"/etc/hosts", "../../etc/shadow", "/../x", "relative"} {
		if p := ledger.OriginalPath(name); !strings.HasPrefix(p, ledger.Root()+"/originals/") {
			t.Errorf("%s is kept at %s", name, p)
		}
	}
}

func TestHost_tunnel(t *testing.T) {
	m := hosttest.New("n")
	if _, err := ledger.Wrap(m).DialContext(t.Context(), "tcp", "x:1"); err == nil || !strings.Contains(err.Error(), "no tunnel from n to x:1") {
		t.Errorf("got %v", err)
	}
	var _ host.Tunnel = ledger.Wrap(m)
}

// Files whose digest the ledger knows are found, as long as they are as kocli
// left them.
func TestInstalled_asKocliLeftThem(t *testing.T) {
	m := hosttest.New("n")
	large := func(c string) (host.File, string) {
		f := host.Bytes("/usr/bin/"+c, 0o755, bytes.Repeat([]byte(c), ledger.Large))
		return f, "sha256:" + f.SHA256
	}
	a, da := large("a")
	b, db := large("b")
	c, dc := large("c")
	h := ledger.Wrap(m)
	for _, f := range []host.File{a, b, c} {
		if _, err := h.Put(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	m.Write(b.Path, 0o755, "changed")
	m.Delete(c.Path)
	got, err := ledger.Installed(t.Context(), m, map[string]bool{da: true, db: true, dc: true, "": true})
	if err != nil || len(got) != 1 || got[da] != a.Path {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ledger.Installed(t.Context(), hosttest.New("bare"), map[string]bool{da: true}); err != nil || len(got) != 0 {
		t.Errorf("a bare host: %v, %v", got, err)
	}
}
