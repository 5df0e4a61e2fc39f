package sink_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/host/sink"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// receiveIn has the test's own program be `kocli node receive`, for a host whose
// file system starts at the folder that it names.
const receiveIn = "KOCLI_TEST_RECEIVE_IN"

func TestMain(m *testing.M) {
	root := os.Getenv(receiveIn)
	if root == "" {
		m.Run()
		return
	}
	if err := sink.Receive(context.Background(), os.Stdin, root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// rooted is a host behind SSH whose file system starts at a folder: every path
// on its way to the host is moved there.
type rooted struct {
	*sshhost.Host
	root string
	self string // the test's own program
}

func (r rooted) moved(c host.Cmd) host.Cmd {
	c.Argv = slices.Clone(c.Argv)
	if c.Argv[0] == "/kocli" {
		c.Argv = append([]string{"env", receiveIn + "=" + r.root, r.self}, c.Argv[1:]...)
		return c
	}
	for i, a := range c.Argv {
		if strings.HasPrefix(a, "/") {
			c.Argv[i] = r.root + a
		}
	}
	return c
}

func (r rooted) Query(ctx context.Context, c host.Cmd) (host.Output, error) {
	return r.Host.Query(ctx, r.moved(c))
}

func (r rooted) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	return r.Host.Run(ctx, r.moved(c))
}

func (r rooted) ReadFile(ctx context.Context, name string) ([]byte, error) {
	return r.Host.ReadFile(ctx, r.root+name)
}

func (r rooted) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	return r.Host.Stat(ctx, r.root+name)
}

func (r rooted) Put(ctx context.Context, f host.File) (bool, error) {
	f.Path = r.root + f.Path
	return r.Host.Put(ctx, f)
}

func (r rooted) Batch(ctx context.Context, cmds []host.Cmd) ([]host.Result, error) {
	out := slices.Clone(cmds)
	for i := range out {
		out[i] = r.moved(out[i])
	}
	return r.Host.Batch(ctx, out)
}

// snapshot describes what is below a folder, a line each. Left out are the
// ledger, the folders that this test's host lacks and every other has, and
// folders for originals, which may be empty.
func snapshot(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root+ledger.Path() || p == root+"/var" || p == root+"/var/lib" {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil || info.IsDir() && strings.HasPrefix(p, root+ledger.OriginalPath("/")) {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s has no owner", p)
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(p); err != nil {
				return err
			}
		}
		out = append(out, fmt.Sprintf("%s %v %d:%d %s", strings.TrimPrefix(p, root), info.Mode(), st.Uid, st.Gid, content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// entries are those of a ledger in any order, without the times, once these are
// found to be those of the files.
func entries(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	for _, e := range book(t, root) {
		if e.Kind == ledger.Content {
			info, err := os.Stat(filepath.Join(root, e.Name))
			if err != nil || info.ModTime().Unix() != e.ModTime {
				t.Errorf("%+v: %v", e, err)
			}
			e.ModTime = 0
		}
		out = append(out, fmt.Sprintf("%+v", e))
	}
	slices.Sort(out)
	return out
}

// The sink is there to be fast: a host has to look the same after it as after
// the same files were put one by one, over a real shell and a real stream. A
// file that is right before kocli came is not among them: the sink does not look
// at it twice, and Put keeps a copy.
func TestPutAll_leavesWhatPutLeaves(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	list := append(files(), host.Bytes("/etc/link", 0o644, []byte("not a link")), host.Bytes("/etc/replaced", 0o600, bytes.Repeat([]byte("new"), 1<<20)),
		host.Bytes("/etc/mode", 0o600, []byte("only the mode differs")))
	for i := range list {
		list[i].Owner = u.Username + ":" + g.Name
	}
	if os.Geteuid() == 0 {
		list[0].Owner = "daemon:daemon"
	}
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: "p"}}})
	results := map[string][]string{}
	for _, way := range []string{"put", "sink"} {
		dir := root(t)
		for name, text := range map[string]string{"replaced": "old", "mode": "only the mode differs"} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("/nowhere", filepath.Join(dir, "etc/link")); err != nil {
			t.Fatal(err)
		}
		h, err := sshhost.Dial(t.Context(), sshhost.Target{Name: "n", Address: "127.0.0.1", Port: server.Port, Login: sshhost.Login{User: "root", Password: "p"}},
			sshhost.Options{Keys: &sshhost.KnownHosts{File: filepath.Join(t.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return true }}, Timeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close() }()
		r := rooted{h, dir, self}
		for range 2 { // the second time finds everything there
			all := sink.Wrap(ledger.Wrap(r), host.NewBatch("n", r, time.Millisecond), "/kocli")
			if way == "sink" {
				if err := all.PutAll(t.Context(), list, func(int64) {}); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for _, f := range list {
				if _, err := all.Put(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
		}
		holds(t, dir, list)
		results[way] = append(snapshot(t, dir), entries(t, dir)...)
	}
	for _, l := range results["put"] {
		if !slices.Contains(results["sink"], l) {
			t.Errorf("only after Put: %s", l)
		}
	}
	for _, l := range results["sink"] {
		if !slices.Contains(results["put"], l) {
			t.Errorf("only after the sink: %s", l)
		}
	}
}
