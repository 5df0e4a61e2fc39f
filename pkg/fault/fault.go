// Package fault gives errors what an operator needs: the operation and node
// that failed, the next command to type, and the exit code of the process.
// It stands at the bottom of the house and imports nothing of kocli.
package fault

import (
	"context"
	"errors"
	"strings"
)

// Code is a process exit code. The table is shown by `kocli help exit-codes`.
type Code int

// The exit codes of kocli. Scripts rely on them: never renumber.
const (
	OK          Code = 0   // done, or nothing to do
	Failure     Code = 1   // a step failed; typing the command again goes on
	Usage       Code = 2   // wrong flags, or invalid input in a YAML
	Preflight   Code = 3   // a preflight check refused; nothing was changed
	Unreachable Code = 4   // a host did not answer, or refused the login
	Locked      Code = 5   // another kocli works on this cluster
	Bundle      Code = 6   // the bundle is damaged, incomplete or does not fit
	Unhealthy   Code = 7   // the cluster answers, but is not healthy (status)
	Backup      Code = 8   // a backup is damaged, incomplete, too old or of another cluster
	BackupKey   Code = 9   // a backup cannot be decrypted, or its signer is not known
	Interrupted Code = 130 // Ctrl-C or SIGTERM
)

// Codes lists every exit code with its meaning, in ascending order.
func Codes() []struct {
	Code    Code
	Meaning string
} {
	return []struct {
		Code    Code
		Meaning string
	}{
		{OK, "done, or nothing to do"},
		{Failure, "a step failed; the same command typed again goes on from there"},
		{Usage, "wrong flags or arguments, or a YAML file that is not valid"},
		{Preflight, "a preflight check refused; nothing was changed"},
		{Unreachable, "a host could not be reached, or refused the login or sudo"},
		{Locked, "another kocli works on this cluster"},
		{Bundle, "the bundle is damaged, incomplete, or does not fit the cluster"},
		{Unhealthy, "the cluster answers but is not healthy"},
		{Backup, "a backup is damaged, incomplete, too old, or of another cluster"},
		{BackupKey, "a backup cannot be decrypted with the key, or its signer is not known"},
		{Interrupted, "interrupted by Ctrl-C or SIGTERM"},
	}
}

// Error is an error with the context that an operator needs. Every field but
// Err is optional; the fields nearest to the surface win.
type Error struct {
	Op   string // what was being done: "runtime/config", "open bundle"
	Node string // the host concerned
	Code Code   // zero means: ask the wrapped error
	Hint string // the next command to type, or what to change
	Err  error  // the cause
}

// Error prints "op on node: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Node != "" {
		if b.Len() > 0 {
			b.WriteString(" on ")
		}
		b.WriteString(e.Node)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error with an exit code and a hint.
func New(code Code, hint string, err error) error {
	return &Error{Code: code, Hint: hint, Err: err}
}

// CodeOf returns the exit code of err: the outermost code that is set, 130 for
// a cancelled context, and Failure when nobody said.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if c := codeOf(err); c != OK {
		return c
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	return Failure
}

// codeOf walks the tree depth first, so that of joined errors the first one
// with a code decides.
func codeOf(err error) Code {
	if e, ok := err.(*Error); ok && e.Code != OK { //nolint:errorlint // walks the tree itself
		return e.Code
	}
	switch u := err.(type) { //nolint:errorlint // walks the tree itself
	case interface{ Unwrap() error }:
		if w := u.Unwrap(); w != nil {
			return codeOf(w)
		}
	case interface{ Unwrap() []error }:
		for _, w := range u.Unwrap() {
			if c := codeOf(w); c != OK {
				return c
			}
		}
	}
	return OK
}

// HintOf returns the outermost hint of err, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// NodeOf returns the node that err names, or "".
func NodeOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Node != "" {
			return e.Node
		}
		err = e.Err
	}
	return ""
}
