package sshhost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/pkg/sftp"

	"github.com/kocli/kocli/pkg/host"
)

// large is the size from which a file goes through SFTP where that is possible.
const large = 1 << 20

// place reads stdin into a temporary file beside $1, or takes the one named in
// $5, checks its digest and renames it into place. A file that is cut short or
// changed on the way never gets the name; what an upload that was cut has left is
// removed by the next one.
const place = `set -e
p=$1 m=$2 o=$3 s=$4 t=$5
if [ -z "$t" ] && [ -f "$p" ] && [ ! -L "$p" ] && [ "$(stat -c %a:%U:%G -- "$p")" = "${m#0}:$o" ]; then
  x=$(sha256sum <"$p"); if [ "${x%% *}" = "$s" ]; then echo same; exit 0; fi
fi
d=$(dirname -- "$p"); b=$(basename -- "$p"); [ -d "$d" ] || mkdir -p -- "$d"
if [ -z "$t" ]; then t=$(mktemp "$d/.kocli.$b.XXXXXXXX"); trap 'rm -f -- "$t"' EXIT HUP INT TERM; cat >"$t"
else trap 'rm -f -- "$t"' EXIT HUP INT TERM; fi
x=$(sha256sum <"$t"); if [ "${x%% *}" != "$s" ]; then echo "digest mismatch: wanted $s, got ${x%% *}" >&2; exit 97; fi
chown -- "$o" "$t"; chmod -- "$m" "$t"; sync -d -- "$t" 2>/dev/null || :
mv -fT -- "$t" "$p"; trap - EXIT
rm -f -- "$d/.kocli.$b."????????
`

// Put makes the file be as described.
func (h *Host) Put(ctx context.Context, f host.File) (bool, error) {
	temp := ""
	if f.Size >= large { // worth a look before it is sent
		diff, err := host.Differs(ctx, h, f)
		if err != nil || diff == "" {
			return false, err
		}
		if h.target.User == "root" {
			if temp, err = h.upload(ctx, f); err != nil && !errors.Is(err, errNoSFTP) {
				return false, fmt.Errorf("put %s: %w", f.Path, err)
			}
		}
	}
	var src io.Reader
	if temp == "" {
		rc, err := f.Open()
		if err != nil {
			return false, fmt.Errorf("put %s: %w", f.Path, err)
		}
		defer func() { _ = rc.Close() }()
		src = rc
	}
	mode, owner := f.Want()
	c := host.Command("sh", "-c", place, "kocli-put", f.Path, fmt.Sprintf("%04o", mode), owner, f.SHA256, temp)
	c.Stdin = src
	out, err := h.run(ctx, c)
	if err != nil {
		var x *host.ExitError
		if errors.As(err, &x) && x.Code == 97 {
			return false, fmt.Errorf("put %s: %w: %s", f.Path, host.ErrDigest, x.Tail(1)[0])
		}
		return false, fmt.Errorf("put %s: %w", f.Path, err)
	}
	return out.Text() != "same", nil
}

var errNoSFTP = errors.New("no SFTP subsystem")

// tempName is a name beside a file that place clears away.
func tempName(name string) string {
	return path.Join(path.Dir(name), ".kocli."+path.Base(name)+"."+rand.Text()[:8])
}

// upload sends a large file with SFTP, many packets in flight, to a temporary
// file beside its destination, and returns that file's name.
func (h *Host) upload(ctx context.Context, f host.File) (string, error) {
	src, err := f.Open()
	if err != nil {
		return "", err
	}
	defer func() { _ = src.Close() }()
	s, done, err := h.session(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	w, err1 := s.StdinPipe()
	r, err2 := s.StdoutPipe()
	if err := errors.Join(err1, err2, s.RequestSubsystem("sftp")); err != nil {
		return "", errNoSFTP
	}
	c, err := sftp.NewClientPipe(r, w, sftp.UseConcurrentWrites(true), sftp.MaxPacketUnchecked(255<<10))
	if err != nil {
		return "", errNoSFTP
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	temp := tempName(f.Path)
	err = h.send(c, f, src, temp)
	switch {
	case err == nil:
		return temp, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, sftp.ErrSSHFxConnectionLost):
		return "", h.broken("send "+f.Path, err)
	}
	_ = c.Remove(temp) // the error that is returned says more
	return "", err
}

// send writes the content of f to temp.
func (h *Host) send(c *sftp.Client, f host.File, src io.Reader, temp string) error {
	if err := c.MkdirAll(path.Dir(temp)); err != nil {
		return err
	}
	dst, err := c.Create(temp)
	if err != nil {
		return err
	}
	// Only a reader with a size is sent with more than one packet in flight.
	n, err := dst.ReadFrom(io.LimitReader(src, f.Size))
	h.sent.Add(n)
	if err == nil && n != f.Size {
		err = fmt.Errorf("%w: sent %d of %d bytes", io.ErrUnexpectedEOF, n, f.Size)
	}
	return errors.Join(err, dst.Close())
}
