package render_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

func TestFile(t *testing.T) {
	fsys := fstest.MapFS{
		"good":   {Data: []byte("a {{.X}} b")},
		"broken": {Data: []byte("a {{.X")},
	}
	if out, err := render.File(fsys, "good", map[string]string{"X": "<&>"}); err != nil || string(out) != "a <&> b" {
		t.Errorf("%q, %v", out, err)
	}
	for name, c := range map[string]struct {
		file string
		data any
		says string
	}{
		"a key that is missing":          {"good", map[string]string{"Y": "x"}, "render template good"},
		"a field that is missing":        {"good", struct{ Y string }{}, "render template good"},
		"no data at all":                 {"good", map[string]string(nil), "render template good"},
		"a template that does not parse": {"broken", nil, "parse template broken"},
		"a template that does not exist": {"absent", nil, "read template"},
	} {
		if out, err := render.File(fsys, c.file, c.data); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

func TestEmbedded_equalsDisk(t *testing.T) {
	for dir, fsys := range map[string]fs.FS{"../../templates": templates.Node, "../../manifests": manifests.FS} {
		n := 0
		err := fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			n++
			embedded, err := fs.ReadFile(fsys, p)
			if err != nil {
				return err
			}
			disk, err := os.ReadFile(filepath.Join(dir, p))
			if err != nil || string(disk) != string(embedded) {
				t.Errorf("%s differs from what is embedded: %v", p, err)
			}
			return nil
		})
		if err != nil || n == 0 {
			t.Errorf("%s: %d files, %v", dir, n, err)
		}
	}
	onDisk, err := filepath.Glob("../../manifests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range onDisk {
		if _, err := fs.Stat(manifests.FS, filepath.Base(p)); err != nil {
			t.Errorf("%s is not embedded", p)
		}
	}
}

// TestNodeTemplates_systemdReadsThem asks systemd itself. It answers 0 for most
// faults and prints them.
func TestNodeTemplates_systemdReadsThem(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed here; the list of must-run tests names this one")
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	unit := func(name string, data any) []byte {
		t.Helper()
		out, err := render.File(templates.Node, "node/"+name, data)
		if err != nil {
			t.Fatal(err)
		}
		// The programs are not there on the machine that runs the tests.
		return []byte(strings.ReplaceAll(string(out), "/usr/bin/kubelet", "/bin/true"))
	}
	verify := func(p string) string {
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", p).CombinedOutput()
		if err != nil {
			t.Errorf("%v", err)
		}
		return string(out)
	}
	write("kubelet.service.d/10-kubeadm.conf", unit("10-kubeadm.conf", nil))
	for _, p := range []string{
		write("containerd.service", unit("containerd.service", map[string]string{"Binary": "/bin/true", "Fingerprint": "KOCLI_FINGERPRINT=0123456789abcdef"})),
		write("kubelet.service", unit("kubelet.service", nil)),
		write("kocli-backup.service", unit("kocli-backup.service", map[string]string{"Kocli": "/bin/true", "Config": "/etc/x"})),
		write("kocli-backup.timer", unit("kocli-backup.timer", map[string]string{"Schedule": "*-*-* 02:30:00"})),
	} {
		if out := verify(p); strings.Contains(out, dir) || strings.Contains(out, filepath.Base(p)) {
			t.Errorf("systemd says: %s", out)
		}
	}
	// That it finds faults at all.
	if out := verify(write("bad.service", []byte("[Service]\nExecStart=/bin/true\nRestart=sometimes\n"))); !strings.Contains(out, "sometimes") {
		t.Errorf("systemd says nothing about a unit that is wrong: %q", out)
	}
}
