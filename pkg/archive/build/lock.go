package build

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

const lockKind = "BundleLock"

const lockHeader = `# Written by "kocli bundle build": what was downloaded for the bundle.yaml beside
# this file, by digest. Later builds accept nothing else. Commit it; to take
# newer content, build with --update-lock, or delete this file.
`

// lock is bundle.lock.
type lock struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Items      []lockItem    `json:"items"`
	Packages   []lockRequest `json:"packages,omitempty"`
}

// lockItem is one thing with its digest: of the file, or of the image's
// manifest.
type lockItem struct {
	Item    string           `json:"item"`
	Version string           `json:"version,omitempty"` // of OS packages
	URL     string           `json:"url"`
	Digest  string           `json:"digest"`
	Size    int64            `json:"size,omitempty"`
	Package *archive.Package `json:"package,omitempty"`
}

// lockRequest is what the names of some OS packages led to.
type lockRequest struct {
	Request string     `json:"request"`
	Items   []lockItem `json:"items"`
}

func newLock() *lock { return &lock{APIVersion: archive.APIVersion, Kind: lockKind} }

// readLock reads a lock; nil when there is none.
func readLock(path string) (*lock, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	var l lock
	if err = yaml.UnmarshalStrict(data, &l); err == nil && (l.APIVersion != archive.APIVersion || l.Kind != lockKind) {
		err = fmt.Errorf("apiVersion %q and kind %q are not %s and %s", l.APIVersion, l.Kind, archive.APIVersion, lockKind)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "restore the file from your version control, or delete it to lock anew", fmt.Errorf("lock %s: %w", path, err))
	}
	return &l, nil
}

// all are the lines of the lock, those of packages included.
func (l *lock) all() []lockItem {
	out := slices.Clone(l.Items)
	for _, r := range l.Packages {
		out = append(out, r.Items...)
	}
	return out
}

// line returns the line of an item.
func (l *lock) line(item string) (lockItem, bool) {
	i := slices.IndexFunc(l.Items, func(x lockItem) bool { return x.Item == item })
	if i < 0 {
		return lockItem{}, false
	}
	return l.Items[i], true
}

// packages returns what a request led to, or nil.
func (l *lock) packages(request string) []lockItem {
	for _, r := range l.Packages {
		if r.Request == request {
			return r.Items
		}
	}
	return nil
}

// checkLock holds what was found against the lock, and collects the new one.
func (b *builder) checkLock(parts []*part) error {
	for _, p := range parts {
		switch {
		case p.request != "":
			b.new.Packages = append(b.new.Packages, lockRequest{p.request, p.locked})
		default:
			b.new.Items = append(b.new.Items, p.locked...)
		}
	}
	byItem := func(x, y lockItem) int { return cmp.Compare(x.Item, y.Item) }
	slices.SortFunc(b.new.Items, byItem)
	slices.SortFunc(b.new.Packages, func(x, y lockRequest) int { return cmp.Compare(x.Request, y.Request) })
	if b.opts.UpdateLock || b.opts.LockPath == "" {
		return nil
	}
	old := map[string]string{}
	if b.old != nil {
		for _, l := range b.old.all() {
			old[l.Item] = l.Digest
		}
	}
	var wrong []string
	for _, l := range b.new.all() {
		switch have, ok := old[l.Item]; {
		case ok && have != l.Digest:
			wrong = append(wrong, fmt.Sprintf("%s: locked %s, found %s at %s", l.Item, have, l.Digest, l.URL))
		case !ok && b.opts.Locked:
			wrong = append(wrong, fmt.Sprintf("%s: not in the lock, found %s at %s", l.Item, l.Digest, l.URL))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &fault.Error{
		Op: "check " + b.opts.LockPath, Code: fault.Bundle, Err: errors.New(strings.Join(wrong, "; ")),
		Hint: "if the change is wanted, build with --update-lock and commit the new lock; if not, upstream or the mirror changed what it had published",
	}
}

// writeLock writes the new lock where it differs from the old one.
func (b *builder) writeLock() (changed bool, err error) {
	if b.opts.LockPath == "" {
		return false, nil
	}
	text, err := yaml.Marshal(b.new)
	if err != nil {
		return false, err
	}
	text = append([]byte(lockHeader), text...)
	if old, err := os.ReadFile(b.opts.LockPath); err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	return true, replaceFile(b.opts.LockPath, func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
}
