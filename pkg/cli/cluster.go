package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// load reads the cluster YAML.
func (a *app) load() (*inventory.Inventory, []byte, error) {
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return nil, nil, fault.New(fault.Usage, "write one with: kocli init > cluster.yaml", err)
	}
	c, err := config.Load(a.file, kubeadm.ValidateOverrides)
	if err != nil {
		return nil, nil, err
	}
	inv, err := inventory.New(c)
	if err != nil {
		return nil, nil, fault.New(fault.Usage, "", err)
	}
	return inv, raw, nil
}

// options gathers what a workflow needs.
func (a *app) options(cmd *cobra.Command, bundle string, show *ui.UI) (workflow.Options, error) {
	inv, raw, err := a.load()
	if err != nil {
		return workflow.Options{}, err
	}
	file, more := workflow.KnownHosts(a.home)
	return workflow.Options{
		Home: a.home, Command: cmd.CommandPath(), Inventory: inv, SpecYAML: raw, Bundle: bundle,
		SSH:      sshhost.Options{Keys: &sshhost.KnownHosts{File: file, More: more, Accept: a.acceptKey}},
		Secrets:  &config.Secrets{Prompt: a.askSecret},
		Observer: show, Version: a.build.Version, Clock: workflow.Clock{Now: a.now},
	}, nil
}

// acceptKey decides about a host key that was never seen.
func (a *app) acceptKey(host string, key ssh.PublicKey) bool {
	if a.acceptNew {
		return true
	}
	ok, err := a.confirm(fmt.Sprintf("The host %s shows the %s key %s. Trust it from now on?", host, key.Type(), ssh.FingerprintSHA256(key)), false)
	return err == nil && ok
}

// confirm asks a question. Where nobody can be asked, --yes has to be given; keys
// of hosts are never covered by it (byYes false).
func (a *app) confirm(question string, byYes bool) (bool, error) {
	if byYes && a.yes {
		return true, nil
	}
	if !terminal(a.In) || !terminal(a.Err) {
		return false, fault.New(fault.Usage, "run it with --yes, or on a terminal", errors.New("this needs an answer, and nobody can be asked: "+question))
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// askSecret asks for a secret without echo.
func (a *app) askSecret(_ context.Context, what string) (string, error) {
	f, ok := a.In.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("nobody can be asked: stdin is not a terminal")
	}
	fmt.Fprintf(a.Err, "%s: ", what)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.Err)
	return string(b), err
}
