package target_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

const canary = "s3cr3t c'anary"

// sftpTarget is a folder on a server in the test's process.
func sftpTarget(t *testing.T, accept bool, password string) (string, string, target.Options) {
	t.Helper()
	s := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"ops": {Password: canary}}})
	dir := filepath.Join(t.TempDir(), "srv", "backups")
	return fmt.Sprintf("sftp://ops@127.0.0.1:%d%s", s.Port, dir), dir, target.Options{
		Login: sshhost.Login{Password: password},
		SSH: sshhost.Options{Timeout: 20 * time.Second, Keys: &sshhost.KnownHosts{
			File: filepath.Join(t.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return accept },
		}},
	}
}

func s3Options(s *s3) target.Options {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return target.Options{S3: target.S3Options{Endpoint: s.URL, Region: "us-east-1", AccessKey: "ops", SecretKey: canary, CA: ca}}
}

func open(t *testing.T, where string, o target.Options) target.Target {
	t.Helper()
	f, err := target.Open(t.Context(), where, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// each runs a test on every kind of target.
func each(t *testing.T, run func(*testing.T, target.Target)) {
	t.Run("folder", func(t *testing.T) { run(t, open(t, filepath.Join(t.TempDir(), "a", "b"), target.Options{})) })
	t.Run("sftp", func(t *testing.T) {
		where, _, o := sftpTarget(t, true, canary)
		run(t, open(t, where, o))
	})
	t.Run("s3", func(t *testing.T) { run(t, open(t, "s3://backups/prod/etcd", s3Options(newS3(t)))) })
}

func store(t *testing.T, f target.Target, name string, data []byte) error {
	t.Helper()
	u, err := f.Create(t.Context(), name)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(data, 100_000) {
		if _, err := u.Write(part); err != nil {
			return errors.Join(err, u.Abort())
		}
	}
	if err := u.Commit(); err != nil {
		return errors.Join(err, u.Abort())
	}
	return u.Abort() // which does nothing now
}

func names(t *testing.T, f target.Target) string {
	t.Helper()
	all, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, fmt.Sprintf("%s:%d", e.Name, e.Size))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTarget_keepsWhatIsCompleteAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, f target.Target) {
		if got := names(t, f); got != "" {
			t.Errorf("at first there is %s", got)
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16) // more than a part of S3
		if err := errors.Join(store(t, f, "a.tar", big), store(t, f, "b.tar", []byte("b")), store(t, f, "b.tar", []byte("new"))); err != nil {
			t.Fatal(err)
		}
		if got := names(t, f); got != fmt.Sprintf("a.tar:%d b.tar:3", len(big)) {
			t.Errorf("it lists %s", got)
		}
		r, err := f.Open(t.Context(), "a.tar")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
		if _, err := f.Open(t.Context(), "c.tar"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what is not there: %v", err)
		}
		u, err := f.Create(t.Context(), "half.tar")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(big[:1<<20]); err != nil {
			t.Fatal(err)
		}
		if got := names(t, f); strings.Contains(got, "half") {
			t.Errorf("what is not complete is listed: %s", got)
		}
		if err := u.Abort(); err != nil {
			t.Error(err)
		}
		for range 2 { // again is no error
			if err := f.Remove(t.Context(), "b.tar"); err != nil {
				t.Error(err)
			}
		}
		if got := names(t, f); got != fmt.Sprintf("a.tar:%d", len(big)) {
			t.Errorf("it lists %s", got)
		}
		for _, bad := range []string{"../x", "", "a/b", ".hidden", ".."} {
			_, err1 := f.Create(t.Context(), bad)
			_, err2 := f.Open(t.Context(), bad)
			if err1 == nil || err2 == nil || f.Remove(t.Context(), bad) == nil {
				t.Errorf("%q is taken", bad)
			}
		}
		if strings.Contains(fmt.Sprintf("%v %+v", f, f.String()), canary) {
			t.Error("it shows its secret")
		}
	})
}

func TestTarget_endsWithItsContext(t *testing.T) {
	each(t, func(t *testing.T, f target.Target) {
		ctx, cancel := context.WithCancel(t.Context())
		u, err := f.Create(ctx, "a.tar")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := u.Abort(); err != nil {
			t.Error(err)
		}
		if got := names(t, f); got != "" {
			t.Errorf("left is %s", got)
		}
	})
}

func TestFolder_aFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink("/dev/full", filepath.Join(dir, ".partial-a.tar")); err != nil {
		t.Fatal(err)
	}
	err := store(t, open(t, dir, target.Options{}), "a.tar", []byte("x"))
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(fault.HintOf(err), "make room") {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
}

