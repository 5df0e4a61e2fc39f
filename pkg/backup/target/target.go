// Package target is where backups are kept: a folder, a server with SFTP, or a
// bucket that speaks S3. A file appears under its name only when all of it is
// there. It knows nothing of what is in the files.
package target

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// Target keeps files. All methods are safe for concurrent use. Nothing is retried
// beyond what the library below does: the caller says that the same command goes
// on.
type Target interface {
	// String is the target as the user wrote it.
	String() string
	// Create begins a file. It is there, with mode 0600, once Commit returns nil, and
	// replaces one of the same name; before that, nobody sees it.
	Create(ctx context.Context, name string) (Upload, error)
	// Open reads a file. fs.ErrNotExist where there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List lists the files that are complete, in no order.
	List(ctx context.Context) ([]Entry, error)
	// Remove removes a file. One that is not there is no error.
	Remove(ctx context.Context, name string) error
	// Close ends connections.
	Close() error
}

// Upload is a file that is being written.
type Upload interface {
	io.Writer
	// Commit gives the file its name once all of it is stored for good.
	Commit() error
	// Abort leaves nothing behind. After Commit it does nothing.
	Abort() error
}

// Entry is one file.
type Entry struct {
	Name     string
	Size     int64 // bytes
	Modified time.Time
}

// Options say how a target is reached.
type Options struct {
	// SSH and Login are for SFTP.
	SSH   sshhost.Options
	Login sshhost.Login
	// S3 is for buckets.
	S3 S3Options
}

// Open returns the target of a path, or of a URL: sftp://USER@HOST[:PORT]/PATH or
// s3://BUCKET[/PREFIX]. SFTP connects at once.
func Open(ctx context.Context, where string, o Options) (Target, error) {
	scheme, _, isURL := strings.Cut(where, "://")
	if !isURL {
		return Folder(where)
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, fault.New(fault.Usage, hint, fmt.Errorf("target %s: %w", where, err))
	}
	switch scheme {
	case "sftp":
		return openSFTP(ctx, u, o)
	case "s3":
		return openS3(u, o.S3)
	}
	return nil, fault.New(fault.Usage, hint, fmt.Errorf("target %s: %s is not supported", where, scheme))
}

const hint = "give a folder, sftp://USER@HOST/PATH or s3://BUCKET/PREFIX"

// partialPrefix begins the name of a file that is not complete.
const partialPrefix = ".partial-"

// partial is a name that List passes over.
func partial(name string) bool { return strings.HasPrefix(path.Base(name), partialPrefix) }

// plain refuses names that lead elsewhere.
func plain(name string) error {
	if name == "" || path.Base(name) != name || strings.HasPrefix(name, ".") {
		return fmt.Errorf("%q is no name of a backup", name)
	}
	return nil
}

// failed is an error of a target, with what can be done.
func failed(op string, t fmt.Stringer, hint string, err error) error {
	return &fault.Error{Op: fmt.Sprintf("%s %s", op, t), Hint: hint, Err: err}
}
