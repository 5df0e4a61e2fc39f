package sshhost

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// ErrSudo is wrapped where a login works and root does not.
var ErrSudo = errors.New("sudo refused")

// checkSudo proves once a connection that root commands work, so that a wrong
// password is named as such and not met in the middle of a step.
func (h *Host) checkSudo(ctx context.Context) error {
	_, err := h.run(ctx, host.Command("true"))
	return err
}

// noSudo explains what sudo printed before the command could start.
func (h *Host) noSudo(said string) error {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	hint := fmt.Sprintf("give %s root rights on %s: ssh -t %s@%s sudo -v", h.target.User, h.Name(), h.target.User, h.target.Address)
	switch {
	case strings.Contains(said, "incorrect password") || strings.Contains(said, "Sorry, try again") || strings.Contains(said, "no password was provided"):
		hint = "the sudo password is wrong: check spec.ssh.sudoPassword and what it refers to"
	case strings.Contains(said, "password is required"):
		hint = fmt.Sprintf("set spec.ssh.sudoPassword (env:NAME, file:PATH or prompt), or allow %s passwordless sudo", h.target.User)
	case strings.Contains(said, "command not found") || strings.Contains(said, "sudo: not found"):
		hint = "sudo is not installed there: log in as root, or install sudo"
	case line == "":
		line = "no answer"
	}
	return &fault.Error{Op: "sudo", Node: h.Name(), Code: fault.Unreachable, Hint: hint, Err: fmt.Errorf("%w: %s", ErrSudo, line)}
}
