package dnf

import (
	"strings"
	"testing"
)

// entry writes a capability of a package list: "name", or "name GE 1.0-1".
func entry(text string) string {
	f := strings.Fields(text)
	if strings.HasPrefix(text, "(") || len(f) != 3 {
		return `<rpm:entry name="` + strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(text) + `"/>`
	}
	v := parseEVR(f[2])
	return `<rpm:entry name="` + f[0] + `" flags="` + f[1] + `" epoch="` + v.Epoch + `" ver="` + v.Version + `" rel="` + v.Release + `"/>`
}

// pkg writes a package: requires and provides are separated by commas; what
// begins with "/" among provides is a file.
func pkg(name, version, arch, requires, provides string) string {
	v := parseEVR(version)
	req, prov, files := "", entry(name+" EQ "+version), ""
	for r := range strings.SplitSeq(requires, ", ") {
		if r != "" {
			req += entry(r)
		}
	}
	for p := range strings.SplitSeq(provides, ", ") {
		if strings.HasPrefix(p, "/") {
			files += "<file>" + p + "</file>"
		} else if p != "" {
			prov += entry(p)
		}
	}
	return `<package type="rpm"><name>` + name + `</name><arch>` + arch + `</arch><version epoch="` + v.Epoch + `" ver="` + v.Version + `" rel="` + v.Release +
		`"/><checksum type="sha256" pkgid="YES">` + strings.Repeat("a", 64) + `</checksum><size package="100"/><location href="Packages/` + name + "-" + v.Version + `.rpm"/>` +
		`<format><rpm:license>MIT</rpm:license><rpm:provides>` + prov + `</rpm:provides><rpm:requires>` + req + `</rpm:requires>` + files + `</format></package>`
}

func primary(packages ...string) string {
	return `<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm">` + strings.Join(packages, "\n") + `</metadata>`
}

var sample = primary(
	pkg("glibc", "2.34-1", "x86_64", "", "libc.so.6()(64bit), libc.so.6(GLIBC_2.34)(64bit)"),
	pkg("bash", "5.1-1", "x86_64", "libc.so.6()(64bit)", "/usr/bin/sh, /usr/bin/bash"),
	pkg("conntrack-tools", "1.4.7-1", "x86_64", "libc.so.6()(64bit), libmnl.so.0()(64bit), /bin/sh, rpmlib(CompressedFileNames) LE 3.0.4-1, systemd", "/usr/sbin/conntrack"),
	pkg("libmnl", "1.0.4-1", "x86_64", "libc.so.6(GLIBC_2.34)(64bit)", "libmnl.so.0()(64bit)"),
	pkg("libmnl", "1.0.5-1", "x86_64", "libc.so.6(GLIBC_2.34)(64bit)", "libmnl.so.0()(64bit)"),
	pkg("libmnl", "1.0.9-1", "i686", "", "libmnl.so.0"),
	pkg("systemd", "252-1", "x86_64", "", ""),
	pkg("socat", "1.7-1", "x86_64", "libmnl GE 1.0.4, (tcp_wrappers or wrap-ng >= 2), (selinux-socat if selinux-policy), (never if nobody)", ""),
	pkg("wrap-ng", "2.1-1", "noarch", "", ""),
	pkg("selinux-socat", "1-1", "noarch", "", ""),
	pkg("selinux-policy", "38-1", "noarch", "", ""),
	pkg("wants-policy", "1-1", "noarch", "selinux-policy", ""),
	pkg("old", "1-1", "noarch", "libmnl EQ 1.0.4-1", ""),
	pkg("broken", "1-1", "noarch", "nothing-has-it", ""),
	pkg("odd", "1-1", "noarch", "(a xor b)", ""),
)

