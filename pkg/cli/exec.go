package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/workflow"
)

// execFlags are the flags of exec.
type execFlags struct {
	nodes   []string
	root    bool
	timeout time.Duration
}

func (a *app) execCommand() *cobra.Command {
	var e execFlags
	cmd := &cobra.Command{
		Use:   "exec [NODE[,NODE]|all] -- COMMAND [ARG]...",
		Short: "Run a command on hosts, over the same SSH connections",
		Long: `Runs one command on the hosts, all at once, and prints what it says with the host's
name before every line. The command is passed word for word, without a shell; for
pipes and variables say: -- sh -c 'df -h | tail -1'.

Exit code 1 when the command fails on a host, 4 when a host cannot be reached.`,
		Example: `  kocli exec -- uptime
  kocli exec node-2 --root -- journalctl -u kubelet -n 50 --no-pager
  kocli exec node-1,node-2 --root -- systemctl is-active kubelet
  kocli exec --node node-1 --node node-2 -o json -- sh -c 'df -h /var | tail -1'`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.exec(cmd, args, e) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&e.nodes, "node", nil, "`name` of a host; may be repeated (default all)")
	f.BoolVar(&e.root, "root", false, "run as root, with sudo where the login is not root's")
	f.DurationVar(&e.timeout, "timeout", 0, "end the command after so long, for example `1m`")
	return cmd
}

func (a *app) exec(cmd *cobra.Command, args []string, e execFlags) error {
	names, argv, err := execArgs(cmd, args, e.nodes)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	if names, err = nodes(o.Inventory, names); err != nil {
		return err
	}
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	results, err := workflow.Exec(cmd.Context(), o, names, host.Cmd{Argv: argv, Root: e.root, Timeout: e.timeout}, func(r workflow.ExecResult) {
		if !a.json() {
			prefixed(a.Out, r.Node, width, r.Stdout)
			prefixed(a.Err, r.Node, width, r.Stderr)
		}
	})
	if err == nil {
		err = execFailure(results)
	}
	if !a.json() {
		return err
	}
	doc := map[string]any{"command": argv, "hosts": results}
	if err != nil {
		doc["errors"] = troubles(err)
	}
	if werr := a.result(fault.CodeOf(err), doc, nil); werr != nil || err == nil {
		return werr
	}
	return shown(fault.CodeOf(err))
}

// execArgs takes apart: hosts, "--", command.
func execArgs(cmd *cobra.Command, args, flag []string) (names, argv []string, err error) {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		return nil, nil, usage(cmd, errors.New("put -- before the command, as in: kocli exec node-1 -- uptime"))
	}
	argv = args[dash:]
	if len(argv) == 0 {
		return nil, nil, usage(cmd, errors.New("the command after -- is missing"))
	}
	names = append(names, flag...)
	for _, a := range args[:dash] {
		names = append(names, strings.Split(a, ",")...)
	}
	return names, argv, nil
}

// execFailure lists the hosts where the command did not succeed.
func execFailure(results []workflow.ExecResult) error {
	var bad []string
	for _, r := range results {
		if r.ExitCode != 0 {
			bad = append(bad, fmt.Sprintf("%s (exit status %d)", r.Node, r.ExitCode))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return fault.New(fault.Failure, "", fmt.Errorf("the command failed on %d of %d hosts: %s", len(bad), len(results), strings.Join(bad, ", ")))
}

// prefixed prints lines behind the name of their host.
func prefixed(w io.Writer, node string, width int, text string) {
	if text == "" {
		return
	}
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		printf(w, "%-*s | %s\n", width, node, l)
	}
}
