package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// archiveKeys signs Debian's releases; every Debian machine has it.
const archiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

func runDebs(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("debs", flag.ContinueOnError)
	archive := flags.String("archive", "", "`URL` of a Debian archive")
	suite := flags.String("suite", "", "`name` of the release")
	out := flags.String("out", "", "`folder` that becomes the partial archive")
	resolve := flags.Bool("resolve", false, "only print the .deb files in the folder that the packages need")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *suite == "" || *out == "" || flags.NArg() == 0 {
		return errors.New("usage: mirror debs -archive URL -suite NAME -out DIR PACKAGES")
	}
	packages := filepath.Join(*out, "dists", *suite, "main/binary-amd64/Packages")
	if !*resolve {
		if err := fetchIndex(ctx, strings.TrimSuffix(*archive, "/"), *suite, *out); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(packages)
	if err != nil {
		return err
	}
	debs, err := parsePackages(data).closure(flags.Args())
	if err != nil {
		return err
	}
	if *resolve {
		for _, d := range debs {
			fmt.Fprintln(stdout, filepath.Join(*out, d["Filename"]))
		}
		return nil
	}
	return fetchAll(ctx, strings.TrimSuffix(*archive, "/"), *out, debs)
}

// fetchIndex gets the signed InRelease and the package list that it vouches for.
func fetchIndex(ctx context.Context, archive, suite, out string) error {
	dir := filepath.Join(out, "dists", suite)
	release, err := get(ctx, archive+"/dists/"+suite+"/InRelease")
	if err != nil {
		return err
	}
	inRelease := filepath.Join(dir, "InRelease")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "main/binary-amd64"), 0o755), os.WriteFile(inRelease, release, 0o644)); err != nil {
		return err
	}
	if msg, err := exec.CommandContext(ctx, "gpgv", "--keyring", archiveKeys, inRelease).CombinedOutput(); err != nil {
		return fmt.Errorf("signature of InRelease: %w: %s", err, msg)
	}
	const name = "main/binary-amd64/Packages"
	packed, err := get(ctx, archive+"/dists/"+suite+"/"+name+".xz")
	if err != nil {
		return err
	}
	xz := exec.CommandContext(ctx, "xz", "-dc")
	xz.Stdin = bytes.NewReader(packed)
	plain, err := xz.Output()
	if err != nil {
		return fmt.Errorf("unpack %s.xz: %w", name, err)
	}
	for suffix, data := range map[string][]byte{".xz": packed, "": plain} {
		if !strings.Contains(string(release), fmt.Sprintf(" %s %8d %s%s\n", digestOf(data), len(data), name, suffix)) {
			return fmt.Errorf("%s%s is not what InRelease lists", name, suffix)
		}
		if err := os.WriteFile(filepath.Join(dir, name+suffix), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func get(ctx context.Context, url string) ([]byte, error) {
	var last error
	for try := range 4 {
		if try > 0 {
			time.Sleep(time.Duration(try) * time.Second)
		}
		data, err := getOnce(ctx, url)
		if err == nil {
			return data, nil
		}
		last = err
	}
	return nil, last
}

func getOnce(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func fetchAll(ctx context.Context, archive, out string, debs []stanza) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		slot = make(chan struct{}, 6)
	)
	for _, d := range debs {
		wg.Go(func() {
			slot <- struct{}{}
			defer func() { <-slot }()
			data, err := get(ctx, archive+"/"+d["Filename"])
			if err == nil && digestOf(data) != d["SHA256"] {
				err = fmt.Errorf("%s: digest differs from the package list", d["Filename"])
			}
			target := filepath.Join(out, d["Filename"])
			if err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, data, 0o644))
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stanza is one package: field -> value.
type stanza map[string]string

type packageList struct {
	byName   map[string]stanza
	provides map[string][]string
}

func parsePackages(data []byte) packageList {
	l := packageList{byName: map[string]stanza{}, provides: map[string][]string{}}
	s := stanza{}
	flush := func() {
		if name := s["Package"]; name != "" {
			l.byName[name] = s
			for _, alternatives := range relations(s["Provides"]) {
				for _, p := range alternatives {
					l.provides[p] = append(l.provides[p], name)
				}
			}
		}
		s = stanza{}
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		switch field, value, ok := strings.Cut(line, ": "); {
		case line == "":
			flush()
		case ok && line[0] != ' ':
			s[field] = value
		}
	}
	flush()
	return l
}

// relations splits a Depends field into groups of alternatives, without
// versions: within one suite they fit.
func relations(field string) [][]string {
	var out [][]string
	for group := range strings.SplitSeq(field, ",") {
		var alternatives []string
		for a := range strings.SplitSeq(group, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(a), " ")
			if name, _, _ = strings.Cut(name, ":"); name != "" {
				alternatives = append(alternatives, name)
			}
		}
		if len(alternatives) > 0 {
			out = append(out, alternatives)
		}
	}
	return out
}

// closure returns the packages and all that they depend on, by name. Of
// alternatives it takes the first that exists, as apt does on an empty system.
func (l packageList) closure(names []string) ([]stanza, error) {
	need := map[string]bool{}
	queue := slices.Clone(names)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if need[name] {
			continue
		}
		s, ok := l.byName[name]
		if !ok {
			return nil, fmt.Errorf("no package %s", name)
		}
		need[name] = true
		for _, group := range relations(s["Pre-Depends"] + "," + s["Depends"]) {
			if i := slices.IndexFunc(group, func(n string) bool { return l.byName[n] != nil }); i >= 0 {
				queue = append(queue, group[i])
				continue
			}
			i := slices.IndexFunc(group, func(n string) bool { return len(l.provides[n]) > 0 })
			if i < 0 {
				return nil, fmt.Errorf("%s needs %s, which no package is or provides", name, strings.Join(group, " or "))
			}
			queue = append(queue, slices.Sorted(slices.Values(l.provides[group[i]]))[0])
		}
	}
	var out []stanza
	for name := range need {
		out = append(out, l.byName[name])
	}
	slices.SortFunc(out, func(a, b stanza) int { return strings.Compare(a["Package"], b["Package"]) })
	return out, nil
}
