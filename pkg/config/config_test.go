package config_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/templates"
)

var update = flag.Bool("update", false, "write the expected problems")

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files for %s: %v", pattern, err)
	}
	return files
}

func TestLoad_validFiles(t *testing.T) {
	files := append(glob(t, "testdata/valid/*.yaml"), glob(t, "../../examples/cluster-*.yaml")...)
	for _, f := range append(files, glob(t, "../../templates/init/*.yaml")...) {
		t.Run(filepath.Base(f), func(t *testing.T) {
			c, err := config.Load(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := inventory.New(c); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProfiles_areEmbeddedAndLoad(t *testing.T) {
	if got := strings.Join(templates.Profiles(), " "); got != "ha lab single" {
		t.Errorf("profiles: %s", got)
	}
	for _, name := range templates.Profiles() {
		data, err := templates.Profile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Read(name, strings.NewReader(string(data))); err != nil {
			t.Error(err)
		}
	}
	if _, err := templates.Profile("nope"); err == nil {
		t.Error("an unknown profile was found")
	}
}

// The expected problems stand beside each file, one a line.
func TestLoad_reportsAllProblemsWithPathAndLine(t *testing.T) {
	for _, f := range glob(t, "testdata/invalid/*.yaml") {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, err := config.Load(f)
			if err == nil {
				t.Fatal("was accepted")
			}
			if fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "kocli validate -f "+f) {
				t.Errorf("code %d, hint %q", fault.CodeOf(err), fault.HintOf(err))
			}
			got := lines(err)
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "12345678") {
				t.Errorf("a secret is shown: %v", err)
			}
			want := strings.TrimSuffix(f, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			data, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(data) {
				t.Errorf("got:\n%s\nwant:\n%s", got, data)
			}
		})
	}
}

func lines(err error) string {
	var many config.Problems
	if !errors.As(err, &many) {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, p := range many {
		b.WriteString(p.Error() + "\n")
	}
	return b.String()
}

func TestLoad_missingFileSaysHowToWriteOne(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"))
	if fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "kocli init") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}

func TestDefault_isIdempotentAndSurvivesMarshal(t *testing.T) {
	c, err := config.Load("../../examples/cluster-three-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	once, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.Read("again", strings.NewReader(string(once)))
	if err != nil {
		t.Fatalf("%v\n%s", err, once)
	}
	twice, err := yaml.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if string(once) != string(twice) {
		t.Errorf("first:\n%s\nsecond:\n%s", once, twice)
	}
}

func FuzzRead(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.yaml", "testdata/invalid/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Read("f", strings.NewReader(string(data)))
		if err != nil {
			if fault.CodeOf(err) != fault.Usage {
				t.Fatalf("code %d of %v", fault.CodeOf(err), err)
			}
			return
		}
		out, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Read("f", strings.NewReader(string(out))); err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, out)
		}
	})
}

func TestRead_boundsAliasesOfAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: kocli.io/v1alpha1\nkind: Cluster\nmetadata: {name: x}\nspec:\n  kubernetes:\n    overrides:\n      kubelet:\n        a0: &a0 [x]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, "        a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	_, err := config.Read("bomb", strings.NewReader(b.String()))
	if err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%.200v", err)
	}
}

func TestSecrets_resolveAndHide(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("from file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KOCLI_TEST_SECRET", "from env")
	asked := 0
	s := &config.Secrets{Prompt: func(_ context.Context, what string) (string, error) {
		asked++
		return "asked for " + what, nil
	}}
	for ref, want := range map[v1alpha1.SecretRef]string{
		"": "", "env:KOCLI_TEST_SECRET": "from env", v1alpha1.SecretRef("file:" + file): "from file", "prompt": "asked for x",
	} {
		for range 2 {
			got, err := s.Resolve(t.Context(), ref, "x")
			if err != nil || got.Reveal() != want {
				t.Errorf("%s: %q, %v", ref, got.Reveal(), err)
			}
			for _, shown := range []string{fmt.Sprint(got), fmt.Sprintf("%#v %+v", got, got)} {
				if want != "" && strings.Contains(shown, want) {
					t.Errorf("%s shows itself: %s", ref, shown)
				}
			}
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	for _, ref := range []v1alpha1.SecretRef{"env:KOCLI_TEST_UNSET", "file:/does/not/exist", "plaincanary"} {
		_, err := s.Resolve(t.Context(), ref, "x")
		if fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "" || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// The files of an external etcd are looked at where they are used, and not before.
func TestCheckFiles_namesTheFilesOfAnExternalEtcd(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &v1alpha1.Cluster{}
	c.Spec.Etcd.External = &v1alpha1.ExternalEtcd{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "client.crt"), KeyFile: dir}
	var got []string
	for _, e := range config.CheckFiles(c) {
		got = append(got, e.Field)
	}
	if strings.Join(got, " ") != "spec.etcd.external.certFile spec.etcd.external.keyFile" {
		t.Error(got)
	}
}
