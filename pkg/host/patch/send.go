package patch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// Protocol is the version of what Send and Apply say to each other. It grows
// with every change that an older kocli would not understand.
const Protocol = "1"

// Order says what a host is to make.
type Order struct {
	Blobs []archive.DeltaBlob `json:"blobs"`
	// Files are where base files are installed, by the digests of their content.
	Files map[string]string `json:"files,omitempty"`
	// Drop are digests of what the delta stores: they leave the content store once
	// all blobs are there.
	Drop    []string `json:"drop,omitempty"`
	BuiltBy string   `json:"builtBy,omitempty"` // version of the kocli that made the delta
}

// made is a line of Apply's answer.
type made struct {
	Bytes int64 `json:"bytes"` // of one blob that is there; zero: it still works
}

// Runner is what Send needs of a host.
type Runner interface {
	Run(ctx context.Context, c host.Cmd) (host.Output, error)
}

// Send has a host make blobs. argv runs Apply there. each is told the bytes made
// of the total, never concurrently; it may be nil. It may be repeated: what was
// made is not made again. A delta or a base that is wrong carries fault.Bundle.
func Send(ctx context.Context, h Runner, argv []string, o Order, each func(done, total int64)) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var done, total int64
	for _, b := range o.Blobs {
		total += b.Size
	}
	stdout, out := io.Pipe()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		s := bufio.NewScanner(stdout)
		for s.Scan() {
			var m made
			if json.Unmarshal(s.Bytes(), &m) == nil && each != nil && m.Bytes > 0 {
				done += m.Bytes
				each(done, total)
			}
		}
		_ = stdout.CloseWithError(s.Err()) // nil lets what else is written fail
	}()
	c := host.Command(append(argv, "--protocol", Protocol)...)
	c.Stdin, c.Stdout = bytes.NewReader(raw), out
	_, err = h.Run(ctx, c)
	_ = out.Close()
	<-heard
	var x *host.ExitError
	switch {
	case errors.As(err, &x) && x.Code == int(fault.Bundle):
		return fault.New(fault.Bundle, "", err)
	case errors.As(err, &x) && x.Code == int(fault.Locked):
		return fault.New(fault.Locked, "wait until the other kocli has ended, then run the same command again", err)
	}
	return err
}