func TestClosure_bringsWhatASystemLacks(t *testing.T) {
	all, err := ParsePrimary(strings.NewReader(sample), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ names, base, want string }{
		{"conntrack-tools", "bash systemd none", "conntrack-tools! libmnl-1.0.5-1<conntrack-tools"},
		{"conntrack-tools", "", "bash<conntrack-tools conntrack-tools! glibc<conntrack-tools libmnl-1.0.5-1<conntrack-tools systemd<conntrack-tools"},
		{"socat", "bash", "libmnl-1.0.5-1<socat socat! wrap-ng<socat"},
		{"socat conntrack-tools", "bash systemd", "conntrack-tools! libmnl-1.0.5-1<conntrack-tools,socat socat! wrap-ng<socat"},
		{"socat wants-policy", "bash", "libmnl-1.0.5-1<socat selinux-policy<wants-policy selinux-socat<socat socat! wants-policy! wrap-ng<socat"},
		{"old", "bash", "libmnl-1.0.4-1<old old!"},
	} {
		chosen, err := Closure(all, strings.Fields(c.names), strings.Fields(c.base))
		if err != nil {
			t.Errorf("%s: %v", c.names, err)
			continue
		}
		var got []string
		for _, p := range chosen {
			s := p.Name
			if s == "libmnl" {
				s += "-" + p.EVR.String()
			}
			if p.Requested {
				s += "!"
			}
			if len(p.RequiredBy) > 0 {
				s += "<" + strings.Join(p.RequiredBy, ",")
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s with %q: %s\nwant %s", c.names, c.base, s, c.want)
		}
	}
	for names, want := range map[string]string{
		"vim": "package vim is not in", "broken": "nothing in the repositories provides nothing-has-it", "odd": `operator "xor"`,
		"old socat conntrack-tools libmnl": "two versions of libmnl",
	} {
		if _, err := Closure(all, strings.Fields(names), []string{"bash", "systemd"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", names, err)
		}
	}
}

func TestSatisfies_whereBoundsMeet(t *testing.T) {
	for _, c := range []struct {
		provides, requires string
		want               bool
	}{
		{"a EQ 1.0-1", "a", true}, {"a", "a GE 2", true}, {"b EQ 1", "a", false},
		{"a EQ 1.0-1", "a GE 1.0", true}, {"a EQ 1.0-1", "a GT 1.0-1", false}, {"a EQ 1.0-1", "a EQ 1.0-2", false},
		{"a EQ 1.0-1", "a LE 1.0", true}, {"a EQ 1.0-1", "a LT 1.0-1", false}, {"a EQ 1.0-1", "a LT 1.1", true},
		{"a EQ 2:1.0-1", "a LT 5", false}, {"a GE 1", "a EQ 3", true}, {"a LT 1", "a GT 2", false}, {"a GE 1", "a LE 1", true}, {"a GT 1", "a LE 1", false},
	} {
		capOf := func(s string) Capability {
			f := strings.Fields(s)
			if len(f) == 1 {
				return Capability{Name: f[0]}
			}
			return Capability{Name: f[0], Op: f[1], EVR: parseEVR(f[2])}
		}
		if got := capOf(c.provides).satisfies(capOf(c.requires)); got != c.want {
			t.Errorf("%s for %s: %v", c.provides, c.requires, got)
		}
	}
}

func TestParse_conditions(t *testing.T) {
	for text, want := range map[string]string{
		"(a or b)": "a or b", "((a and b) or c >= 1.0)": "(a and b) or c>=1.0", "(a if b else c)": "a if b if c",
		"(libx.so()(64bit) with liby(z))": "libx.so()(64bit) with liby(z)", "(a)": "a", "(pkg(x) if y(z))": "pkg(x) if y(z)",
	} {
		c, err := parse(Capability{Name: text})
		if err != nil || c.text() != want {
			t.Errorf("%s: %q, %v", text, c.text(), err)
		}
	}
	for _, text := range []string{"(", "()", "(a or)", "(a or b and c)", "(a b)", "(a or b) c", "(a or b", "(a else b)"} {
		if c, err := parse(Capability{Name: text}); err == nil {
			t.Errorf("%s: %q", text, c.text())
		}
	}
}

// text writes a condition again.
func (c condition) text() string {
	if c.op == "" {
		if c.leaf.Op == "" {
			return c.leaf.Name
		}
		return strings.ReplaceAll(c.leaf.String(), " ", "")
	}
	var parts []string
	for _, a := range c.args {
		s := a.text()
		if a.op != "" {
			s = "(" + s + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " "+c.op+" ")
}

func TestParsePrimary_refusesWhatCannotBeRelyedOn(t *testing.T) {
	good := pkg("a", "1-1", "noarch", "", "")
	for name, bad := range map[string]string{
		"no digest":            strings.Replace(good, strings.Repeat("a", 64), "abc", 1),
		"a weak digest":        strings.Replace(good, `"sha256"`, `"md5"`, 1),
		"a place outside":      strings.Replace(good, "Packages/", "../../", 1),
		"an absolute place":    strings.Replace(good, "Packages/", "/etc/", 1),
		"another server":       strings.Replace(good, "Packages/", "https://evil/", 1),
		"another repository":   strings.Replace(good, `href="Pack`, `xml:base="https://evil" href="Pack`, 1),
		"no name":              strings.Replace(good, "<name>a", "<name>", 1),
		"a size that is none":  strings.Replace(good, `package="100"`, `package="x"`, 1),
		"a size below zero":    strings.Replace(good, `package="100"`, `package="-1"`, 1),
		"XML that is cut off":  good[:200],
		"an entity of its own": strings.Replace(good, "<name>a", "<name>&b;", 1),
	} {
		if bad == good {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if _, err := ParsePrimary(strings.NewReader(primary(bad)), "x86_64"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseRepomd_refusesWhatCannotBeRelyedOn(t *testing.T) {
	good := `<repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="filelists"/><data type="primary"><checksum type="sha256">` + strings.Repeat("b", 64) +
		`</checksum><location href="repodata/x-primary.xml.gz"/><size>7</size><open-size>9</open-size></data></repomd>`
	l, err := ParseRepomd([]byte(good), nil, nil)
	if err != nil || l != (List{Href: "repodata/x-primary.xml.gz", Digest: "sha256:" + strings.Repeat("b", 64), Size: 7, OpenSize: 9}) {
		t.Fatalf("%+v %v", l, err)
	}
	for name, bad := range map[string]string{
		"no list": strings.Replace(good, `"primary"`, `"other"`, 1), "sha1": strings.Replace(good, "sha256", "sha", 1),
		"outside": strings.Replace(good, "repodata/", "../", 1), "cut off": good[:100],
	} {
		if _, err := ParseRepomd([]byte(bad), nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseRepomd([]byte(good), []byte("none"), []byte("none")); err == nil {
		t.Error("no keys: accepted")
	}
}
