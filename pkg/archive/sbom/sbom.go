package sbom

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/package-url/packageurl-go"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// created stands where SPDX wants a time: a bundle has none, and the document
// follows from the bundle alone.
const created = "1970-01-01T00:00:00Z"

// New describes a bundle, or one component of it where component is not empty.
// The error for one that is not in the bundle carries fault.Usage.
func New(b *archive.Bundle, component string) (Document, error) {
	m := b.Manifest()
	hexDigest := strings.TrimPrefix(b.Digest(), "sha256:")
	d := Document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: documentID, Name: m.Name,
		DocumentNamespace: "https://kocli.io/spdx/bundle/" + hexDigest,
		CreationInfo: CreationInfo{
			Created: created, Creators: []string{"Tool: kocli-" + m.BuiltBy},
			Comment: "The time is fixed: this document follows from the bundle with digest " + b.Digest() + " alone.",
		},
	}
	describe := documentID
	if component == "" {
		d.Packages = append(d.Packages, Package{
			Name: m.Name, SPDXID: bundleID, DownloadLocation: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: noAssertion,
			CopyrightText: noAssertion, PrimaryPackagePurpose: "ARCHIVE",
			SourceInfo: "offline bundle of kocli; its index.json has digest " + b.Digest(),
		})
		d.Relationships = append(d.Relationships, Relationship{documentID, "DESCRIBES", bundleID})
		describe = bundleID
	} else {
		d.Name += " " + component
		d.DocumentNamespace += "/" + component
	}
	var known []string
	for _, it := range m.Items {
		if it.Component != "" {
			known = append(known, it.Component)
		}
		if component != "" && it.Component != component {
			continue
		}
		p := item(it)
		d.Packages = append(d.Packages, p)
		kind := "DESCRIBES"
		if describe == bundleID {
			kind = "CONTAINS"
		}
		d.Relationships = append(d.Relationships, Relationship{describe, kind, p.SPDXID})
	}
	if component != "" && len(d.Packages) == 0 {
		slices.Sort(known)
		return Document{}, fault.New(fault.Usage, "the bundle has: "+strings.Join(slices.Compact(known), ", "), fmt.Errorf("no component is called %q", component))
	}
	return d, nil
}

// item describes one item of a bundle.
func item(it archive.Item) Package {
	p := Package{
		Name: it.Name, SPDXID: itemID(it), VersionInfo: it.Version, PackageFileName: it.File,
		DownloadLocation: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: licence(it.Licence), CopyrightText: noAssertion,
		Checksums:             []Checksum{{"SHA256", strings.TrimPrefix(it.Digest, "sha256:")}},
		ExternalRefs:          []ExternalRef{{"PACKAGE-MANAGER", "purl", purl(it)}},
		PrimaryPackagePurpose: purpose(it.Kind),
	}
	if u, err := url.Parse(it.Source); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
		p.DownloadLocation = u.String()
	}
	switch {
	case it.Kind == archive.KindImage:
		repository, tag := it.Reference()
		p.Name, p.VersionInfo = repository, tag
		p.DownloadLocation = manifestURL(repository, cmp.Or(it.SourceDigest, it.Digest))
		p.SourceInfo = "container image for linux/" + it.Arch + "; the checksum is that of its manifest"
		if it.SourceDigest != "" {
			p.SourceInfo += ", whose layers were packed anew: what downloadLocation serves has digest " + it.SourceDigest
		}
	case it.SourceDigest != "":
		p.SourceInfo = "a part of what downloadLocation serves, which has digest " + it.SourceDigest
	}
	return p
}

// manifestURL is where a registry serves the manifest of an image.
func manifestURL(repository, digest string) string {
	host, path, _ := strings.Cut(repository, "/")
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	return "https://" + host + "/v2/" + path + "/manifests/" + digest
}

func purpose(k archive.Kind) string {
	switch k {
	case archive.KindImage:
		return "CONTAINER"
	case archive.KindArchive:
		return "ARCHIVE"
	case archive.KindPackage:
		return "INSTALL"
	}
	return "APPLICATION"
}

// purl names an item as the ecosystem it comes from does.
func purl(it archive.Item) string {
	kind, namespace, name, version := packageurl.TypeGeneric, "", it.Name, it.Version
	q := map[string]string{"arch": it.Arch}
	switch it.Kind {
	case archive.KindImage:
		repository, tag := it.Reference()
		kind, name, version = packageurl.TypeOCI, strings.ToLower(repository[strings.LastIndex(repository, "/")+1:]), cmp.Or(it.SourceDigest, it.Digest)
		q["repository_url"] = repository
		if tag != "" {
			q["tag"] = tag
		}
	case archive.KindPackage:
		kind, namespace, name = packageurl.TypeDebian, it.Package.Distribution, it.Package.Name
		q["arch"], q["distro"] = it.Package.Architecture, it.Package.Distribution+"-"+it.Package.Release
	case archive.KindKocli:
		kind, namespace = packageurl.TypeGolang, "github.com/kocli"
	default:
		if it.SourceDigest == "" {
			q["checksum"] = it.Digest
		} else {
			q["checksum"] = it.SourceDigest
		}
		if it.Source != "" {
			q["download_url"] = it.Source
		}
	}
	return packageurl.NewPackageURL(kind, namespace, name, version, packageurl.QualifiersFromMap(q), "").ToString()
}

// licenceForm is an SPDX licence expression, as far as its words go.
var licenceForm = regexp.MustCompile(`^\(*[A-Za-z0-9.+-]+\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+-]+\)*)*$`)

func licence(expression string) string {
	if !licenceForm.MatchString(expression) {
		return noAssertion // "see package"
	}
	return expression
}

var notID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// itemID is the same for an item in every bundle that has it. Its end keeps
// items apart whose names differ only in letters that SPDX does not allow.
func itemID(it archive.Item) string {
	words := []string{string(it.Kind), it.Name, it.Version, it.Arch, it.Digest}
	if it.Package != nil {
		words = append(words, it.Package.Distribution, it.Package.Release)
	}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	text := notID.ReplaceAllString(strings.Join([]string{string(it.Kind), it.Name, it.Version, it.Arch}, "-"), "-")
	return "SPDXRef-" + text + "-" + hex.EncodeToString(sum[:6])
}
