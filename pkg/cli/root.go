// Package cli is the tree of commands: flags in, one function called, results
// out. It is the only importer of cobra and viper.
//
// To add a command: a constructor in a file of its own that returns a
// cobra.Command with Long, Example and Args, whose RunE calls one function; then
// its line in root. A test looks for the example, another for the exit code.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Build says which kocli this is.
type Build struct{ Version, Commit, Date string }

// app is what all commands share: streams, clock, and the global flags.
type app struct {
	Streams
	build Build
	now   func() time.Time

	file      string
	home      string
	output    string
	logLevel  string
	logFormat string
	noColor   bool
	yes       bool
	acceptNew bool
	config    string
}

// Run executes kocli with args and returns the exit code. Errors are shown on
// stderr with their hint.
func Run(ctx context.Context, args []string, s Streams, b Build, now func() time.Time) fault.Code {
	a := &app{Streams: s, build: b, now: now}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return fault.OK
	}
	if ctx.Err() != nil {
		err = fault.New(fault.Interrupted, "nothing is lost: type the same command again and it goes on from here", errors.New("interrupted"))
	}
	a.showError(err)
	return fault.CodeOf(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kocli",
		Short: "Install and operate production Kubernetes where there is no internet",
		Long: `kocli turns bare hosts without internet into a Kubernetes cluster, over SSH:
one YAML that says what the cluster should be, one bundle file that holds all
that is installed, and upstream kubeadm.

Typing a command again after a failure goes on from what is true on the hosts.`,
		Example: `  kocli init --profile single > cluster.yaml
  kocli validate -f cluster.yaml
  kocli plan     -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli create   -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli status   -f cluster.yaml`,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return a.settings(cmd) },
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.StringVarP(&a.file, "file", "f", "cluster.yaml", "cluster `YAML`; - reads it from stdin")
	f.StringVar(&a.home, "home", defaultHome(), "kocli's own `folder`: state, logs, known hosts")
	f.StringVarP(&a.output, "output", "o", "text", "output `format`: text or json")
	f.StringVar(&a.logLevel, "log-level", "info", "`level` of the log on the terminal: debug, info, warn, error; the run's log always has everything")
	f.StringVar(&a.logFormat, "log-format", "text", "`format` of the log on the terminal: text or json")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (also NO_COLOR; off where stderr is not a terminal)")
	f.BoolVarP(&a.yes, "yes", "y", false, "answer yes to every question; needed where nobody can be asked")
	f.BoolVar(&a.acceptNew, "accept-new-host-keys", false, "accept SSH host keys that are seen for the first time; a changed key is always refused")
	f.StringVar(&a.config, "config", "", "`file` with values for flags (default HOME/config.yaml); see kocli help environment")
	root.AddCommand(
		a.initCommand(), a.validateCommand(), a.planCommand(), a.preflightCommand(), a.createCommand(), a.scaleCommand(), a.upgradeCommand(), a.nodeCommand(), a.statusCommand(),
		a.kubeconfigCommand(), a.addonCommand(), a.certsCommand(), a.resetCommand(), a.execCommand(), a.bundleCommand(), a.registryCommand(), a.backupCommand(), a.recoverCommand(), a.versionCommand(), a.schemaCommand(),
		completionCommand(),
	)
	root.AddCommand(topics()...)
	root.SetHelpCommand(helpCommand())
	fixed(root, map[string][]string{"output": formats(), "log-format": formats(), "log-level": levels()})
	return root
}

// defaultHome is ~/.kocli.
func defaultHome() string {
	h, err := os.UserHomeDir()
	if err != nil {
		return ".kocli"
	}
	return filepath.Join(h, ".kocli")
}

func (a *app) json() bool { return a.output == "json" }

// result prints v with -o json, and calls text otherwise.
func (a *app) result(code fault.Code, v any, text func() error) error {
	if a.json() {
		return ui.Result(a.Out, int(code), v)
	}
	return text()
}

// terminal reports whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is how many letters fit into a line of a terminal; zero where unknown.
func width(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	w, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return w
}

func (a *app) colours() bool {
	return !a.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(a.Err)
}

// ui returns how this command shows its progress.
func (a *app) ui() *ui.UI {
	level, err := zerolog.ParseLevel(a.logLevel)
	if err != nil {
		level = zerolog.InfoLevel
	}
	w := a.Err
	if a.logFormat == "text" {
		w = zerolog.ConsoleWriter{Out: a.Err, NoColor: !a.colours(), TimeFormat: time.TimeOnly}
	}
	return ui.New(ui.Options{
		Out: a.Out, Err: a.Err, Terminal: terminal(a.Err) && os.Getenv("TERM") != "dumb", Width: width(a.Err), Color: a.colours(), JSON: a.json(), Now: a.now,
		Log: zerolog.New(w).Level(level).With().Timestamp().Logger(),
	})
}
