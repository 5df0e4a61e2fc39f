package build_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain lets this program be a build that can be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KOCLI_TEST_BUILD"); dir != "" {
		u := &upstream{t: &testing.T{}, dir: dir, url: os.Getenv("KOCLI_TEST_URL")}
		if _, err := buildOnly(u); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestBuild_killedIsContinuedByTheNext(t *testing.T) {
	u := newUpstream(t)
	full := u.files[runcPath]
	stuck := make(chan struct{})
	var asked atomic.Int64
	var from string
	u.interceptRunc(func(w http.ResponseWriter, r *http.Request) bool {
		if asked.Add(1) > 1 {
			from = r.Header.Get("Range")
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(full)))
		_, _ = w.Write(full[:len(full)/2])
		w.(http.Flusher).Flush()
		close(stuck)
		<-r.Context().Done()
		return true
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KOCLI_TEST_BUILD="+u.dir, "KOCLI_TEST_URL="+u.url)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-stuck
	part := filepath.Join(u.dir, "cache", "partial", hexSum(full))
	for { // what the server sent arrives
		if st, err := os.Stat(part); err == nil && st.Size() == int64(len(full)/2) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
	whole := u.count("/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet")
	if _, err := os.Stat(filepath.Join(u.dir, "out.tar")); err == nil {
		t.Fatal("there is a bundle already")
	}
	_, b, err := u.build(u.options())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("bytes=%d-", len(full)/2); from != want {
		t.Errorf("asked for %q, want %q", from, want)
	}
	if n := u.count("/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet"); n > whole+2 { // at most the file and its checksum
		t.Errorf("kubelet was asked for %d times more", n-whole)
	}
	r, err := b.OpenBlob("sha256:" + hexSum(full))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), full) {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
}
