package backup

import (
	"slices"
	"time"
)

// Retention is how long backups are kept.
type Retention struct {
	Keep   int           // the newest so many; zero means no limit by count
	MaxAge time.Duration // zero means no limit by age
}

// Expired lists the backups that are kept no longer, oldest first: those beyond
// the newest Keep, and those older than MaxAge. The newest is never among them,
// whatever its age, and without any limit there are none.
func (r Retention) Expired(all []Receipt, now time.Time) []Receipt {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Receipt) int { return b.Created.Compare(a.Created) })
	var out []Receipt
	for i, b := range sorted {
		if i == 0 {
			continue
		}
		if r.Keep > 0 && i >= r.Keep || r.MaxAge > 0 && now.Sub(b.Created) > r.MaxAge {
			out = append(out, b)
		}
	}
	slices.Reverse(out)
	return out
}
