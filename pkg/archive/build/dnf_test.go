package build_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// rpmEntry is a package of a list, with its file served.
func (u *upstream) rpmEntry(repo, name, version, arch, requires, files string) string {
	file := "Packages/" + name + "-" + version + "-1." + arch + ".rpm"
	content := "rpm of " + name + version + arch
	u.put(repo+"/"+file, content)
	var req, fs string
	for r := range strings.FieldsSeq(requires) {
		req += `<rpm:entry name="` + r + `"/>`
	}
	for f := range strings.FieldsSeq(files) {
		fs += "<file>" + f + "</file>"
	}
	return fmt.Sprintf(`<package type="rpm"><name>%s</name><arch>%s</arch><version epoch="0" ver="%s" rel="1"/><checksum type="sha256" pkgid="YES">%s</checksum><size package="%d"/><location href="%s"/><format><rpm:provides><rpm:entry name="%[1]s" flags="EQ" epoch="0" ver="%[3]s" rel="1"/></rpm:provides><rpm:requires>%[7]s</rpm:requires>%[8]s</format></package>`,
		name, arch, version, hexSum([]byte(content)), len(content), file, req, fs)
}

// repository serves a signed list of packages.
func (u *upstream) repository(repo, ext string, entries ...string) {
	list := `<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm">` + strings.Join(entries, "") + "</metadata>"
	var packed bytes.Buffer
	switch ext {
	case ".gz":
		w := gzip.NewWriter(&packed)
		must(io.WriteString(w, list))
		if err := w.Close(); err != nil {
			u.t.Fatal(err)
		}
	case ".zst":
		packed.Write(must(zstd.NewWriter(nil)).EncodeAll([]byte(list), nil))
	default:
		packed.WriteString(list)
	}
	href := "repodata/primary.xml" + ext
	u.put(repo+"/"+href, packed.String())
	repomd := fmt.Sprintf(`<repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="primary"><checksum type="sha256">%s</checksum><location href="%s"/><size>%d</size></data></repomd>`,
		hexSum(packed.Bytes()), href, packed.Len())
	u.put(repo+"/repodata/repomd.xml", repomd)
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, u.signer, strings.NewReader(repomd), &packet.Config{}); err != nil {
		u.t.Fatal(err)
	}
	u.put(repo+"/repodata/repomd.xml.asc", sig.String())
}

// rocky serves two repositories for two architectures.
func (u *upstream) rocky() {
	for _, arch := range []string{"x86_64", "aarch64"} {
		base, app := "/rocky.test/BaseOS/"+arch+"/os", "/rocky.test/AppStream/"+arch+"/os"
		u.repository(base, ".gz",
			u.rpmEntry(base, "bash", "5.1", arch, "", "/usr/bin/sh"),
			u.rpmEntry(base, "libmnl", "1.0.4", arch, "", ""),
			u.rpmEntry(base, "libmnl", "1.0.10", arch, "", ""),
			u.rpmEntry(base, "unwanted", "1", "noarch", "", ""),
		)
		u.repository(app, ".zst", u.rpmEntry(app, "conntrack-tools", "1.4.7", arch, "/bin/sh libmnl rpmlib(CompressedFileNames)", ""))
	}
}

func onRocky(s *archive.Spec) {
	s.Spec.OSPackages = []archive.OSPackages{{Distribution: "rocky", Version: "9", Keyring: "keyring.gpg"}}
	s.Spec.Architectures = []string{"amd64", "arm64"}
}

func TestBuild_bringsRPMsAndWhatTheyNeed(t *testing.T) {
	u := newUpstream(t)
	u.rocky()
	o := u.options(onRocky)
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	p := b.Packages("rocky", "9", archive.Filter{Arch: "arm64"})
	if len(p) != 2 || p[0].Name != "conntrack-tools" || p[0].Package.Commands[0] != "conntrack" || p[1].Version != "1.0.10-1" || p[1].Package.RequiredBy[0] != "conntrack-tools" {
		t.Fatalf("%+v", p)
	}
	if c := contentOf(t, b, p[1].Digest); string(c) != "rpm of libmnl1.0.10aarch64" {
		t.Fatalf("%q", c)
	}
	before := must(os.ReadFile(o.Output))
	u.put("/rocky.test/BaseOS/x86_64/os/repodata/repomd.xml", "gone") // the lock has what is needed
	o.CacheDir, o.Locked = filepath.Join(u.dir, "fresh"), true
	if _, _, err := u.build(o); err != nil || !bytes.Equal(before, must(os.ReadFile(o.Output))) {
		t.Fatalf("from the lock: %v", err)
	}
}

func TestBuild_refusesRPMRepositoriesThatCannotBeTrusted(t *testing.T) {
	const base = "/rocky.test/BaseOS/x86_64/os"
	for name, c := range map[string]struct {
		change func(u *upstream, s *archive.Spec)
		code   fault.Code
		want   string
	}{
		"a list that was changed": {func(u *upstream, _ *archive.Spec) {
			u.put(base+"/repodata/repomd.xml", string(u.files[base+"/repodata/repomd.xml"])+" ")
		}, fault.Bundle, "signature cannot be trusted"},
		"no signature": {func(u *upstream, _ *archive.Spec) { delete(u.files, base+"/repodata/repomd.xml.asc") }, fault.Failure, "has to be signed"},
		"another list of packages": {func(u *upstream, _ *archive.Spec) {
			u.put(base+"/repodata/primary.xml.gz", "evil")
		}, fault.Bundle, "has digest"},
		"another package": {func(u *upstream, _ *archive.Spec) {
			u.put(base+"/Packages/libmnl-1.0.10-1.x86_64.rpm", "rpm of libmnl1.0.10x86_65")
		}, fault.Bundle, "has digest"},
		"a package that is not there":     {func(_ *upstream, s *archive.Spec) { s.Spec.OSPackages[0].Extra = []string{"vim"} }, fault.Usage, "package vim"},
		"a list packed in an unknown way": {func(u *upstream, _ *archive.Spec) { u.repository(base, ".xz") }, fault.Failure, "not known"},
	} {
		u := newUpstream(t)
		u.rocky()
		o := u.options(onRocky)
		c.change(u, o.Spec)
		_, _, err := u.build(o)
		if err == nil || fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v (exit %d)", name, err, fault.CodeOf(err))
		}
	}
	u := newUpstream(t)
	u.rocky()
	delete(u.files, base+"/repodata/repomd.xml.asc")
	o := u.options(onRocky)
	o.Spec.Spec.OSPackages[0].Keyring, o.Spec.Spec.OSPackages[0].InsecureSkipSignature = "", true
	if _, _, err := u.build(o); err != nil {
		t.Errorf("without signature, as the spec says: %v", err)
	}
}
