// Package ledger remembers on each host what kocli changed there and what was
// there before, so that `kocli reset` can bring it back. It is written before
// the change it speaks of: a host that loses power in between can be undone.
package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"sync"

	"github.com/kocli/kocli/pkg/host"
)

// Root is kocli's own folder on a host.
func Root() string { return "/var/lib/kocli" }

// Path is the ledger's file on a host: one JSON object a line.
func Path() string { return path.Join(Root(), "ledger.jsonl") }

// UpgradeDir is where an upgrade keeps what it replaces, secrets among it.
func UpgradeDir() string { return path.Join(Root(), "upgrade") }

// OriginalPath is where the file that stood at name is kept.
func OriginalPath(name string) string { return path.Join(Root(), "originals", path.Clean("/"+name)) }

// Kind says what an Entry is about.
type Kind string

// The kinds of entries. Written to hosts: never rename.
const (
	FileAbsent Kind = "file-absent" // kocli made a file where none was
	FileKept   Kind = "file-kept"   // kocli replaced a file; the original is kept
	Content    Kind = "content"     // what a large file held when kocli wrote it
	Package    Kind = "package"     // kocli installed an OS package
	Swap       Kind = "swap"        // kocli turned a swap device off
	Hostname   Kind = "hostname"    // Value is the name before
	Sysctl     Kind = "sysctl"      // Name=Value before
	Service    Kind = "service"     // kocli enabled a service
)

// Entry is one line of the ledger.
type Entry struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"` // path, package, device or key
	Value   string `json:"value,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Size    int64  `json:"size,omitempty"`
	ModTime int64  `json:"modTime,omitempty"` // seconds since 1970
}

// Book is a ledger that was read. Of several entries of one kind and name the
// first tells what was there before, the last what is there now.
type Book []Entry

// Read returns the ledger of a host; empty where there is none. A line that was
// cut off by a loss of power is passed over.
func Read(ctx context.Context, r host.Reader) (Book, error) {
	data, err := r.ReadFile(ctx, Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return Parse(data), nil
}

// Parse reads a ledger's content and passes over what is not an entry.
func Parse(data []byte) Book {
	var out Book
	for _, l := range bytes.Split(data, []byte("\n")) {
		var e Entry
		if json.Unmarshal(l, &e) == nil && e.Kind != "" {
			out = append(out, e)
		}
	}
	return out
}

// Has reports whether there is an entry of one of the kinds for name.
func (b Book) Has(name string, kinds ...Kind) bool {
	for _, e := range b {
		for _, k := range kinds {
			if e.Kind == k && e.Name == name {
				return true
			}
		}
	}
	return false
}

// Of lists the first entry for each name of a kind, in order.
func (b Book) Of(kind Kind) []Entry {
	var out []Entry
	seen := map[string]bool{}
	for _, e := range b {
		if e.Kind == kind && !seen[e.Name] {
			seen[e.Name] = true
			out = append(out, e)
		}
	}
	return out
}

// content returns the newest content entry for a path.
func (b Book) content(name string) (Entry, bool) {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i].Kind == Content && b[i].Name == name {
			return b[i], true
		}
	}
	return Entry{}, false
}

// Installed returns where files with these digests ("sha256:...") stand as kocli
// left them: large ones, whose size and time are those that the ledger has.
func Installed(ctx context.Context, r host.Reader, digests map[string]bool) (map[string]string, error) {
	book, err := Read(ctx, r)
	if err != nil {
		return nil, err
	}
	newest := map[string]Entry{} // by path
	for _, e := range book {
		if e.Kind == Content {
			newest[e.Name] = e
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]string{}
	var errs []error
	for _, e := range newest {
		if !digests["sha256:"+e.SHA256] {
			continue
		}
		wg.Go(func() {
			info, err := r.Stat(ctx, e.Name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, ignoreAbsent(err))
			} else if d := "sha256:" + e.SHA256; info.Mode().IsRegular() && info.Size() == e.Size && info.ModTime().Unix() == e.ModTime && (out[d] == "" || e.Name < out[d]) {
				out[d] = e.Name
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// Large is the size, in bytes, from which a digest is not computed again as long as the
// file's size and time are as kocli left them.
const Large = 1 << 20

// Differs is host.Differs that trusts the ledger for large files.
func Differs(ctx context.Context, r host.Reader, f host.File) (string, error) {
	if f.Size >= Large {
		same, err := unchanged(ctx, r, f)
		if err != nil || same {
			return "", err
		}
	}
	return host.Differs(ctx, r, f)
}

// unchanged reports whether a file is as the ledger says that kocli left it.
// Both questions are asked at once.
func unchanged(ctx context.Context, r host.Reader, f host.File) (bool, error) {
	type answer struct {
		book Book
		err  error
	}
	ch := make(chan answer, 1)
	go func() {
		b, err := Read(ctx, r)
		ch <- answer{b, err}
	}()
	info, err := r.Stat(ctx, f.Path)
	a := <-ch
	if a.err != nil {
		return false, a.err
	}
	if err != nil {
		return false, ignoreAbsent(err)
	}
	e, ok := a.book.content(f.Path)
	mode, owner := f.Want()
	return ok && e.SHA256 == f.SHA256 && e.Size == info.Size() && e.ModTime == info.ModTime().Unix() &&
		info.Mode().IsRegular() && info.Mode().Perm() == mode && info.Sys() == owner, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Lines is how entries stand in a ledger.
func Lines(entries []Entry) ([]byte, error) {
	var lines bytes.Buffer
	for _, e := range entries {
		l, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		lines.Write(append(l, '\n'))
	}
	return lines.Bytes(), nil
}

// Append writes entries to the ledger of a host in one round trip.
func Append(ctx context.Context, h host.Host, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	lines, err := Lines(entries)
	if err != nil {
		return err
	}
	c := host.Command("sh", "-c", appendScript, "kocli-append", Path())
	c.Stdin = bytes.NewReader(lines)
	if _, err := h.Run(ctx, c); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// torn ends a last line that was cut off, so that it does not swallow the next.
const torn = `torn() { [ ! -s "$1" ] || [ -z "$(tail -c 1 -- "$1")" ] || echo >>"$1"; }
`

const appendScript = torn + `set -e; umask 077; mkdir -p -- "${1%/*}"; torn "$1"; cat >>"$1"; sync -d -- "$1" 2>/dev/null || :`

// preserveScript keeps what stands at $1 under $2 unless that is there already,
// and writes line $4 (nothing was there) or $5 (kept) to the ledger $3.
const preserveScript = torn + `set -e; umask 077; mkdir -p -- "${2%/*}" "${3%/*}"
if [ -e "$1" ] || [ -L "$1" ]; then
  if [ ! -e "$2" ] && [ ! -L "$2" ]; then rm -rf -- "$2.new"; cp -a -- "$1" "$2.new"; sync -d -- "$2.new" 2>/dev/null || :; mv -T -- "$2.new" "$2"; fi
  line=$5
