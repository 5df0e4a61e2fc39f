package fanout

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is how much may wait between sshd and a relay, in bytes. With the 64 KiB
// that a pipe has by itself, the two take turns after every two packets.
const pipeSize = 1 << 20

// widePipe makes room in the pipe that in is, if it is one. One that the kernel does
// not grant more stays as it is.
func widePipe(in io.Reader) {
	f, ok := in.(*os.File)
	if !ok {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { //nolint:errcheck // it is wider, or it is not
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize)
	})
}
