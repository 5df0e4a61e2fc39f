package apt_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/kocli/kocli/pkg/archive/apt"
)

func TestCompare_ordersAsDpkgDoes(t *testing.T) {
	for _, c := range []struct {
		a, op, b string
	}{
		{"1.0", "=", "1.0"}, {"1.0", "<", "1.1"}, {"1.9", "<", "1.10"}, {"1.0", "<", "1.0-1"}, {"1.0-1", "<", "1.0-2"},
		{"0:1.0", "=", "1.0"}, {"1:0.1", ">", "9.9"}, {"1.0", ">", "1.0~rc1"}, {"1.0~rc1", "<", "1.0~rc2"}, {"1.0~~", "<", "1.0~"},
		{"1.0~", "<", "1.0"}, {"1.0a", ">", "1.0"}, {"1.0a", "<", "1.0b"}, {"1.0+", ">", "1.0a"}, {"1.0-1+b2", ">", "1.0-1"},
		{"2.36-9+deb12u4", "<", "2.36-9+deb12u10"}, {"1.0-0", "=", "1.0"}, {"1.00", "=", "1.0"}, {"1.0.", ">", "1.0"},
		{"1:1.4.7-1+b2", ">", "1:1.4.7-1+b1"}, {"1.2.3-a-1", ">", "1.2.3-1"}, {"", "=", "0"}, {"1.0-1~bpo12+1", "<", "1.0-1"},
		{"6.6.1-0.1", ">", "6.6.1-0"}, {"1.0Z", "<", "1.0a"}, {"99999999999999999999999", ">", "99999999999999999999998"},
	} {
		got := apt.Compare(c.a, c.b)
		ok := map[string]bool{"=": got == 0, "<": got < 0, ">": got > 0}[c.op]
		if !ok {
			t.Errorf("%q %s %q is false (%d)", c.a, c.op, c.b, got)
		}
		if back := apt.Compare(c.b, c.a); (back > 0) != (got < 0) || (back == 0) != (got == 0) {
			t.Errorf("%q and %q: not symmetric", c.a, c.b)
		}
	}
}

// stanza writes one package; extra are further lines.
func stanza(name, version string, extra ...string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s_%s_amd64.deb\nSize: 10\nSHA256: %s\n%s\n",
		name, version, name, version, strings.Repeat("ab", 32), strings.Join(append(extra, ""), "\n"))
}

