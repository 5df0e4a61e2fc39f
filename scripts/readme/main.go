// Command readme fills the parts of the READMEs between "<!-- NAME:begin -->" and
// "<!-- NAME:end -->" from real runs: features from the journeys that passed,
// figures from the benchmark, the demo from its output.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: readme CACHE-DIR REPO-DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(cache, repo string) error {
	features, err := os.ReadFile(filepath.Join(repo, "scripts", "features.txt"))
	if err != nil {
		return err
	}
	for column, name := range []string{"README.md", "README.zh-CN.md"} {
		path := filepath.Join(repo, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for part, from := range map[string]func() (string, error){
			"features": func() (string, error) {
				passed, err := passedTests(cache)
				return featureTable(string(features), column, passed), err
			},
			"figures": func() (string, error) { return figureTable(filepath.Join(cache, "bench.json")) },
			"demo": func() (string, error) {
				demo, err := os.ReadFile(filepath.Join(cache, "demo.txt"))
				return "```text\n" + strings.TrimSpace(string(demo)) + "\n```\n", err
			},
		} {
			made, err := from()
			if errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(os.Stderr, "%s: %s stays as it is: nothing of the kind has run here\n", name, part)
				continue
			}
			if err != nil {
				return err
			}
			text = fill(text, part, made)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// passedTests reads what `go test -json` said of each suite of journeys that has run.
func passedTests(cache string) (map[string]bool, error) {
	suites, err := filepath.Glob(filepath.Join(cache, "e2e-*.json"))
	if err == nil && len(suites) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, path := range suites {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		s := bufio.NewScanner(f)
		s.Buffer(nil, 16<<20)
		for s.Scan() {
			var e struct{ Action, Test string }
			if json.Unmarshal(s.Bytes(), &e) == nil && e.Action == "pass" {
				out[e.Test] = true
			}
		}
		if err := errors.Join(s.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func featureTable(features string, column int, passed map[string]bool) string {
	head := []string{"| what | journey in scripts/e2e |\n|---|---|\n", "| 功能 | scripts/e2e 里的流程 |\n|---|---|\n"}[column]
	var out strings.Builder
	out.WriteString(head)
	for _, l := range strings.Split(features, "\n") {
		f := strings.Split(l, "|")
		if len(f) == 3 && !strings.HasPrefix(l, "#") && passed[f[2]] {
			fmt.Fprintf(&out, "| %s | %s |\n", f[column], f[2])
		}
	}
	return out.String()
}

func figureTable(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var list []struct {
		Name, Unit, Bar string
		Value           float64
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("| figure | value | unit | bar |\n|---|---|---|---|\n")
	for _, f := range list {
		fmt.Fprintf(&out, "| %s | %.4g | %s | %s |\n", f.Name, f.Value, f.Unit, f.Bar)
	}
	return out.String(), nil
}

// fill replaces what stands between a pair of markers.
func fill(text []byte, name, content string) []byte {
	begin, end := "<!-- "+name+":begin -->", "<!-- "+name+":end -->"
	re := regexp.MustCompile("(?s)" + regexp.QuoteMeta(begin) + ".*?" + regexp.QuoteMeta(end))
	return re.ReplaceAllFunc(text, func([]byte) []byte {
		return bytes.Join([][]byte{[]byte(begin), []byte(strings.TrimSpace(content)), []byte(end)}, []byte("\n"))
	})
}
