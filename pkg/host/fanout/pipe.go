package fanout

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is how much may wait between sshd and a relay, in bytes. With the 64 KiB
// that a pipe has by itself, the two take turns after every two packets.
const pipeSize = 1 << 20

// widePipe makes room in the pipe that in is, and reports whether there is. What is no
// pipe, or what the kernel grants no more, stays as it is.
func widePipe(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var refused error
	err = raw.Control(func(fd uintptr) { _, refused = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	return errors.Join(err, refused) == nil
}
