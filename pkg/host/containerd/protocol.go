package containerd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/kocli/kocli/pkg/host/fanout"
)

// Protocol is the version of what Send and Import say to each other. It grows
// with every change that an older kocli would not understand.
const Protocol = "1"

// Image is an image that a host should have.
type Image struct {
	Ref   string `json:"ref"`   // its name in containerd
	Blobs []Blob `json:"blobs"` // manifest, configuration and layers
}

// Blob is one blob of an image.
type Blob struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"` // "sha256:..."
	Size      int64  `json:"size"`   // bytes
}

// order is the first line on Import's stdin.
type order struct {
	Images []Image           `json:"images"`
	Labels map[string]string `json:"labels,omitempty"` // of the images
}

// answer is the one line on its stdout.
type answer struct {
	Lacks []string `json:"lacks"` // digests, in the order in which they are wanted
}

// piece heads the bytes of a blob that follow it.
type piece struct {
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	End    bool   `json:"end,omitempty"` // of the stream: one without was cut off
}

// maxLine bounds one line, in bytes: an order of tens of thousands of blobs.
const maxLine = 16 << 20

func writeLine(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(data, '\n'))
	}
	return err
}

func readLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			if err := json.Unmarshal(line, v); err != nil {
				return fmt.Errorf("%.80q: %w", line, err)
			}
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		case len(line) > maxLine:
			return fmt.Errorf("a line of more than %d bytes", maxLine)
		}
	}
}

// check refuses an order that cannot be meant.
func (o order) check() error {
	sizes := map[string]int64{}
	for _, im := range o.Images {
		if im.Ref == "" || len(im.Blobs) < 2 {
			return fmt.Errorf("image %q has %d blobs", im.Ref, len(im.Blobs))
		}
		for _, b := range im.Blobs {
			if n, ok := sizes[b.Digest]; !fanout.ValidDigest(b.Digest) || b.Size < 0 || ok && n != b.Size {
				return fmt.Errorf("image %s: digest %q or size %d is not valid", im.Ref, b.Digest, b.Size)
			}
			sizes[b.Digest] = b.Size
		}
	}
	return nil
}
