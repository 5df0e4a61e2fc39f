package hosttest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
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
	case "cat":
		return m.each(args, "cat", func(_ string, f File) string { return string(f.Data) })
	case "sha256sum":
		return m.each(args, "sha256sum", func(name string, f File) string {
			sum := sha256.Sum256(f.Data)
			return hex.EncodeToString(sum[:]) + "  " + name + "\n"
		})
	case "readlink":
		return m.each(args, "readlink", func(_ string, f File) string { return f.Link + "\n" })
	case "test":
		if len(args) == 2 && args[0] == "-e" {
			_, ok := m.Read(args[1])
			return "", map[bool]int{true: 0, false: 1}[ok], true
		}
	case "stat":
		if len(argv) == 5 && argv[1] == "-c" {
			return m.each(argv[4:], "stat", func(_ string, f File) string {
				return fmt.Sprintf("%x %d 0 %s\n", rawMode(f.Mode), len(f.Data), f.Owner)
			})
		}
	case "sh":
		return m.ledger(argv, stdin)
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

// each applies f to every named file, as the coreutils do.
func (m *Machine) each(names []string, program string, f func(string, File) string) (string, int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out, bad strings.Builder
	for _, n := range names {
		if n == "--" {
			continue
		}
		file, ok := m.files[path.Clean(n)]
		if !ok {
			fmt.Fprintf(&bad, "%s: %s: No such file or directory\n", program, n)
			continue
		}
		out.WriteString(f(n, file))
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

// ledger does what the scripts of package ledger do.
func (m *Machine) ledger(argv []string, stdin []byte) (string, int, bool) {
	if len(argv) < 5 {
		return "", 0, false
	}
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
