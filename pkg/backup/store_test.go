package backup_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/fault"
)

func store(t *testing.T) (backup.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backups")
	f, err := target.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return backup.Store{Target: f}, dir
}

// saved puts a small archive there, as if it were one.
func saved(t *testing.T, s backup.Store, key archive.PrivateKey, cluster string, created time.Time) backup.Receipt {
	t.Helper()
	h := backup.Header{Format: backup.Format, Version: backup.Version, Cluster: cluster, Node: "a", Created: created}
	r, err := s.Save(t.Context(), backup.Name(h, true), key, func(w io.Writer) (backup.Receipt, error) {
		n, err := io.WriteString(w, "content")
		return backup.Receipt{Header: h, Size: int64(n)}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(items []backup.Item) string {
	var out []string
	for _, i := range items {
		out = append(out, i.Created.Format("0102"))
	}
	return strings.Join(out, " ")
}

func TestStore_listsOnlyWhatIsComplete(t *testing.T) {
	s, dir := store(t)
	key := signingKey(t)
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	one := saved(t, s, key, "prod", day(1))
	two := saved(t, s, key, "prod", day(2))
	three := saved(t, s, key, "prod", day(3))
	saved(t, s, key, "other", day(4))
	_, err := s.Save(t.Context(), "prod-x.tar.zst.age", key, func(w io.Writer) (backup.Receipt, error) {
		_, _ = io.WriteString(w, "half")
		return backup.Receipt{}, syscall.ENOSPC
	})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	// Killed between the archive and its receipt.
	if err := os.WriteFile(filepath.Join(dir, "prod-20261105T000000Z-a.tar.zst.age"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, two.Name), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, one.Name)); err != nil {
		t.Fatal(err)
	}
	items, notes, err := s.All(t.Context(), "prod")
	if err != nil || names(items) != "1103" || len(notes) != 2 {
		t.Errorf("%s, %v, %v", names(items), notes, err)
	}
	if i, err := s.Find(t.Context(), "prod", ""); err != nil || i.Name != three.Name || i.Signer.ID() != key.Public().ID() {
		t.Errorf("the newest is %v, %v", i, err)
	}
	if _, err := s.Find(t.Context(), "prod", two.Name); fault.CodeOf(err) != fault.Backup || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*partial*"))
	hidden, err2 := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || err2 != nil || len(left)+len(hidden) > 0 {
		t.Error("what failed left", left, hidden)
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, i.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStore_prunesByCountAndAgeAndKeepsTheNewest(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	key, foreign := signingKey(t), signingKey(t)
	for name, tt := range map[string]struct {
		r    backup.Retention
		want string // what stays
	}{
		"no limit":                     {backup.Retention{}, "1124 1120 1110 1001"},
		"by count":                     {backup.Retention{Keep: 2}, "1124 1120"},
		"by age":                       {backup.Retention{MaxAge: 10 * 24 * time.Hour}, "1124 1120"},
		"both":                         {backup.Retention{Keep: 3, MaxAge: 3 * 24 * time.Hour}, "1124"},
		"the newest stays at any age":  {backup.Retention{MaxAge: time.Minute}, "1124"},
		"the newest stays at no count": {backup.Retention{Keep: 1}, "1124"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := store(t)
			for _, d := range []time.Time{now.AddDate(0, 0, -5), now.AddDate(0, 0, -1), now.AddDate(0, 0, -15), now.AddDate(0, -1, -24)} {
				saved(t, s, key, "prod", d)
			}
			theirs := saved(t, s, foreign, "prod", now.AddDate(0, 0, 0)) // newer, and of a key that nobody knows
			other := saved(t, s, key, "other", now.AddDate(-1, 0, 0))
			trust := backup.Trust{Keys: []archive.PublicKey{key.Public()}}
			would, err := s.Prune(t.Context(), "prod", tt.r, trust, now, true)
			if err != nil {
				t.Fatal(err)
			}
			if items, _, err := s.All(t.Context(), "prod"); err != nil || len(items) != 5 {
				t.Errorf("a dry run leaves %s, %v", names(items), err)
			}
			gone, err := s.Prune(t.Context(), "prod", tt.r, trust, now, false)
			if err != nil || len(gone) != len(would) {
				t.Errorf("%d went, and %d were announced: %v", len(gone), len(would), err)
			}
			items, _, err := s.All(t.Context(), "prod")
			if err != nil || len(items) == 0 || items[0].Name != theirs.Name || names(items[1:]) != tt.want {
				t.Errorf("left are %s, %v", names(items), err)
			}
			if _, err := s.Find(t.Context(), "other", other.Name); err != nil {
				t.Error(err)
			}
		})
	}
}