// What is under the name of a partial file, put there by another, is not written
// through.
func TestSFTP_followsNoLink(t *testing.T) {
	where, dir, o := sftpTarget(t, true, canary)
	f := open(t, where, o)
	if err := store(t, f, "before.tar", []byte("x")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(other, []byte("theirs"), 0o644), os.Symlink(other, filepath.Join(dir, ".partial-a.tar"))); err != nil {
		t.Fatal(err)
	}
	if err := store(t, f, "a.tar", []byte("ours")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(other)
	if st, err2 := os.Stat(other); err != nil || err2 != nil || string(data) != "theirs" || st.Mode().Perm() != 0o644 {
		t.Errorf("%q, %v, %v", data, err, err2)
	}
}

func TestFolder_clearsWhatWasKilledLongAgo(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, ".partial-old"), filepath.Join(dir, ".partial-young")
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	if err := store(t, open(t, dir, target.Options{}), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	_, err1 := os.Stat(old)
	_, err2 := os.Stat(young)
	if !errors.Is(err1, fs.ErrNotExist) || err2 != nil {
		t.Error(err1, err2)
	}
}

func TestSFTP_checksTheHostKeyAndTheLogin(t *testing.T) {
	where, _, o := sftpTarget(t, false, canary)
	if _, err := target.Open(t.Context(), where, o); !errors.Is(err, sshhost.ErrHostKey) || fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("a key that nobody accepted: %v", err)
	}
	where, _, o = sftpTarget(t, true, "wrong")
	if _, err := target.Open(t.Context(), where, o); fault.CodeOf(err) != fault.Unreachable || strings.Contains(err.Error(), canary) {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestSFTP_filesAreTheOwnersAlone(t *testing.T) {
	where, dir, o := sftpTarget(t, true, canary)
	if err := store(t, open(t, where, o), "a.tar", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "a.tar")); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
}

// A server that went down in an upload keeps its parts: who uploads next takes them back.
func TestS3_takesBackWhatUploadsOfThePastHaveLeft(t *testing.T) {
	s := newS3(t)
	s.left = map[string]string{"1": "x/old.tar.zst", "2": "other/old.tar.zst", "3": "x/deeper/old.tar.zst"}
	if err := store(t, open(t, "s3://backups/x", s3Options(s)), "a", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, gone := s.left["1"]; gone || len(s.left) != 2 {
		t.Errorf("left are the parts of %v", s.left)
	}
}

func TestS3_faultsSayWhatToDo(t *testing.T) {
	big := make([]byte, 40<<20)
	for name, tt := range map[string]struct {
		prepare func(*s3)
		where   string
		hint    string
	}{
		"goes down in mid-upload": {func(s *s3) { s.after = 1 }, "s3://backups/x", "answers, then run the same command again"},
		"is full":                 {func(s *s3) { s.full = true }, "s3://backups/x", "make room"},
		"has no such bucket":      {func(*s3) {}, "s3://other/x", "make the bucket other first"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newS3(t)
			f := open(t, tt.where, s3Options(s))
			good := open(t, "s3://backups/x", s3Options(s))
			if err := store(t, good, "before.tar", []byte("x")); err != nil {
				t.Fatal(err)
			}
			tt.prepare(s)
			err := store(t, f, "a.tar", big)
			if err == nil || !strings.Contains(fault.HintOf(err), tt.hint) || strings.Contains(err.Error(), canary) {
				t.Errorf("%v; %s", err, fault.HintOf(err))
			}
			s.mu.Lock()
			s.down = false
			s.mu.Unlock()
			if got := names(t, good); got != "before.tar:1" {
				t.Errorf("left is %s", got)
			}
		})
	}
	s := newS3(t)
	o := s3Options(s)
	o.S3.CA = nil
	if err := store(t, open(t, "s3://backups/x", o), "a", []byte("x")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of a CA that nobody trusts: %v", err)
	}
	s.CloseClientConnections()
	s.Close()
	if err := store(t, open(t, "s3://backups/x", s3Options(s)), "a", big); err == nil || fault.HintOf(err) == "" {
		t.Errorf("a server that is away: %v", err)
	}
}

func TestOpen_refusesWhatIsNoTarget(t *testing.T) {
	for _, where := range []string{"ftp://a/b", "s3://bucket"} {
		if _, err := target.Open(t.Context(), where, target.Options{}); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", where, err)
		}
	}
}
