package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/pkg/sftp"
)

// Files are those of a server that is reached with SFTP and needs no shell: one
// connection, with the host key checked as for any other.
type Files struct {
	*sftp.Client
	once  sync.Once
	close func() error
}

// DialFiles connects, checks the host key, logs in and starts SFTP.
func DialFiles(ctx context.Context, t Target, o Options) (*Files, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	client, closers, err := connect(ctx, t, o)
	if err != nil {
		return nil, unreachable(t, err)
	}
	h := newHost(t, o, client, closers)
	go h.keepAlive(o.KeepAlive)
	c, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err != nil {
		_ = h.Close()
		return nil, unreachable(t, fmt.Errorf("start SFTP: %w", err))
	}
	return &Files{Client: c, close: h.Close}, nil
}

// Close ends the connection.
func (f *Files) Close() error {
	var err error
	f.once.Do(func() { err = errors.Join(f.Client.Close(), f.close()) })
	return err
}

// NoSpace reports whether an error says that a server has no room left.
func NoSpace(err error) bool {
	var s *sftp.StatusError
	return errors.As(err, &s) && (s.Code == sshFxNoSpace || s.Code == sshFxQuota || strings.Contains(s.Error(), "no space left"))
}

// Codes of later drafts of SFTP that servers use all the same.
const (
	sshFxNoSpace = 14
	sshFxQuota   = 15
)

// Missing reports whether an error says that a file is not there.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Unsupported reports whether an error says that a server knows no such request.
func Unsupported(err error) bool {
	var s *sftp.StatusError
	return errors.As(err, &s) && s.FxCode() == sftp.ErrSSHFxOpUnsupported
}
