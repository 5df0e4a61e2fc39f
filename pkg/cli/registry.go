package cli

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) registryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Use the registries of the cluster from outside, and find out why one does not work",
		Long: `Nodes use what spec.registry names without another word: kocli brings them the CA and
the login. These commands are for everybody else.`,
		Example: `  kocli registry login-info -f cluster.yaml
  kocli registry check -f cluster.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.registryLoginInfoCommand(), a.registryCheckCommand())
	return cmd
}

func (a *app) registryLoginInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "login-info -f CLUSTER.yaml",
		Short: "Show what docker, containerd and podman need to use the registries",
		Long: `Prints, for each registry in the cluster YAML, the lines that a client outside the
cluster needs: the name in /etc/hosts, the CA, and the login. Passwords are not printed:
they are in a file of this machine's, or where the YAML says.`,
		Example: `  kocli registry login-info -f cluster.yaml
  kocli registry login-info -f cluster.yaml -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.registryLoginInfo(cmd) },
	}
}

func (a *app) registryLoginInfo(cmd *cobra.Command) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	list := workflow.RegistryLogins(o)
	return a.result(fault.OK, map[string]any{"registries": list}, func() error {
		if len(list) == 0 {
			printf(a.Out, "%s names no registry: see spec.registry in kocli schema.\n", a.file)
		}
		for _, l := range list {
			a.writeLogin(l)
		}
		return nil
	})
}

func (a *app) writeLogin(l workflow.RegistryLogin) {
	printf(a.Out, "Registry %s\n", l.Name)
	if l.Builtin {
		name, _, _ := strings.Cut(l.Name, ":")
		printf(a.Out, "  The name, in /etc/hosts or DNS:\n")
		for _, at := range l.Addresses {
			printf(a.Out, "    %s %s\n", strings.Trim(at[:strings.LastIndexByte(at, ':')], "[]"), name)
		}
	}
	if l.CAFile != "" {
		printf(a.Out, "  The CA, for Docker and for podman:\n")
		for _, dir := range []string{"/etc/docker/certs.d", "/etc/containers/certs.d"} {
			printf(a.Out, "    install -D -m 0644 %s %s\n", l.CAFile, path.Join(dir, l.Name, "ca.crt"))
		}
		printf(a.Out, "  For containerd, in /etc/containerd/certs.d/%s/hosts.toml:\n    server = \"https://%s\"\n    [host.\"https://%s\"]\n      ca = %q\n", l.Name, l.Name, l.Name, path.Join("/etc/containerd/certs.d", l.Name, "ca.crt"))
	}
	if l.Username != "" {
		printf(a.Out, "  The login:\n    docker login %s --username %s --password-stdin <%s\n", l.Name, l.Username, cmp.Or(l.PasswordFile, "PASSWORD-FILE"))
	}
}

func (a *app) registryCheckCommand() *cobra.Command {
	var push string
	cmd := &cobra.Command{
		Use:   "check -f CLUSTER.yaml [--push REGISTRY/REPOSITORY]",
		Short: "Do with each registry what docker login, push and pull do, and say why it fails",
		Long: `From this machine, for each registry in the cluster YAML: connect, look at its
certificate as a client does, log in (with the token, where it wants one), and for the
built-in registry push an image of a few bytes, pull it and delete it. In a registry of
others nothing is written, unless --push names a repository.

Exit code 4 when one does not work, with the reason and what helps.`,
		Example: `  kocli registry check -f cluster.yaml
  kocli registry check -f cluster.yaml --push harbor.example.com/library/check`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.registryCheck(cmd, push) },
	}
	cmd.Flags().StringVar(&push, "push", "", "also push to this `repository` of an external registry, and pull from it")
	return cmd
}

func (a *app) registryCheck(cmd *cobra.Command, push string) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	list, err := workflow.RegistryCheck(cmd.Context(), o, push)
	show.Close()
	if list == nil {
		return err
	}
	code := fault.CodeOf(err)
	if rerr := a.result(code, map[string]any{"registries": list}, func() error {
		t := a.table("REGISTRY", "ADDRESS", "PASSED", "")
		for _, r := range list {
			t.AppendRow(table.Row{r.Name, r.Address, strings.Join(r.Passed, ", "), map[bool]string{true: "works", false: "FAILS"}[r.Error == ""]})
		}
		t.Render()
		return nil
	}); rerr != nil || err == nil {
		return rerr
	}
	if a.json() {
		return shown(code)
	}
	return fault.New(code, fault.HintOf(err), fmt.Errorf("registry %w", err))
}