func TestClosure_followsWhatIsNeeded(t *testing.T) {
	base := stanza("libc6", "2.36", "Priority: optional", "Depends: libgcc-s1") +
		stanza("libgcc-s1", "12", "Depends: libc6") + stanza("dash", "0.5", "Essential: yes", "Pre-Depends: libc6 (>= 2.30)") +
		stanza("mawk", "1", "Priority: required", "Provides: awk", "Depends: usrmerge | usr-is-merged") +
		stanza("usrmerge", "35", "Depends: perl") + stanza("usr-is-merged", "35") + stanza("perl", "5")
	for _, c := range []struct{ name, index, ask, want, fail string }{
		{"a package alone", stanza("a", "1"), "a", "a", ""},
		{"what every system has is left out", stanza("a", "1", "Depends: libc6 (>= 2.34), awk"), "a", "a", ""},
		{"what a base package might have brought is not assumed", stanza("a", "1", "Depends: perl"), "a", "a perl", ""},
		{"a chain", stanza("a", "1", "Depends: b") + stanza("b", "1", "Depends: c") + stanza("c", "1"), "a", "a b c", ""},
		{"a circle", stanza("a", "1", "Depends: b") + stanza("b", "1", "Depends: a"), "a", "a b", ""},
		{"the first alternative that exists", stanza("a", "1", "Depends: none | b | c") + stanza("b", "1") + stanza("c", "1"), "a", "a b", ""},
		{"an alternative that is chosen already", stanza("a", "1", "Depends: b | c") + stanza("b", "1") + stanza("c", "1"), "a c", "a b c", ""},
		{"an alternative that was chosen before", stanza("z", "1", "Depends: b | c") + stanza("b", "1") + stanza("c", "1"), "c z", "c z", ""},
		{"a virtual package", stanza("a", "1", "Depends: mta") + stanza("exim", "1", "Provides: mta") + stanza("postfix", "1", "Provides: mta"), "a", "a exim", ""},
		{"a virtual package with a version", stanza("a", "1", "Depends: v (>= 2)") + stanza("old", "1", "Provides: v (= 1)") + stanza("vers", "1", "Provides: v (= 2)"), "a", "a vers", ""},
		{"a virtual package without the version asked for", stanza("a", "1", "Depends: v (>= 2)") + stanza("vers", "1", "Provides: v"), "a", "", "a 1 needs v (>= 2)"},
		{"the newest version that fits", stanza("a", "1", "Depends: b (<< 3)") + stanza("b", "1") + stanza("b", "3") + stanza("b", "2"), "a", "a b=2", ""},
		{"the newest when nothing bounds it", stanza("a", "1") + stanza("a", "1.10") + stanza("a", "1.9"), "a", "a=1.10", ""},
		{"two versions of one package", stanza("a", "1", "Depends: b (= 1), c") + stanza("c", "1", "Depends: b (= 2)") + stanza("b", "1") + stanza("b", "2"), "a", "", "two versions of b"},
		{"an architecture qualifier", stanza("a", "1", "Depends: b:any (>= 1)") + stanza("b", "1"), "a", "a b", ""},
		{"a field over several lines", stanza("a", "1", "Depends: b,\n c (>= 1)") + stanza("b", "1") + stanza("c", "1"), "a", "a b c", ""},
		{"recommendations are left out", stanza("a", "1", "Recommends: b") + stanza("b", "1"), "a", "a", ""},
		{"a package that does not exist", stanza("a", "1"), "b", "", "package b is not in the archive"},
		{"a dependency that does not exist", stanza("a", "1", "Depends: b (>= 2) | c") + stanza("b", "1"), "a", "", "needs b (>= 2) | c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, err := apt.ParseIndex(strings.NewReader(base + c.index))
			if err != nil {
				t.Fatal(err)
			}
			got, err := apt.Closure(all, strings.Fields(c.ask))
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Fatalf("got %v, want %q", err, c.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for i, w := range strings.Fields(c.want) {
				if i < len(got) && strings.Contains(w, "=") {
					names = append(names, got[i].Name+"="+got[i].Version)
				} else if i < len(got) {
					names = append(names, got[i].Name)
				}
			}
			if strings.Join(names, " ") != c.want || len(got) != len(strings.Fields(c.want)) {
				t.Fatalf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestClosure_saysWhoNeedsWhat(t *testing.T) {
	all, err := apt.ParseIndex(strings.NewReader(stanza("a", "1", "Depends: lib") + stanza("b", "1", "Depends: lib, a") + stanza("lib", "1")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := apt.Closure(all, []string{"b", "a"})
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%s%v %v %v %v", got[2].Name, got[2].Requested, got[2].RequiredBy, got[0].Requested, got[0].RequiredBy); s != "libfalse [a b] true [b]" {
		t.Fatal(s)
	}
}

func TestParseIndex_refusesWhatIsNotValid(t *testing.T) {
	good := stanza("a", "1")
	for name, text := range map[string]string{
		"no version":          strings.Replace(good, "Version: 1\n", "", 1),
		"short digest":        strings.Replace(good, "SHA256: ab", "SHA256: ", 1),
		"path that climbs":    strings.Replace(good, "pool/", "../", 1),
		"negative size":       strings.Replace(good, "Size: 10", "Size: -10", 1),
		"line without colon":  good + "what\n",
		"operator unknown":    stanza("a", "1", "Depends: b (~ 1)"),
		"bracket not closed":  stanza("a", "1", "Depends: b (>= 1"),
		"version is missing":  stanza("a", "1", "Depends: b (>=)"),
		"name with blank":     stanza("a", "1", "Depends: b c"),
		"empty alternative":   stanza("a", "1", "Depends: b | "),
		"provides without ok": stanza("a", "1", "Provides: (= 1)"),
	} {
		if _, err := apt.ParseIndex(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

const releaseText = "Origin: Test\nSuite: stable\nCodename: bookworm\nMD5Sum:\n 00 1 main/x\nSHA256:\n " +
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 12 main/binary-amd64/Packages.gz\n"

func TestParseInRelease_checksTheSignature(t *testing.T) {
	signer, err := openpgp.NewEntity("archive", "", "a@example.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	other, err := openpgp.NewEntity("other", "", "o@example.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	ring := func(e *openpgp.Entity) []byte {
		var b bytes.Buffer
		if err := e.Serialize(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, signer.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(releaseText)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rel, err := apt.ParseInRelease(signed.Bytes(), append(ring(other), ring(signer)...))
	if err != nil || rel.Codename != "bookworm" || rel.Files["main/binary-amd64/Packages.gz"].Size != 12 {
		t.Fatalf("%+v %v", rel, err)
	}
	for name, c := range map[string]struct{ data, ring []byte }{
		"another key":       {signed.Bytes(), ring(other)},
		"changed content":   {bytes.Replace(signed.Bytes(), []byte("aaaa"), []byte("bbbb"), 1), ring(signer)},
		"not signed at all": {[]byte(releaseText), ring(signer)},
		"text behind":       {append(bytes.Clone(signed.Bytes()), "SHA256:\n"...), ring(signer)},
		"empty keyring":     {signed.Bytes(), []byte{}},
	} {
		if _, err := apt.ParseInRelease(c.data, c.ring); err == nil {
			t.Errorf("%s: accepted", name)
		} else if name != "empty keyring" && !errors.Is(err, apt.ErrNotSigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := apt.ParseInRelease(signed.Bytes(), nil); err != nil {
		t.Errorf("without keyring: %v", err)
	}
}
