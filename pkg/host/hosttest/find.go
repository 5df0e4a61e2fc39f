package hosttest

import (
	"context"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// find does what find does with the tests and the action that kocli uses.
func find(_ context.Context, m *Machine, argv []string, _ []byte) (Reply, bool) {
	if argv[0] != "find" {
		return Reply{}, false
	}
	i := slices.IndexFunc(argv, func(a string) bool { return strings.HasPrefix(a, "-") || a == "(" })
	if i < 0 {
		i = len(argv)
	}
	var r Reply
	for _, start := range argv[1:i] {
		r.add(m.search(path.Clean(start), argv[i:]))
	}
	return r, true
}

// search is find with one starting point.
func (m *Machine) search(start string, words []string) Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.get(start, false); !ok {
		return Reply{Stderr: "find: '" + start + "': No such file or directory\n", Code: 1}
	}
	var r Reply
	for _, p := range m.below(start) {
		e := expression{words: words, path: p, file: m.files[p], depth: strings.Count(strings.TrimPrefix(p, start), "/"), inside: true}
		switch ok := e.any(); {
		case e.failed != "":
			return Reply{Stderr: "find: " + e.failed + "\n", Code: 1}
		case !ok || !e.inside:
		case e.format != "":
			r.Stdout += strings.NewReplacer("%f", path.Base(p), "%s", strconv.Itoa(len(e.file.Data)), `\n`, "\n").Replace(e.format)
		case !e.delete:
			r.Stdout += p + "\n"
		case e.file.Mode.IsDir() && len(m.below(p)) > 1:
			r.add(Reply{Stderr: "find: cannot delete '" + p + "': Directory not empty\n", Code: 1})
		default:
			delete(m.files, p)
		}
	}
	return r
}

// below lists a path and what is in it, what is deepest first. The lock is held.
func (m *Machine) below(start string) []string {
	var out []string
	for p := range m.files {
		if p == start || strings.HasPrefix(p, strings.TrimSuffix(start, "/")+"/") {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(b, a) })
	return out
}

// expression is what find is asked about one file, word by word.
type expression struct {
	words  []string
	path   string
	file   File
	depth  int
	inside bool // of the depths that are asked for
	delete bool
	format string // of -printf
	failed string
}

func (e *expression) next() string {
	if len(e.words) == 0 {
		return ""
	}
	w := e.words[0]
	e.words = e.words[1:]
	return w
}

func (e *expression) any() bool {
	ok := e.all()
	for len(e.words) > 0 && e.words[0] == "-o" {
		e.next()
		ok = e.all() || ok
	}
	return ok
}

func (e *expression) all() bool {
	ok := true
	for len(e.words) > 0 && e.words[0] != "-o" && e.words[0] != ")" {
		ok = e.term() && ok
	}
	return ok
}

func (e *expression) term() bool {
	switch w := e.next(); w {
	case "(":
		ok := e.any()
		e.next() // ")"
		return ok
	case "-not":
		return !e.term()
	case "-path":
		return matches(e.next(), e.path)
	case "-name":
		return matches(e.next(), path.Base(e.path))
	case "-type":
		return e.next() == map[bool]string{true: "d", false: "f"}[e.file.Mode.IsDir()] && e.file.Mode&fs.ModeSymlink == 0
	case "-mindepth", "-maxdepth":
		n, err := strconv.Atoi(e.next())
		if err != nil {
			e.failed = err.Error()
		}
		e.inside = e.inside && (w == "-mindepth" && e.depth >= n || w == "-maxdepth" && e.depth <= n)
		return true
	case "-xdev": // a machine in memory has one file system
		return true
	case "-printf":
		e.format = e.next()
		return true
	case "-delete":
		e.delete = true
		return true
	default:
		e.failed = "unknown predicate '" + w + "'"
		return false
	}
}

// matches is fnmatch: a star stands for slashes too.
func matches(pattern, name string) bool {
	re := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	return regexp.MustCompile("^(?s:" + re + ")$").MatchString(name)
}
