//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bundle runs a command of the bundle group in a folder.
func bundle(t *testing.T, dir string, code int, args ...string) string {
	t.Helper()
	c := exec.Command(env(t, "KOCLI_E2E_KOCLI"), append([]string{"bundle"}, args...)...)
	c.Dir, c.Env = dir, append(os.Environ(), "KOCLI_HOME="+filepath.Join(dir, "home"))
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	_ = c.Run() // the exit code says it
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("kocli bundle %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

// The commands of the README that treat a bundle as a file, on the real one.
func Test10_theBundleAsAFile(t *testing.T) {
	dir := filepath.Join(env(t, "KOCLI_E2E_WORK"), "bundle")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	data, err := os.ReadFile(env(t, "KOCLI_E2E_BUNDLE"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kocli.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}

	// Signed, and refused where it is not by the key that is asked for.
	bundle(t, dir, 0, "keygen", "--out", "site")
	bundle(t, dir, 0, "keygen", "--out", "other")
	bundle(t, dir, 6, "verify", "kocli.tar", "--key", "site.pub")
	bundle(t, dir, 0, "sign", "kocli.tar", "--key", "site.key")
	bundle(t, dir, 0, "verify", "kocli.tar", "--key", "site.pub")
	bundle(t, dir, 6, "verify", "kocli.tar", "--key", "other.pub")
	// Closed over what the journeys install, and not over what it was not built for.
	bundle(t, dir, 0, "verify", "kocli.tar", "--closure", yaml(t, "root"))
	text, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Replace(text, []byte("version: v1.36.3"), []byte("version: v1.37.2"), 1)
	if err := os.WriteFile(filepath.Join(dir, "other.yaml"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := bundle(t, dir, 6, "verify", "kocli.tar", "--closure", "other.yaml"); !strings.Contains(out, "v1.37.2") {
		t.Errorf("what is missing is not named:\n%s", out)
	}
	if r := kocli(t, "root", "create", "--key", filepath.Join(dir, "other.pub")); r.code != 6 {
		t.Errorf("create with an unsigned bundle and a key: %s", r)
	}

	// Others read its images unchanged.
	var in struct {
		Items []struct{ Kind, Name, Digest string }
	}
	if err := json.Unmarshal([]byte(bundle(t, dir, 0, "inspect", "kocli.tar", "-o", "json")), &in); err != nil {
		t.Fatal(err)
	}
	images := 0
	for _, it := range in.Items {
		if it.Kind != "image" {
			continue
		}
		images++
		raw, err := exec.Command("skopeo", "inspect", "--raw", "oci-archive:"+file+":"+it.Name).Output()
		if sum := sha256.Sum256(raw); err != nil || "sha256:"+hex.EncodeToString(sum[:]) != it.Digest {
			t.Errorf("skopeo reads %s as %x: %v", it.Name, sum, err)
		}
	}
	if images < 9 {
		t.Errorf("%d images", images)
	}
	if out, err := exec.Command("skopeo", "copy", "oci-archive:"+file+":registry.k8s.io/pause:3.10.2", "dir:"+filepath.Join(dir, "pause")).CombinedOutput(); err != nil {
		t.Errorf("skopeo copy: %v\n%s", err, out)
	}

	// In parts, of which one is lost, and sent again.
	bundle(t, dir, 0, "split", "kocli.tar", "--size", "100MiB", "--out", "parts")
	if err := os.Rename(filepath.Join(dir, "parts/kocli.tar.002"), filepath.Join(dir, "lost")); err != nil {
		t.Fatal(err)
	}
	if out := bundle(t, dir, 6, "join", "parts", "--out", "joined.tar"); !strings.Contains(out, "kocli.tar.002") {
		t.Errorf("the part that is missing is not named:\n%s", out)
	}
	if err := os.Rename(filepath.Join(dir, "lost"), filepath.Join(dir, "parts/kocli.tar.002")); err != nil {
		t.Fatal(err)
	}
	bundle(t, dir, 0, "join", "parts", "--out", "joined.tar")
	signed, err1 := os.ReadFile(file)
	joined, err2 := os.ReadFile(filepath.Join(dir, "joined.tar"))
	if err1 != nil || err2 != nil || !bytes.Equal(signed, joined) {
		t.Errorf("what was joined is not what was cut: %v, %v", err1, err2)
	}

	// What it differs in from another, and what is in it.
	if out := bundle(t, dir, 0, "diff", "kocli.tar", "joined.tar"); strings.Contains(out, "added") {
		t.Errorf("a bundle differs from itself:\n%s", out)
	}
	var sbom struct {
		SPDXVersion string
		Packages    []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(bundle(t, dir, 0, "sbom", "kocli.tar")), &sbom); err != nil {
		t.Fatal(err)
	}
	if sbom.SPDXVersion != "SPDX-2.3" || !slices.ContainsFunc(sbom.Packages, func(p struct{ Name string }) bool { return p.Name == "kubelet" }) {
		t.Errorf("%s with %d packages", sbom.SPDXVersion, len(sbom.Packages))
	}

	// One flipped byte, wherever it is.
	signed[len(signed)/2] ^= 1
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	bundle(t, dir, 6, "verify", "kocli.tar")
}
