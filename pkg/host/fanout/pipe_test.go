package fanout

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWidePipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	if !widePipe(r) {
		t.Error("a pipe is not made wide")
	}
	if n, err := unix.FcntlInt(r.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || n != pipeSize {
		t.Errorf("%d bytes, %v", n, err)
	}
	if widePipe(strings.NewReader("")) {
		t.Error("what is no pipe")
	}
}
