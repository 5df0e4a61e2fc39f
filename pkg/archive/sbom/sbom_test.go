package sbom_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/sbom"
	"github.com/kocli/kocli/pkg/fault"
)

// bundle is the sample with some items whose names are hard.
func bundle(t testing.TB) *archive.Bundle {
	t.Helper()
	m, c := archivetest.Sample()
	m.Items = append(m.Items,
		c.Image("docker.io/Library/a_b:v1", archive.RoleAll, []byte("l")),
		c.Image("docker.io/Library/a-b:v1", archive.RoleAll, []byte("l")),
		c.File(archive.KindArchive, "tool", "1:2~rc1+x", "tool.tar.gz", archive.RoleAll, []byte("t")),
	)
	last := &m.Items[len(m.Items)-1]
	last.Source, last.Licence = "http://example.test/a b?x=1&y=2", "see package"
	m.Items[10].SourceDigest = "sha256:" + strings.Repeat("1", 64)
	m.Items[11].Licence = "(Apache-2.0 OR GPL-2.0-or-later) WITH Classpath-exception-2.0"
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	out, err := archive.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	idForm     = regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	urlForm    = regexp.MustCompile(`^https?://[^\s]+$`)
	expression = regexp.MustCompile(`^[A-Za-z0-9.+() -]+$`)
)

// check applies the rules of SPDX 2.3 to the JSON, as a reader of it would.
func check(raw []byte) (faults []string) {
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return []string{err.Error()}
	}
	bad := func(format string, a ...any) { faults = append(faults, fmt.Sprintf(format, a...)) }
	text := func(m map[string]any, field string) string {
		s, ok := m[field].(string)
		if !ok || s == "" {
			bad("%s: %s is missing", m["SPDXID"], field)
		}
		return s
	}
	list := func(m map[string]any, field string) (out []map[string]any) {
		l, _ := m[field].([]any)
		for _, x := range l {
			out = append(out, x.(map[string]any))
		}
		return out
	}
	if v := text(doc, "spdxVersion"); v != "SPDX-2.3" {
		bad("version %s", v)
	}
	if v := text(doc, "dataLicense"); v != "CC0-1.0" {
		bad("data licence %s", v)
	}
	if v := text(doc, "SPDXID"); v != "SPDXRef-DOCUMENT" {
		bad("id of the document is %s", v)
	}
	text(doc, "name")
	if u, err := url.Parse(text(doc, "documentNamespace")); err != nil || !u.IsAbs() || u.Fragment != "" {
		bad("namespace %v %v", u, err)
	}
	info, _ := doc["creationInfo"].(map[string]any)
	if _, err := time.Parse("2006-01-02T15:04:05Z", text(info, "created")); err != nil {
		bad("%v", err)
	}
	if creators, _ := info["creators"].([]any); len(creators) == 0 || !regexp.MustCompile(`^(Tool|Person|Organization): \S`).MatchString(fmt.Sprint(creators[0])) {
		bad("creators %v", creators)
	}
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	packages := list(doc, "packages")
	for _, p := range packages {
		id := text(p, "SPDXID")
		if ids[id] || !idForm.MatchString(id) {
			bad("id %q is there twice or not valid", id)
		}
		ids[id] = true
		text(p, "name")
		if l := text(p, "downloadLocation"); l != "NOASSERTION" && !urlForm.MatchString(l) {
			bad("%s: location %q", id, l)
		}
		if p["filesAnalyzed"] != false {
			bad("%s: files are not analysed", id)
		}
		for _, field := range []string{"licenseConcluded", "licenseDeclared", "copyrightText"} {
			if v := text(p, field); !expression.MatchString(v) {
				bad("%s: %s %q", id, field, v)
			}
		}
		for _, c := range list(p, "checksums") {
			if sum, err := hex.DecodeString(text(c, "checksumValue")); err != nil || len(sum) != 32 || text(c, "algorithm") != "SHA256" {
				bad("%s: checksum %v", id, c)
			}
		}
		for _, r := range list(p, "externalRefs") {
			if text(r, "referenceCategory") != "PACKAGE-MANAGER" || text(r, "referenceType") != "purl" {
				bad("%s: reference %v", id, r)
			}
			if _, err := packageurl.FromString(text(r, "referenceLocator")); err != nil {
				bad("%s: %v", id, err)
			}
		}
	}
	target := map[string]bool{}
	describes := 0
	for _, r := range list(doc, "relationships") {
		from, to := text(r, "spdxElementId"), text(r, "relatedSpdxElement")
		if !ids[from] || !ids[to] {
			bad("relationship %v does not resolve", r)
		}
		switch text(r, "relationshipType") {
		case "DESCRIBES":
			describes++
		case "CONTAINS":
		default:
			bad("relationship %v", r)
		}
		target[to] = true
	}
	if describes == 0 || len(target) != len(packages) {
		bad("%d DESCRIBES, %d of %d packages are related", describes, len(target), len(packages))
	}
	return faults
}