else line=$4; fi
torn "$3"; printf '%s\n' "$line" >>"$3"; sync -d -- "$3" 2>/dev/null || :`

// Host is a host that keeps the ledger of every file it writes.
type Host struct {
	host.Host

	mu     sync.Mutex
	loaded bool
	known  map[string]bool // paths whose origin is on record
}

// Wrap returns h with a ledger.
func Wrap(h host.Host) *Host { return &Host{Host: h, known: map[string]bool{}} }

// DialContext forwards to the wrapped host.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, ok := h.Host.(host.Tunnel)
	if !ok {
		return nil, errors.New("this host cannot open connections")
	}
	return t.DialContext(ctx, network, address)
}

// Put keeps what stood there before the first write to a path, and records the
// content of large files, so that they need not be read again.
func (h *Host) Put(ctx context.Context, f host.File) (bool, error) {
	if f.Size >= Large {
		if same, err := unchanged(ctx, h.Host, f); err != nil || same {
			return false, err
		}
	}
	if err := h.Preserve(ctx, f.Path); err != nil {
		return false, err
	}
	changed, err := h.Host.Put(ctx, f)
	if err != nil || f.Size < Large {
		return changed, err
	}
	info, err := h.Stat(ctx, f.Path)
	if err != nil {
		return changed, err
	}
	return changed, Append(ctx, h.Host, Entry{Kind: Content, Name: f.Path, SHA256: f.SHA256, Size: info.Size(), ModTime: info.ModTime().Unix()})
}

// Preserve keeps what stands at a path, once, before it is changed by other
// means than Put.
func (h *Host) Preserve(ctx context.Context, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.loaded {
		book, err := Read(ctx, h.Host)
		if err != nil {
			return err
		}
		for _, e := range book {
			if e.Kind == FileAbsent || e.Kind == FileKept {
				h.known[e.Name] = true
			}
		}
		h.loaded = true
	}
	if h.known[name] {
		return nil
	}
	absent, err1 := json.Marshal(Entry{Kind: FileAbsent, Name: name})
	kept, err2 := json.Marshal(Entry{Kind: FileKept, Name: name})
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := h.Run(ctx, host.Command("sh", "-c", preserveScript, "kocli-preserve", name, OriginalPath(name), Path(), string(absent), string(kept)))
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	h.known[name] = true
	return nil
}

// Remember says that the origin of paths was recorded by somebody else.
func (h *Host) Remember(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		h.known[n] = true
	}
}
