package sink_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/sink"
)

// store puts a blob into the content store below root, and returns its file.
func store(t *testing.T, root string, data []byte) string {
	t.Helper()
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	file := filepath.Join(root, fanout.Path(fanout.Root(), digest))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReceive_takesWhatIsStored(t *testing.T) {
	root := t.TempDir()
	data := bytes.Repeat([]byte("kubelet"), 1000)
	file := store(t, root, data)
	f := host.Bytes("/usr/bin/kubelet", 0o755, data)
	f.Open = nil // nobody may read it here
	send := func() []byte {
		var b bytes.Buffer
		if err := sink.Write(&b, []host.File{f}, func(host.File) bool { return true }, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if err := sink.Receive(t.Context(), bytes.NewReader(send()), root); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, f.Path))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%v, %d bytes", err, len(got))
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is in the store as well")
	}
	// A store that lies is not believed, and does not lie twice.
	store(t, root, data)
	if err := os.WriteFile(file, bytes.Repeat([]byte("KUBELET"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sink.Receive(context.WithoutCancel(t.Context()), bytes.NewReader(send()), root); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the store keeps what is wrong")
	}
	if got, err := os.ReadFile(filepath.Join(root, f.Path)); err != nil || !bytes.Equal(got, data) {
		t.Error("the file was replaced by what is wrong")
	}
}
