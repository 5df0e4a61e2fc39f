package archive

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/kocli/kocli/pkg/fault"
)

// memFile is a file in memory that stops working after a number of written
// bytes, in the middle of a write, as a machine that loses its power.
type memFile struct {
	data []byte
	left int
}

var errPower = errors.New("power is gone")

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.data).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n := min(len(p), f.left)
	f.left -= n
	if grow := int(off) + n - len(f.data); grow > 0 {
		f.data = append(f.data, make([]byte, grow)...)
	}
	copy(f.data[off:], p[:n])
	if n < len(p) {
		return n, errPower
	}
	return n, nil
}

func (f *memFile) Truncate(size int64) error {
	if f.left == 0 {
		return errPower
	}
	f.left--
	if grow := int(size) - len(f.data); grow > 0 {
		f.data = append(f.data, make([]byte, grow)...)
	}
	f.data = f.data[:size]
	return nil
}

func (f *memFile) Sync() error {
	if f.left == 0 {
		return errPower
	}
	f.left--
	return nil
}

func testKey(t testing.TB, seed byte) PrivateKey {
	t.Helper()
	priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	pub, err := newPublicKey(priv.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return PrivateKey{public: pub, key: priv}
}

func emptyBundle(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, _, err := Write(&b, &Manifest{Name: "x", Architectures: []string{"amd64"}}, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(data []byte) (*Bundle, error) { return NewReader(bytes.NewReader(data), int64(len(data))) }

func signed(t testing.TB, data []byte, keys ...PrivateKey) []byte {
	t.Helper()
	f := &memFile{data: slices.Clone(data), left: 1 << 30}
	for _, k := range keys {
		if _, _, err := sign(f, int64(len(f.data)), k); err != nil {
			t.Fatal(err)
		}
	}
	return f.data
}

// Numbers of bytes and operations after which a machine can stop: some in the
// content, every one around the operations that follow it and the header's name.
func TestSign_cutAnywhereIsRefusedOrUnchangedAndRepaired(t *testing.T) {
	alice, bob := testKey(t, 1), testKey(t, 2)
	plain := emptyBundle(t)
	for name, before := range map[string][]byte{"unsigned": plain, "signed by another": signed(t, plain, bob)} {
		t.Run(name, func(t *testing.T) {
			was, err := open(before)
			if err != nil {
				t.Fatal(err)
			}
			want := signed(t, before, alice)
			refused, kept := 0, 0
			content := len(want) - int(was.end) - blockSize
			for n := 0; ; n++ {
				if n < content-20 || n > content+100 && n < content+480 {
					n += 16
				}
				f := &memFile{data: slices.Clone(before), left: n}
				_, _, err := sign(f, int64(len(f.data)), alice)
				if err == nil {
					break
				}
				if !errors.Is(err, errPower) {
					t.Fatalf("cut after %d: %v", n, err)
				}
				if b, err := open(f.data); err == nil {
					kept++
					// The last header byte may be there before the last Sync says so.
					if len(b.Signatures()) != len(was.Signatures()) && !bytes.Equal(f.data, want) {
						t.Fatalf("cut after %d: opens with %d signatures", n, len(b.Signatures()))
					}
				} else if refused++; !errors.Is(err, ErrDamaged) {
					t.Fatalf("cut after %d: %v", n, err)
				}
				again := signed(t, f.data, alice)
				b, err := open(again)
				if err != nil || b.VerifySignature(alice.Public()) != nil {
					t.Fatalf("cut after %d: signing again: %v", n, err)
				}
				if name == "unsigned" && !bytes.Equal(again, want) {
					t.Fatalf("cut after %d: signing again gives another file", n)
				}
			}
			if refused == 0 || kept == 0 {
				t.Fatalf("%d refused, %d unchanged: the cuts did not hit", refused, kept)
			}
			if body := before[:was.end]; !bytes.Equal(want[:was.end], body) {
				t.Fatal("signing changed what the digest covers")
			}
		})
	}
}

// When only the header is missing, the signatures of others are still there.
func TestSign_repairKeepsTheSignaturesOfOthers(t *testing.T) {
	alice, bob := testKey(t, 1), testKey(t, 2)
	data := signed(t, emptyBundle(t), bob, alice)
	b, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[b.end : b.end+100])
	b, err = open(signed(t, data, alice))
	if err != nil || b.VerifySignature(bob.Public()) != nil || len(b.Signatures()) != 2 {
		t.Fatalf("%v, %d signatures", err, len(b.Signatures()))
	}
}

// Whatever byte changes, the bundle does not open, or is not signed by the key.
func TestVerifySignature_everyByteOfTheEntryCounts(t *testing.T) {
	alice := testKey(t, 1)
	data := signed(t, emptyBundle(t), alice)
	for p := len(emptyBundle(t)) - 1024; p < len(data); p++ {
		bad := slices.Clone(data)
		bad[p] ^= []byte{0x01, 0x20, 0x80}[p%3]
		b, err := open(bad)
		if err == nil {
			err = b.VerifySignature(alice.Public())
		}
		if fault.CodeOf(err) != fault.Bundle {
			t.Fatalf("byte %d: %v", p, err)
		}
	}
}

func TestSign_doesNotBlessForeignData(t *testing.T) {
	for name, data := range map[string][]byte{
		"a blob changed its name": func() []byte { d := emptyBundle(t); d[600] ^= 1; return d }(),
		"much data after the end": append(emptyBundle(t), make([]byte, maxTail)...),
		"cut in the blobs":        emptyBundle(t)[:1500],
	} {
		f := &memFile{data: data, left: 1 << 30}
		if _, _, err := sign(f, int64(len(data)), testKey(t, 1)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeSignatures_refusesAllButOneWayToWrite(t *testing.T) {
	sig := func(seed byte) Signature {
		return Signature{KeyID: testKey(t, seed).public.id, Value: bytes.Repeat([]byte{seed}, 64)}
	}
	a, b := sig(1), sig(2)
	if a.KeyID > b.KeyID {
		a, b = b, a
	}
	write := func(list ...Signature) string {
		raw, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	good := write(a, b)
	if _, err := decodeSignatures([]byte(good)); err != nil {
		t.Fatal(err)
	}
	var many []Signature
	for i := range maxSignatures + 1 {
		s := sig(byte(i))
		many = addSignature(many, s)
	}
	if _, err := decodeSignatures([]byte(write(many[:maxSignatures]...))); err != nil {
		t.Fatalf("as many as allowed: %v", err)
	}
	short := a
	short.Value = a.Value[:63]
	for name, raw := range map[string]string{
		"empty":            "",
		"null":             "null",
		"no signature":     "[]",
		"too many":         write(many...),
		"too large":        good + string(bytes.Repeat([]byte(" "), maxSignaturesSize)),
		"out of order":     write(b, a),
		"twice":            write(a, a),
		"short signature":  write(short),
		"no digest":        write(Signature{KeyID: "x", Value: a.Value}),
		"white space":      "[ " + good[1:],
		"line feed":        good + "\n",
		"second document":  good + good,
		"unknown field":    good[:len(good)-2] + `,"x":1}]`,
		"field twice":      good[:len(good)-2] + `,"keyID":"` + b.KeyID + `"}]`,
		"other case":       string(bytes.Replace([]byte(good), []byte("keyID"), []byte("keyid"), 1)),
		"escaped letter":   string(bytes.Replace([]byte(good), []byte("keyID"), []byte(`key\u0049D`), 1)),
		"no base64":        string(bytes.Replace([]byte(good), []byte("=="), []byte("!!"), 1)),
		"not a list":       good[1 : len(good)-1],
		"not of signature": `[1]`,
	} {
		if _, err := decodeSignatures([]byte(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecodeSignatures(f *testing.F) {
	a := Signature{KeyID: testKey(f, 1).public.id, Value: make([]byte, 64)}
	raw, err := json.Marshal([]Signature{a})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("[]"))
	f.Add(append(raw, ' '))
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := decodeSignatures(in)
		if err != nil {
			return
		}
		tail, err := encodeSignatures(list)
		if err != nil || !bytes.Equal(tail[blockSize:blockSize+len(in)], in) {
			t.Fatalf("accepted what is not canonical: %v", err)
		}
	})
}
