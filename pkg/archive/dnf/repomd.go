package dnf

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"github.com/kocli/kocli/pkg/archive/signed"
)

// List is a package list that repomd.xml names.
type List struct {
	Href     string // relative to the repository's URL
	Digest   string // "sha256:..." of the file as it is
	Size     int64  // bytes as it is; -1 when not said
	OpenSize int64  // bytes when decompressed; 0 when not said
}

// ParseRepomd reads repomd.xml and returns its list "primary". signature is
// repomd.xml.asc and keyring holds OpenPGP keys; a nil keyring skips the
// signature: the caller must have said so.
func ParseRepomd(data, signature, keyring []byte) (List, error) {
	if keyring != nil {
		if err := signed.Check(data, signature, keyring); err != nil {
			return List{}, fmt.Errorf("repomd.xml: %w", err)
		}
	}
	var doc struct {
		Data []struct {
			Type     string `xml:"type,attr"`
			Checksum struct {
				Type  string `xml:"type,attr"`
				Value string `xml:",chardata"`
			} `xml:"checksum"`
			Location struct {
				Href string `xml:"href,attr"`
			} `xml:"location"`
			Size     *int64 `xml:"size"`
			OpenSize int64  `xml:"open-size"`
		} `xml:"data"`
	}
	if err := xml.Unmarshal(data, &doc); err != nil {
		return List{}, fmt.Errorf("repomd.xml: %w", err)
	}
	for _, d := range doc.Data {
		if d.Type != "primary" {
			continue
		}
		digest, err := digestOf(d.Checksum.Type, d.Checksum.Value)
		if err == nil {
			err = checkHref(d.Location.Href)
		}
		if err != nil {
			return List{}, fmt.Errorf("repomd.xml: primary: %w", err)
		}
		l := List{Href: d.Location.Href, Digest: digest, Size: -1, OpenSize: d.OpenSize}
		if d.Size != nil && *d.Size >= 0 {
			l.Size = *d.Size
		}
		return l, nil
	}
	return List{}, errors.New("repomd.xml names no list of packages")
}

func digestOf(kind, hex string) (string, error) {
	hex = strings.ToLower(strings.TrimSpace(hex))
	if kind != "sha256" || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", fmt.Errorf("checksum %q of type %q is not sha256", hex, kind)
	}
	return "sha256:" + hex, nil
}

// checkHref refuses places outside of the repository.
func checkHref(href string) error {
	if href == "" || strings.HasPrefix(href, "/") || strings.Contains("/"+href+"/", "/../") || strings.ContainsAny(href, "?#\\") || strings.Contains(href, "://") {
		return fmt.Errorf("location %q is not in the repository", href)
	}
	return nil
}
