package hosttest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/host"
)

// StoreDir is where a machine in memory shows kocli's own content store.
const StoreDir = "/var/lib/kocli/content/sha256"

// NodeImages is `kocli node images` on a machine whose containerd is that of
// Ctr. It speaks what pkg/host/containerd speaks, and knows it independently.
func NodeImages() Stream {
	return func(ctx context.Context, m *Machine, c host.Cmd) (Reply, bool) {
		if len(c.Argv) < 3 || !slices.Equal(c.Argv[1:3], []string{"node", "images"}) {
			return Reply{}, false
		}
		if r, ok := m.program(ctx, []string{"systemctl", "is-active", "containerd.service"}, nil); !ok || r.Code != 0 {
			return Reply{Stderr: "containerd does not answer\n", Code: 1}, true
		}
		if err := nodeImages(m, bufio.NewReader(c.Stdin), c.Stdout); err != nil {
			return Reply{Stderr: "kocli: " + err.Error() + "\n", Code: 1}, true
		}
		return Reply{}, true
	}
}

func nodeImages(m *Machine, in *bufio.Reader, out io.Writer) error {
	var order struct {
		Images []struct {
			Ref   string
			Blobs []struct {
				Digest string
				Size   int64
			}
		}
		Labels map[string]string
	}
	if err := line(in, &order); err != nil {
		return err
	}
	lacks := []string{}
	for _, im := range order.Images {
		for _, b := range im.Blobs {
			name := strings.TrimPrefix(b.Digest, "sha256:")
			if data, ok := m.Read(path.Join(StoreDir, name)); ok {
				m.Write(path.Join(ContentDir, name), 0o600, data)
			}
			if _, ok := m.Read(path.Join(ContentDir, name)); !ok && !slices.Contains(lacks, b.Digest) {
				lacks = append(lacks, b.Digest)
			}
		}
	}
	answer, err := json.Marshal(map[string]any{"lacks": lacks})
	if err != nil {
		return err
	}
	if _, err := out.Write(append(answer, '\n')); err != nil {
		return err
	}
	for {
		var p struct {
			Digest string
			Size   int64
			End    bool
		}
		if err := line(in, &p); err != nil {
			return err
		}
		if p.End {
			break
		}
		data := make([]byte, p.Size)
		if _, err := io.ReadFull(in, data); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		if "sha256:"+hex.EncodeToString(sum[:]) != p.Digest {
			return fmt.Errorf("%s is not what its digest says", p.Digest)
		}
		m.Write(path.Join(ContentDir, hex.EncodeToString(sum[:])), 0o600, string(data))
	}
	var labels []string
	for k, v := range order.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	for _, im := range order.Images {
		for _, b := range im.Blobs {
			name := strings.TrimPrefix(b.Digest, "sha256:")
			if _, ok := m.Read(path.Join(ContentDir, name)); !ok {
				return fmt.Errorf("content digest %s: not found", b.Digest)
			}
			m.Delete(path.Join(StoreDir, name))
		}
		if len(im.Blobs) < 2 {
			return errors.New("image without a configuration")
		}
		m.Write(imageFile(im.Ref), 0o600, im.Blobs[0].Digest+" "+strings.Join(labels, ","))
	}
	return nil
}

func line(in *bufio.Reader, v any) error {
	data, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	return json.Unmarshal(data, v)
}
