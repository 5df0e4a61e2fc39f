package sink_test

import (
	"bytes"
	"context"
	"crypto/rand"
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

// store puts a blob into the content store below root.
func store(t *testing.T, root string, data []byte) (digest, file string) {
	t.Helper()
	sum := sha256.Sum256(data)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	file = filepath.Join(root, fanout.Path(fanout.Root(), digest))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return digest, file
}

func TestSplice_fillsInWhatTheHostHas(t *testing.T) {
	root := t.TempDir()
	blob := make([]byte, 300<<10)
	if _, err := rand.Read(blob); err != nil {
		t.Fatal(err)
	}
	digest, file := store(t, root, blob)
	var b bytes.Buffer
	s := sink.NewSplicer(&b, map[string]int64{digest: int64(len(blob))})
	before, after := bytes.Repeat([]byte("before"), 100_000), []byte("after")
	if _, err := s.Write(before); err != nil {
		t.Fatal(err)
	}
	if !s.Refer(digest, int64(len(blob))) || s.Refer(digest, 1) || s.Refer("sha256:00", 1) {
		t.Fatal("refers to what is not there, or not to what is")
	}
	if _, err := s.Write(after); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stream := b.Bytes()
	if len(stream) > len(before)+len(after)+4096 {
		t.Errorf("%d bytes for %d that the host lacks", len(stream), len(before)+len(after))
	}
	var out, errs bytes.Buffer
	if err := sink.Splice(t.Context(), bytes.NewReader(stream), root, &out, &errs, "cat"); err != nil {
		t.Fatal(err, errs.String())
	}
	if !bytes.Equal(out.Bytes(), bytes.Join([][]byte{before, blob, after}, nil)) {
		t.Errorf("%d bytes came out", out.Len())
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what was used is still in the store")
	}
}

func TestSplice_whatFailsLeavesTheStoreAlone(t *testing.T) {
	blob := []byte("blob")
	sum := sha256.Sum256(blob)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	var b bytes.Buffer
	s := sink.NewSplicer(&b, map[string]int64{digest: 4})
	s.Refer(digest, 4)
	if _, err := s.Write([]byte("rest")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	for name, c := range map[string]struct {
		stream []byte
		argv   []string
		want   string
	}{
		"the program fails":       {whole, []string{"sh", "-c", "cat >/dev/null; exit 3"}, "exit status 3"},
		"the program ends early":  {whole, []string{"false"}, "exit status 1"},
		"no such program":         {whole, []string{"/absent"}, "/absent"},
		"the stream is cut":       {whole[:len(whole)-8], []string{"cat"}, "unexpected EOF"},
		"cut between segments":    {whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1], []string{"cat"}, "unexpected EOF"},
		"a blob that is not here": {bytes.Replace(whole, []byte(digest[7:12]), []byte("00000"), 1), []string{"cat"}, "no such file"},
		"a path for a digest":     {[]byte(`{"n":1,"blob":"sha256:../../etc/passwd"}` + "\n"), []string{"cat"}, "is no digest"},
		"another size":            {bytes.Replace(whole, []byte(`"n":4,"blob"`), []byte(`"n":3,"blob"`), 1), []string{"cat"}, "bytes, not 3"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			_, file := store(t, root, blob)
			var out, errs bytes.Buffer
			err := sink.Splice(t.Context(), bytes.NewReader(c.stream), root, &out, &errs, c.argv...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(file); err != nil {
				t.Error("the store lost its blob")
			}
		})
	}
}

func TestReceive_takesWhatIsStored(t *testing.T) {
	root := t.TempDir()
	data := bytes.Repeat([]byte("kubelet"), 1000)
	_, file := store(t, root, data)
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