func document(t testing.TB, b *archive.Bundle, component string) []byte {
	t.Helper()
	d, err := sbom.New(b, component)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestNew_keepsTheRulesOfSPDX(t *testing.T) {
	b := bundle(t)
	for _, component := range []string{"", "containerd"} {
		raw := document(t, b, component)
		for _, f := range check(raw) {
			t.Errorf("component %q: %s", component, f)
		}
		if !bytes.Equal(raw, document(t, bundle(t), component)) {
			t.Error("the same bundle gave another document")
		}
	}
	// The check itself sees what is wrong.
	for old, now := range map[string]string{
		`"SPDX-2.3"`: `"SPDX-2.2"`, `"dataLicense"`: `"dataLicence"`, `"licenseDeclared":"Apache-2.0"`: `"licenseDeclared":"A|B"`,
		`"relatedSpdxElement":"SPDXRef-Bundle"`: `"relatedSpdxElement":"SPDXRef-None"`, `pkg:deb/`: `deb/`, `"SPDXRef-image-`: `"SPDXRef-image_`,
	} {
		raw := document(t, b, "")
		if bad := bytes.Replace(raw, []byte(old), []byte(now), 1); bytes.Equal(bad, raw) || check(bad) == nil {
			t.Errorf("%s instead of %s is accepted", now, old)
		}
	}
}

func TestNew_describesEveryItem(t *testing.T) {
	b := bundle(t)
	d, err := sbom.New(b, "")
	if err != nil {
		t.Fatal(err)
	}
	items := b.Manifest().Items
	if len(d.Packages) != len(items)+1 || !strings.HasSuffix(d.DocumentNamespace, strings.TrimPrefix(b.Digest(), "sha256:")) {
		t.Fatalf("%d packages for %d items, namespace %s", len(d.Packages), len(items), d.DocumentNamespace)
	}
	byName := map[string]sbom.Package{}
	for _, p := range d.Packages {
		byName[p.Name] = p
	}
	digest := func(name string) string {
		i := slices.IndexFunc(items, func(it archive.Item) bool { r, _ := it.Reference(); return it.Name == name || r == name })
		return items[i].Digest
	}
	pause := digest("registry.k8s.io/pause")
	for name, want := range map[string][]string{
		"registry.k8s.io/pause": {
			"pkg:oci/pause@" + strings.Replace(pause, ":", "%3A", 1) + "?arch=amd64&repository_url=registry.k8s.io%2Fpause&tag=3.10.2",
			"https://registry.k8s.io/v2/pause/manifests/" + pause, "3.10.2", "Apache-2.0",
		},
		"conntrack": {"pkg:deb/debian/conntrack@1.0-1?arch=amd64&distro=debian-12", "https://example.test/conntrack_1.0-1_amd64.deb", "1.0-1", "Apache-2.0"},
		"kocli":     {"pkg:golang/github.com/kocli/kocli@v0.0.0-test?arch=amd64", "https://example.test/kocli", "v0.0.0-test", "Apache-2.0"},
		"runc":      {"pkg:generic/runc@1.4.3?arch=amd64&checksum=" + digest("runc"), "https://example.test/runc.amd64", "1.4.3", "Apache-2.0"},
		"tool":      {"pkg:generic/tool@1", "http://example.test/a%20b?x=1&y=2", "1:2~rc1+x", "NOASSERTION"},
	} {
		p := byName[name]
		if got := p.ExternalRefs[0].ReferenceLocator; !strings.HasPrefix(plain(got), plain(want[0])) {
			t.Errorf("%s: purl %s, want %s", name, got, want[0])
		}
		if p.DownloadLocation != want[1] || p.VersionInfo != want[2] || p.LicenseDeclared != want[3] {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// An image whose layers were packed anew is found under the digest that upstream
// publishes.
func TestNew_anImageThatWasPackedAnewNamesWhatUpstreamHas(t *testing.T) {
	m, c := archivetest.Sample()
	i := slices.IndexFunc(m.Items, func(it archive.Item) bool { return strings.HasPrefix(it.Name, "registry.k8s.io/pause:") })
	own, published := m.Items[i].Digest, "sha256:"+strings.Repeat("5", 64)
	m.Items[i].SourceDigest = published
	var raw bytes.Buffer
	if _, _, err := archive.Write(&raw, m, c.Open); err != nil {
		t.Fatal(err)
	}
	b, err := archive.NewReader(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
	if err != nil {
		t.Fatal(err)
	}
	d, err := sbom.New(b, "")
	if err != nil {
		t.Fatal(err)
	}
	j := slices.IndexFunc(d.Packages, func(p sbom.Package) bool { return p.Name == "registry.k8s.io/pause" })
	p := d.Packages[j]
	if !strings.HasSuffix(p.DownloadLocation, "/manifests/"+published) || !strings.Contains(plain(p.ExternalRefs[0].ReferenceLocator), published) ||
		!strings.Contains(p.SourceInfo, "packed anew") || "sha256:"+p.Checksums[0].ChecksumValue != own {
		t.Errorf("%+v", p)
	}
}

// plain is a purl without the question which letters of it are escaped.
func plain(purl string) string {
	s, err := url.PathUnescape(purl)
	if err != nil {
		return purl
	}
	return s
}

func TestNew_unknownComponentIsNamedWithThoseThatAre(t *testing.T) {
	_, err := sbom.New(bundle(t), "virus")
	if fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "containerd") {
		t.Fatalf("%v (%s)", err, fault.HintOf(err))
	}
}
