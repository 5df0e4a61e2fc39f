package target

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// server is a folder on a server.
type server struct {
	url   string
	dir   string
	files *sshhost.Files
}

func openSFTP(ctx context.Context, u *url.URL, o Options) (Target, error) {
	login := o.Login
	if u.User != nil {
		login.User = u.User.Username()
	}
	port := 22
	if p := u.Port(); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil {
			return nil, fault.New(fault.Usage, hint, err)
		}
		port = n
	}
	t := sshhost.Target{Name: u.Host, Address: u.Hostname(), Port: port, Login: login}
	files, err := sshhost.DialFiles(ctx, t, o.SSH)
	if err != nil {
		return nil, err
	}
	return &server{url: u.String(), dir: path.Clean(u.Path), files: files}, nil
}

func (s *server) String() string { return s.url }
func (s *server) Close() error   { return s.files.Close() }

func (s *server) why(op string, err error) error {
	if sshhost.NoSpace(err) || s.full() {
		return failed(op, s, "make room there (kocli backup prune), then run the same command again; earlier backups are as they were", err)
	}
	return failed(op, s, "look at the folder on the server, then run the same command again", err)
}

// little is what a file system has left, in bytes, that is called full.
const little = 1 << 20

// full reports whether the server has no room left. OpenSSH says no more of that than
// that something failed.
func (s *server) full() bool {
	v, err := s.files.StatVFS(s.dir)
	return err == nil && v.Blocks > 0 && v.Bavail*v.Frsize < little
}

// serverUpload feeds SFTP through a pipe: what is written in pieces travels with
// many packets in flight.
type serverUpload struct {
	s      *server
	temp   string
	name   string
	pipe   *io.PipeWriter
	ended  chan struct{} // of the transfer, and failed is how
	failed error
	stop   func() bool
	done   bool
}

func (s *server) Create(ctx context.Context, name string) (Upload, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	if err := s.files.MkdirAll(s.dir); err != nil {
		return nil, s.why("make folder", err)
	}
	s.clear()
	temp := path.Join(s.dir, partialPrefix+name)
	if err := s.files.Remove(temp); err != nil && !sshhost.Missing(err) { // of a run that was killed
		return nil, s.why("write into", err)
	}
	file, err := s.files.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
	if err != nil {
		return nil, s.why("write into", err)
	}
	if err := file.Chmod(0o600); err != nil {
		return nil, s.why("write into", errors.Join(err, file.Close()))
	}
	r, w := io.Pipe()
	u := &serverUpload{s: s, temp: temp, name: name, pipe: w, ended: make(chan struct{})}
	u.stop = context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := file.ReadFromWithConcurrency(r, inFlight)
		if err == nil {
			err = file.Sync()
			if unsupported(err) {
				err = nil // a server without fsync@openssh.com
			}
		}
		err = errors.Join(err, file.Close())
		r.CloseWithError(err)
		u.failed = err
		close(u.ended)
	}()
	return u, nil
}

// inFlight is how many packets of 32 KiB are on their way at once.
const inFlight = 64

// unsupported is an answer that the server knows no such request.
func unsupported(err error) bool { return sshhost.Unsupported(err) }

// clear removes what killed uploads left long ago.
func (s *server) clear() {
	all, err := s.files.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range all {
		if partial(e.Name()) && time.Since(e.ModTime()) > staleAfter {
			_ = s.files.Remove(path.Join(s.dir, e.Name())) // the next upload tries again
		}
	}
}

func (u *serverUpload) Write(p []byte) (int, error) {
	n, err := u.pipe.Write(p)
	if err != nil {
		err = u.s.why("write into", err)
	}
	return n, err
}

func (u *serverUpload) Commit() error {
	_ = u.pipe.Close() // never fails
	<-u.ended
	u.stop()
	if u.failed != nil {
		return u.s.why("write into", u.failed)
	}
	if err := u.s.files.PosixRename(u.temp, path.Join(u.s.dir, u.name)); err != nil {
		return u.s.why("write into", err)
	}
	u.done = true
	return nil
}

func (u *serverUpload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	u.stop()
	u.pipe.CloseWithError(context.Canceled)
	<-u.ended // the file is closed
	return u.s.files.Remove(u.temp)
}

func (s *server) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	r, err := s.files.Open(path.Join(s.dir, name))
	if err != nil {
		return nil, failed("read from", s, "kocli backup list shows what is there", err)
	}
	return r, nil
}

func (s *server) List(context.Context) ([]Entry, error) {
	all, err := s.files.ReadDir(s.dir)
	if sshhost.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, s.why("list", err)
	}
	var out []Entry
	for _, e := range all {
		if e.Mode().IsRegular() && !partial(e.Name()) {
			out = append(out, Entry{Name: e.Name(), Size: e.Size(), Modified: e.ModTime()})
		}
	}
	return out, nil
}

func (s *server) Remove(_ context.Context, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	if err := s.files.Remove(path.Join(s.dir, name)); err != nil && !sshhost.Missing(err) {
		return s.why("remove from", err)
	}
	return nil
}
