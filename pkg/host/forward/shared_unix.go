//go:build unix

package forward

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// shared lets others of the same user listen on the port as well.
func shared(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}), err)
}
