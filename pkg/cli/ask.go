package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kocli/kocli/pkg/fault"
)

// acceptKey decides about a host key that was never seen. --yes does not cover
// it: --accept-new-host-keys does.
func (a *app) acceptKey(ctx context.Context) func(host, kind, fingerprint string) bool {
	return func(host, kind, fingerprint string) bool {
		if a.acceptNew {
			return true
		}
		ok, err := a.ask(ctx, fmt.Sprintf("The host %s shows the %s key %s. Trust it from now on?", host, kind, fingerprint))
		return err == nil && ok
	}
}

// confirm asks before something is lost. --yes answers it.
func (a *app) confirm(ctx context.Context, question string) error {
	if a.yes {
		return nil
	}
	ok, err := a.ask(ctx, question)
	if err == nil && !ok {
		err = errors.New("not confirmed: nothing was changed")
	}
	return err
}

// ask asks a question on the terminal.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	if !terminal(a.In) || !terminal(a.Err) {
		return false, fault.New(fault.Usage, "run it with --yes, or on a terminal", errors.New("nobody can be asked: "+question))
	}
	printf(a.Err, "%s [y/N] ", question)
	line, err := wait(ctx, func() (string, error) { return bufio.NewReader(a.In).ReadString('\n') })
	if err != nil {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// askSecret asks for a secret without echo.
func (a *app) askSecret(ctx context.Context, what string) (string, error) {
	f, ok := a.In.(*os.File)
	if !ok || !terminal(f) {
		return "", errors.New("nobody can be asked: stdin is not a terminal")
	}
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	printf(a.Err, "%s: ", what)
	secret, err := wait(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	printf(a.Err, "\n")
	if ctx.Err() != nil {
		_ = term.Restore(fd, before) // echo on again; ReadPassword is still waiting
	}
	return secret, err
}

// wait returns what read returns, or ends with ctx: Ctrl-C ends a question too.
func wait(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	ch := make(chan answer, 1)
	go func() {
		text, err := read()
		ch <- answer{text, err}
	}()
	select {
	case r := <-ch:
		return r.text, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
