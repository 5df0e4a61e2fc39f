package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
)

// Secret is a resolved secret. It shows itself to nobody but Reveal's caller.
type Secret struct{ value string }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// String hides the secret.
func (s Secret) String() string { return "***" }

// GoString hides the secret.
func (s Secret) GoString() string { return "***" }

// MarshalJSON hides the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }

// Secrets resolves references. Each reference is resolved once; hosts that are
// dialled at the same time share one question to the operator.
type Secrets struct {
	// Prompt asks the operator, without echo. what is what the secret is for,
	// "password for root". Nil means that nobody can be asked.
	Prompt func(ctx context.Context, what string) (string, error)

	mu    sync.Mutex
	known map[string]Secret
}

// Resolve returns the secret that ref stands for; an empty ref gives an empty
// secret. what says what it is for, as in "sudo password for ops".
func (s *Secrets) Resolve(ctx context.Context, ref v1alpha1.SecretRef, what string) (Secret, error) {
	if ref == "" {
		return Secret{}, nil
	}
	key := string(ref)
	if ref.Prompt() {
		key += " " + what
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.known[key]; ok {
		return v, nil
	}
	v, err := s.resolve(ctx, ref, what)
	if err != nil {
		return Secret{}, &fault.Error{Op: what, Code: fault.Usage, Err: err, Hint: secretHint(ref)}
	}
	if v == "" {
		return Secret{}, &fault.Error{Op: what, Code: fault.Usage, Hint: secretHint(ref),
			Err: fmt.Errorf("%s is empty", ref)}
	}
	if s.known == nil {
		s.known = map[string]Secret{}
	}
	s.known[key] = Secret{v}
	return Secret{v}, nil
}

func (s *Secrets) resolve(ctx context.Context, ref v1alpha1.SecretRef, what string) (string, error) {
	if name, ok := ref.Env(); ok {
		v, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("the variable %s is not set", name)
		}
		return v, nil
	}
	if path, ok := ref.File(); ok {
		return readSecret(path)
	}
	if !ref.Prompt() {
		return "", errors.New("must be env:NAME, file:PATH or prompt")
	}
	if s.Prompt == nil {
		return "", errors.New("nobody can be asked here")
	}
	return s.Prompt(ctx, what)
}

// readSecret reads the first line's worth of a small file: what editors add at
// the end is not part of a password.
func readSecret(path string) (string, error) {
	path, err := ExpandPath(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	const limit = 64 << 10
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	if len(data) > limit {
		return "", fmt.Errorf("%s is too large for a secret", path)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

func secretHint(ref v1alpha1.SecretRef) string {
	if name, ok := ref.Env(); ok {
		return "set it first: read -rs " + name + "; export " + name
	}
	if path, ok := ref.File(); ok {
		return "put it into " + path + " (mode 0600)"
	}
	return "run kocli in a terminal, or refer to the secret with env:NAME or file:PATH"
}

// ExpandPath replaces a leading "~/" by the operator's home directory.
func ExpandPath(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory for %s: %w", path, err)
	}
	return filepath.Join(home, rest), nil
}
