package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
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

// CountOrPercent is a number of things, 3, or a part of all of them, "10%". It is
// written as it was: a number, or a string. pkg/config refuses other values.
type CountOrPercent string

// parse returns the number, and whether it is a percentage.
func (c CountOrPercent) parse() (n int, percent bool, err error) {
	digits, percent := strings.CutSuffix(string(c), "%")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, fmt.Errorf("must be a number, or a percentage such as \"10%%\"")
	}
	n, err = strconv.Atoi(digits)
	if err != nil {
		return 0, percent, errors.New("is larger than a number can be")
	}
	return n, percent, nil
}

// Check says why c cannot say how many things there are at most, at least one;
// nil where it can.
func (c CountOrPercent) Check() error {
	n, percent, err := c.parse()
	switch {
	case err != nil:
		return err
	case n == 0:
		return errors.New("must be at least 1: with none, nothing could ever be done")
	case percent && n > 100:
		return errors.New("must not be more than 100%")
	}
	return nil
}

// Of returns how many of total things that is: a percentage is rounded down, and
// it is at least one and never more than there are. What Check refuses is one.
func (c CountOrPercent) Of(total int) int {
	n, percent, err := c.parse()
	if err != nil {
		n = 1
	}
	if percent {
		n = int(int64(min(n, 100)) * int64(total) / 100)
	}
	return min(max(n, 1), max(total, 0))
}

// MarshalJSON writes a number as a number.
func (c CountOrPercent) MarshalJSON() ([]byte, error) {
	if n, percent, err := c.parse(); err == nil && !percent {
		return json.Marshal(n)
	}
	return json.Marshal(string(c))
}

// UnmarshalJSON reads a number or a string.
func (c *CountOrPercent) UnmarshalJSON(data []byte) error {
	var n json.Number
	if len(data) > 0 && data[0] != '"' && json.Unmarshal(data, &n) == nil {
		*c = CountOrPercent(n.String())
		return nil
	}
	var s string
	err := json.Unmarshal(data, &s)
	*c = CountOrPercent(s)
	return err
}

// Duration is a time such as "10m" or "1h30m", in the form of Go's
// time.ParseDuration.
type Duration string

// Value returns the time; zero where it has not that form.
func (d Duration) Value() time.Duration {
	v, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return v
}

// Check says why d is no time to wait; nil where it is one.
func (d Duration) Check() error {
	v, err := time.ParseDuration(string(d))
	switch {
	case err != nil:
		return errors.New(`must be a time with its unit, such as "10m" or "1h30m"`)
	case v <= 0:
		return errors.New("must be longer than nothing")
	}
	return nil
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
