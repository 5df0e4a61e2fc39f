package v1alpha1_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

func TestCountOrPercent_ofSomeWorkers(t *testing.T) {
	for _, c := range []struct {
		max     v1alpha1.CountOrPercent
		workers int
		want    int
	}{
		{"1", 3, 1}, {"2", 3, 2}, {"3", 3, 3},
		{"4", 3, 3},   // never more than there are
		{"1%", 3, 1},  // 0.03, but at least one
		{"33%", 3, 1}, // 0.99
		{"34%", 3, 1}, // 1.02
		{"66%", 3, 1}, // 1.98
		{"67%", 3, 2}, // 2.01
		{"50%", 1, 1}, // 0.5
		{"50%", 5, 2}, // 2.5
		{"100%", 3, 3}, {"100%", 1, 1}, {"99%", 100, 99}, {"10%", 500, 50}, {"10%", 509, 50},
		{"200%", 3, 3}, // refused by Check, and still not more than there are
		{"0", 3, 1}, {"0%", 3, 1}, {"", 3, 1}, {"x", 3, 1},
		{"1", 0, 0}, {"100%", 0, 0}, {"1%", 0, 0}, // no workers
	} {
		if got := c.max.Of(c.workers); got != c.want {
			t.Errorf("%s of %d: %d, not %d", c.max, c.workers, got, c.want)
		}
	}
}

// At no number of workers, and no percentage, is it none or more than all, and it
// does not become less with more workers.
func TestCountOrPercent_isOrdered(t *testing.T) {
	for p := 1; p <= 100; p++ {
		c := v1alpha1.CountOrPercent(itoa(p) + "%")
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		last := 0
		for n := 1; n <= 200; n++ {
			got := c.Of(n)
			if got < 1 || got > n || got < last || got > max(1, n*p/100) {
				t.Fatalf("%s of %d is %d, after %d", c, n, got, last)
			}
			last = got
		}
	}
}

func itoa(n int) string { raw, _ := json.Marshal(n); return string(raw) }

func TestCountOrPercent_check(t *testing.T) {
	for c, valid := range map[v1alpha1.CountOrPercent]bool{
		"1": true, "5000": true, "1%": true, "100%": true,
		"0": false, "0%": false, "00": false, "101%": false, "200%": false, "": false, "%": false, "-1": false, "-1%": false, "+1": false, "1.5": false, "10 %": false,
		"ten": false, "99999999999999999999": false, "99999999999999999999%": false,
	} {
		if err := c.Check(); (err == nil) != valid {
			t.Errorf("%q: %v", string(c), err)
		}
	}
}

func TestCountOrPercent_isWrittenAsItWas(t *testing.T) {
	for _, text := range []string{`3`, `"10%"`, `"x"`} {
		var c v1alpha1.CountOrPercent
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if raw, err := json.Marshal(c); err != nil || string(raw) != text {
			t.Errorf("%s became %s, %v", text, raw, err)
		}
	}
	var c v1alpha1.CountOrPercent
	for _, text := range []string{`true`, `{}`, `[1]`} {
		if err := json.Unmarshal([]byte(text), &c); err == nil {
			t.Errorf("%s is taken for %q", text, string(c))
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[v1alpha1.Duration]time.Duration{"10m": 10 * time.Minute, "1h30m": 90 * time.Minute, "45s": 45 * time.Second} {
		if err := d.Check(); err != nil || d.Value() != want {
			t.Errorf("%s: %s, %v", d, d.Value(), err)
		}
	}
	for _, d := range []v1alpha1.Duration{"", "10", "0", "0s", "-5m", "ten", "5 m"} {
		if err := d.Check(); err == nil {
			t.Errorf("%q is taken for %s", string(d), d.Value())
		}
	}
}
