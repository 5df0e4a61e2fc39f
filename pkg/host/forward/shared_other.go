//go:build !unix

package forward

import (
	"errors"
	"syscall"
)

// shared is for hosts, which run Linux.
func shared(_, _ string, _ syscall.RawConn) error {
	return errors.New("a port can be shared on hosts with Linux alone")
}
