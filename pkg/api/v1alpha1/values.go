package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// SecretRef says where a secret is found: env:NAME, file:PATH or prompt. The
// secret itself is never written in cluster.yaml. pkg/config resolves it.
type SecretRef string

// The forms of a SecretRef.
const (
	secretEnv     = "env:"
	secretFile    = "file:"
	secretPrompt  = "prompt"
	notAReference = "(not a reference)"
)

// Env returns NAME of env:NAME.
func (s SecretRef) Env() (name string, ok bool) { return cut(s, secretEnv) }

// File returns PATH of file:PATH.
func (s SecretRef) File() (path string, ok bool) { return cut(s, secretFile) }

// Prompt reports whether the operator is asked.
func (s SecretRef) Prompt() bool { return s == secretPrompt }

// Valid reports whether s has one of the three forms, or is empty.
func (s SecretRef) Valid() bool {
	_, env := s.Env()
	_, file := s.File()
	return s == "" || env || file || s.Prompt()
}

// String returns the reference. What has none of the three forms may be a
// secret that somebody wrote down, and is not shown.
func (s SecretRef) String() string {
	if !s.Valid() {
		return notAReference
	}
	return string(s)
}

// GoString is String, for %#v.
func (s SecretRef) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalJSON gives the reference, with the same care as String.
func (s SecretRef) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

func cut(s SecretRef, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(string(s), prefix)
	return rest, ok && rest != ""
}

// Object is a free-form object whose fields belong to another project's type.
// Whole numbers are int64, other numbers float64.
type Object map[string]any

// UnmarshalJSON keeps whole numbers whole.
func (o *Object) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	for k, v := range m {
		n, err := numbers(v)
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		m[k] = n
	}
	*o = m
	return nil
}

// DeepCopy returns a copy that shares nothing with o.
func (o Object) DeepCopy() Object {
	if o == nil {
		return nil
	}
	return copyValue(map[string]any(o)).(map[string]any) //nolint:errcheck // a copy has the type of its original
}

func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = copyValue(e)
		}
		return m
	case Object:
		return copyValue(map[string]any(v))
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = copyValue(e)
		}
		return l
	}
	return v
}

// numbers replaces json.Number by int64 where it is whole, else by float64.
func numbers(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%q is not a number that can be kept", v.String())
		}
		return f, nil
	case map[string]any:
		for k, e := range v {
			n, err := numbers(e)
			if err != nil {
				return nil, err
			}
			v[k] = n
		}
	case []any:
		for i, e := range v {
			n, err := numbers(e)
			if err != nil {
				return nil, err
			}
			v[i] = n
		}
	}
	return v, nil
}
