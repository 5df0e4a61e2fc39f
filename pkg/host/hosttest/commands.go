package hosttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// coreutils are the commands that every machine has.
func coreutils(m *Machine, argv []string, stdin []byte) (string, int, bool) {
	args := argv[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	switch argv[0] {
	case "true":
		return "", 0, true
	case "printf":
		if len(argv) == 3 && argv[1] == "%s" {
			return argv[2], 0, true
		}
	case "mkfifo":
		m.Write(args[0], fs.ModeNamedPipe|0o644, "")
		return "", 0, true
	case "cat":
		if m.pipe(args) {
			return "", 0, false // it waits: see shell
		}
		return m.each(args, "cat", func(_ string, f File) string { return string(f.Data) })
	case "grep":
		return m.grep(argv)
	case "ln":
		if len(args) == 3 && args[0] == "-s" {
			m.Link(args[2], args[1])
			return "", 0, true
		}
	case "ls":
		if len(args) == 2 && (args[0] == "-A" || args[0] == "-1") {
			return m.list(args[1])
		}
	case "sha256sum":
		if len(args) == 0 {
			sum := sha256.Sum256(stdin)
			return hex.EncodeToString(sum[:]) + "  -\n", 0, true
		}
		return m.each(args, "sha256sum", func(name string, f File) string {
			sum := sha256.Sum256(f.Data)
			return hex.EncodeToString(sum[:]) + "  " + name + "\n"
		})
	case "readlink":
		return m.each(args, "readlink", func(_ string, f File) string { return f.Link + "\n" })
	case "test":
		if len(args) == 2 && args[0] == "-e" {
			m.mu.Lock()
			_, ok := m.get(args[1], true)
			m.mu.Unlock()
			return "", map[bool]int{true: 0, false: 1}[ok], true
		}
	case "stat":
		if len(argv) == 5 && argv[1] == "-c" {
			return m.each(argv[4:], "stat", func(_ string, f File) string {
				return fmt.Sprintf("%x %d 0 %s\n", rawMode(f.Mode), len(f.Data), f.Owner)
			})
		}
	case "sh":
		if len(argv) > 4 && argv[3] == "kocli-save" {
			return m.move(append([]string{"cp"}, argv[4:]...))
		}
		return m.ledger(argv, stdin)
	case "cp", "mv":
		return m.move(argv)
	case "mkdir":
		for _, a := range args {
			if !strings.HasPrefix(a, "-") {
				m.Write(a, fs.ModeDir|0o755, "")
			}
		}
		return "", 0, true
	case "rm":
		for _, a := range args {
			if !strings.HasPrefix(a, "-") {
				m.Delete(a)
			}
		}
		return "", 0, true
	}
	return "", 0, false
}

// pipe reports whether the last of the files is a pipe that nobody writes to.
func (m *Machine) pipe(names []string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(names) == 0 {
		return false
	}
	f, _ := m.get(names[len(names)-1], true)
	return f.Mode&fs.ModeNamedPipe != 0
}

// list names what is in a folder.
func (m *Machine) list(dir string) (string, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f, ok := m.get(dir, true); !ok || !f.Mode.IsDir() {
		return "ls: cannot access '" + dir + "': No such file or directory\n", 2, true
	}
	var names []string
	for p := range m.files {
		if path.Dir(p) == path.Clean(dir) && p != "/" {
			names = append(names, path.Base(p)+"\n")
		}
	}
	slices.Sort(names)
	return strings.Join(names, ""), 0, true
}

// grep prints the lines that have a text, of files that are there: grep -hsF.
func (m *Machine) grep(argv []string) (string, int, bool) {
	if len(argv) < 5 || argv[1] != "-hsF" || argv[2] != "--" {
		return "", 0, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out strings.Builder
	for _, name := range argv[4:] {
		f, _ := m.get(name, true)
		for l := range strings.Lines(string(f.Data)) {
			if strings.Contains(l, argv[3]) {
				out.WriteString(l)
			}
		}
	}
	return out.String(), map[bool]int{true: 0, false: 1}[out.Len() > 0], true
}

// each applies f to every named file, as the coreutils do.
func (m *Machine) each(names []string, program string, f func(string, File) string) (string, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out, bad strings.Builder
	for _, n := range names {
		if n == "--" {
			continue
		}
		file, ok := m.get(n, program == "cat" || program == "sha256sum")
		switch {
		case !ok:
			fmt.Fprintf(&bad, "%s: %s: No such file or directory\n", program, n)
		case file.Mode.IsDir() && program != "stat":
			fmt.Fprintf(&bad, "%s: %s: Is a directory\n", program, n)
		default:
			out.WriteString(f(n, file))
		}
	}
	if bad.Len() > 0 {
		return bad.String(), 1, true
	}
	return out.String(), 0, true
}

// rawMode is the st_mode of a file or folder.
func rawMode(m fs.FileMode) uint32 {
	raw := uint32(m.Perm())
	switch {
	case m.IsDir():
		return raw | 0o040000
	case m&fs.ModeSymlink != 0:
		return raw | 0o120000
	}
	return raw | 0o100000
}

// move is cp -a and mv, in the forms that kocli uses: "cp -a --parents -t DIR -- FILE...",
// "cp -a -T FROM TO" and "mv -T FROM TO".
func (m *Machine) move(argv []string) (string, int, bool) {
	if len(argv) > 6 && slices.Equal(argv[:4], []string{"cp", "-a", "--parents", "-t"}) {
		for _, from := range argv[6:] {
			if out, code := m.copyTree(from, path.Join(argv[4], from), false); code != 0 {
				return out, code, true
			}
		}
		return "", 0, true
	}
	if i := slices.Index(argv, "-T"); i > 0 && len(argv) == i+3 {
		out, code := m.copyTree(argv[i+1], argv[i+2], argv[0] == "mv")
		return out, code, true
	}
	return "", 0, false
}

// copyTree copies a file or folder, or renames it.
func (m *Machine) copyTree(from, to string, rename bool) (string, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, to = path.Clean(from), path.Clean(to)
	if _, ok := m.files[from]; !ok {
		return "cp: cannot stat '" + from + "': No such file or directory\n", 1
	}
	for p, f := range maps.Clone(m.files) {
		if p == from || strings.HasPrefix(p, from+"/") {
			m.set(to+strings.TrimPrefix(p, from), f)
			if rename {
				delete(m.files, p)
			}
		}
	}
	return "", 0
}

// ledger does what the scripts of package ledger do.
func (m *Machine) ledger(argv []string, stdin []byte) (string, int, bool) {
	if len(argv) < 5 {
		return "", 0, false
	}
	m.book.Lock()
	defer m.book.Unlock()
	switch argv[3] {
	case "kocli-append":
		old, _ := m.Read(argv[4])
		m.Write(argv[4], 0o600, old+string(stdin))
		return "", 0, true
	case "kocli-preserve":
		name, keep, book, line := argv[4], argv[5], argv[6], argv[7]
		if data, ok := m.Read(name); ok {
			line = argv[8]
			if _, kept := m.Read(keep); !kept {
				m.Write(keep, 0o600, data)
			}
		}
		old, _ := m.Read(book)
		m.Write(book, 0o600, old+line+"\n")
		return "", 0, true
	}
	return "", 0, false
}

// shell knows the scripts of the conformance suite by heart, and how to sleep.
func shell(ctx context.Context, _ *Machine, argv []string, _ []byte) (Reply, bool) {
	if argv[0] == "sleep" || argv[0] == "cat" { // cat comes here with a pipe alone
		<-ctx.Done()
		return Reply{}, true
	}
	if argv[0] != "sh" || len(argv) < 3 {
		return Reply{}, false
	}
	switch argv[2] {
	case scriptFails:
		return Reply{"out", "first\nlast words\n", 7}, true
	case scriptBinary:
		return Reply{"\x00\xff\n\n", "e\n\n", 0}, true
	case scriptLeaks:
		return Reply{"", "the password is " + argv[4] + "\n", 1}, true
	case scriptDevours:
		return Reply{Stdout: "done\n"}, true
	case scriptIgnores:
		return Reply{Stdout: "early\n"}, true
	}
	return Reply{}, false
}
