package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/fault"
)

// maxReceipt is the largest receipt, in bytes.
const maxReceipt = 1 << 20

// orphanAfter is when an archive without a receipt is what a killed run left, and
// not one that is being made.
const orphanAfter = 24 * time.Hour

// Store is a target with archives in it, each beside its receipt.
type Store struct{ target.Target }

// Save has write make an archive, and puts its receipt beside it once all of it is
// there. After an error nothing is listed that was not before.
func (s Store) Save(ctx context.Context, name string, key archive.PrivateKey, write func(io.Writer) (Receipt, error)) (r Receipt, err error) {
	u, err := s.Create(ctx, name)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			_ = u.Abort() // the error that is returned says more
		}
	}()
	if r, err = write(u); err != nil {
		return r, err
	}
	if err := u.Commit(); err != nil {
		return r, err
	}
	if err := s.arrived(ctx, name, r.Size); err != nil {
		return r, err
	}
	r.Name = name
	doc, err := SignReceipt(r, key)
	if err != nil {
		return r, err
	}
	return r, s.put(ctx, ReceiptName(name), doc)
}

// arrived returns nil when the target has a file of this size.
func (s Store) arrived(ctx context.Context, name string, size int64) error {
	all, err := s.List(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(e target.Entry) bool { return e.Name == name })
	if i < 0 || all[i].Size != size {
		return fault.New(fault.Failure, "run the same command again; earlier backups are as they were", fmt.Errorf("%s does not have %s as it was sent, %d bytes", s, name, size))
	}
	return nil
}

func (s Store) put(ctx context.Context, name string, data []byte) error {
	u, err := s.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := u.Write(data); err != nil {
		return errors.Join(err, u.Abort())
	}
	if err := u.Commit(); err != nil {
		return errors.Join(err, u.Abort())
	}
	return nil
}

// Item is a backup that is complete.
type Item struct {
	Receipt
	Signer archive.PublicKey `json:"-"`
}

// All lists the backups that are complete, of one cluster or, where that is empty, of
// all, the newest first. What is wrong with others is in the notes, a line each.
func (s Store) All(ctx context.Context, cluster string) (items []Item, notes []string, err error) {
	entries, err := s.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		sizes[e.Name] = e.Size
	}
	for _, e := range entries {
		name, ok := IsReceipt(e.Name)
		if !ok || cluster != "" && !strings.HasPrefix(name, cluster+"-") {
			continue
		}
		r, signer, err := s.receipt(ctx, e.Name)
		if err != nil && ctx.Err() != nil {
			return nil, nil, err
		}
		size, there := sizes[name]
		switch {
		case err != nil:
			notes = append(notes, fmt.Sprintf("%s: %v", e.Name, err))
		case r.Name != name:
			notes = append(notes, fmt.Sprintf("%s is the receipt of another archive, %s", e.Name, r.Name))
		case !there:
			notes = append(notes, name+" is gone, and its receipt is still there")
		case size != r.Size:
			notes = append(notes, fmt.Sprintf("%s has %d bytes, and should have %d: it is damaged", name, size, r.Size))
		case cluster == "" || r.Cluster == cluster:
			items = append(items, Item{r, signer})
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return b.Created.Compare(a.Created) })
	return items, notes, nil
}

func (s Store) receipt(ctx context.Context, name string) (Receipt, archive.PublicKey, error) {
	f, err := s.Open(ctx, name)
	if err != nil {
		return Receipt{}, archive.PublicKey{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxReceipt))
	if err := errors.Join(err, f.Close()); err != nil {
		return Receipt{}, archive.PublicKey{}, err
	}
	return OpenReceipt(data)
}

// Find returns the backup of a name, or the newest of a cluster where it is empty.
func (s Store) Find(ctx context.Context, cluster, name string) (Item, error) {
	items, notes, err := s.All(ctx, cluster)
	if err != nil {
		return Item{}, err
	}
	for _, i := range items {
		if name == "" || i.Name == name {
			return i, nil
		}
	}
	what := "no backup of cluster " + cluster
	if name != "" {
		what = "no complete backup called " + name
	}
	if len(notes) > 0 {
		what += " (" + strings.Join(notes, "; ") + ")"
	}
	return Item{}, fault.New(fault.Backup, "kocli backup list shows what is there", fmt.Errorf("%s is in %s", what, s))
}

// Prune removes the backups of a cluster that r keeps no longer, and what runs that
// were killed have left. Those that are not signed by a key of trust are left alone
// and do not count. The newest that counts always stays. With dry it only says what
// would go.
func (s Store) Prune(ctx context.Context, cluster string, r Retention, t Trust, now time.Time, dry bool) (gone []Receipt, err error) {
	items, _, err := s.All(ctx, cluster)
	if err != nil {
		return nil, err
	}
	var ours []Receipt
	for _, i := range items {
		if len(t.Keys) == 0 || t.Check(i.Signer) == nil {
			ours = append(ours, i.Receipt)
		}
	}
	gone = r.Expired(ours, now)
	if dry {
		return gone, nil
	}
	for n, b := range gone {
		// The receipt first: whoever is listed is complete.
		for _, name := range []string{ReceiptName(b.Name), b.Name} {
			if err := s.Remove(ctx, name); err != nil {
				return gone[:n], err
			}
		}
	}
	return gone, s.clear(ctx, cluster, now)
}

// clear removes archives whose receipt never came.
func (s Store) clear(ctx context.Context, cluster string, now time.Time) error {
	entries, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := IsReceipt(ReceiptName(e.Name)); !ok || !strings.HasPrefix(e.Name, cluster+"-") || now.Sub(e.Modified) < orphanAfter {
			continue
		}
		if slices.ContainsFunc(entries, func(o target.Entry) bool { return o.Name == ReceiptName(e.Name) }) {
			continue
		}
		if err := s.Remove(ctx, e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
