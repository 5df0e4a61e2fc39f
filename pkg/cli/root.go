// Package cli is the tree of commands: flags in, one function called, results
// out. It is the only importer of cobra and viper.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"golang.org/x/term"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
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
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = fault.New(fault.Interrupted, "type the same command again: it goes on from here", errors.New("interrupted"))
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
  kocli create   -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settings(cmd) },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	f := root.PersistentFlags()
	f.StringVarP(&a.file, "file", "f", "cluster.yaml", "cluster `YAML`")
	f.StringVar(&a.home, "home", defaultHome(), "kocli's own `folder`: state, logs, known hosts")
	f.StringVarP(&a.output, "output", "o", "text", "output `format`: text or json")
	f.StringVar(&a.logLevel, "log-level", "info", "`level` of the log on the terminal: debug, info, warn, error; the run's log always has everything")
	f.StringVar(&a.logFormat, "log-format", "text", "`format` of the log on the terminal: text or json")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (also NO_COLOR; off where stderr is not a terminal)")
	f.BoolVarP(&a.yes, "yes", "y", false, "answer yes to every question; needed where nobody can be asked")
	f.BoolVar(&a.acceptNew, "accept-new-host-keys", false, "accept SSH host keys that are seen for the first time; a changed key is always refused")
	f.StringVar(&a.config, "config", "", "`file` with values for flags (default HOME/config.yaml); KOCLI_* variables come before it, flags before both")
	root.AddCommand(
		a.initCommand(), a.validateCommand(), a.planCommand(), a.preflightCommand(), a.createCommand(), a.statusCommand(),
		a.kubeconfigCommand(), a.resetCommand(), a.execCommand(), a.bundleCommand(), a.versionCommand(), a.schemaCommand(), a.nodeCommand(),
	)
	root.AddCommand(topics()...)
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

// settings fills flags that were not given from KOCLI_* variables and the
// config file, and checks those with few values.
func (a *app) settings(cmd *cobra.Command) error {
	v := viper.New()
	v.SetEnvPrefix("KOCLI")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	home := a.home
	if !cmd.Flags().Changed("home") && v.GetString("home") != "" {
		home = v.GetString("home")
	}
	v.SetConfigFile(filepath.Join(home, "config.yaml"))
	given := a.config
	if given == "" {
		given = v.GetString("config")
	}
	if given != "" {
		v.SetConfigFile(given)
	}
	if err := v.ReadInConfig(); err != nil && (given != "" || !errors.Is(err, os.ErrNotExist)) {
		return fault.New(fault.Usage, "", fmt.Errorf("read config file: %w", err))
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Changed && f.Name != "config" && v.IsSet(f.Name) {
			if err := cmd.Flags().Set(f.Name, v.GetString(f.Name)); err != nil {
				errs = append(errs, usage(cmd, fmt.Errorf("--%s, from the environment or %s: %w", f.Name, v.ConfigFileUsed(), err)))
			}
		}
	})
	for _, c := range []struct{ flag, value, allowed string }{
		{"output", a.output, "text json"}, {"log-format", a.logFormat, "text json"}, {"log-level", a.logLevel, "debug info warn error"},
	} {
		if !contains(strings.Fields(c.allowed), c.value) {
			errs = append(errs, usage(cmd, fmt.Errorf("--%s %s: use one of %s", c.flag, c.value, strings.Join(strings.Fields(c.allowed), ", "))))
		}
	}
	return errors.Join(errs...)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// usage is an error of the command line.
func usage(cmd *cobra.Command, err error) error {
	return fault.New(fault.Usage, cmd.CommandPath()+" --help", err)
}

// noArgs is cobra.NoArgs with our exit code.
func noArgs(cmd *cobra.Command, args []string) error { return exactArgs(0)(cmd, args) }

// exactArgs is cobra.ExactArgs with our exit code.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

func (a *app) json() bool { return a.output == "json" }

// terminal reports whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) colours() bool {
	return !a.noColor && os.Getenv("NO_COLOR") == "" && terminal(a.Err)
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
		Out: a.Out, Err: a.Err, Terminal: terminal(a.Err), Color: a.colours(), JSON: a.json(),
		Log: zerolog.New(w).Level(level).With().Timestamp().Logger(),
	})
}

// showError prints an error, the end of what a remote command said, and the
// hint.
func (a *app) showError(err error) {
	if a.json() {
		ui.JSON(a.Out, struct {
			Error    string `json:"error"`
			Node     string `json:"node,omitempty"`
			Hint     string `json:"hint,omitempty"`
			ExitCode int    `json:"exitCode"`
		}{err.Error(), fault.NodeOf(err), fault.HintOf(err), int(fault.CodeOf(err))})
		return
	}
	word, hintWord := "error:", "hint: "
	if a.colours() {
		word, hintWord = "\x1b[31;1merror:\x1b[0m", "\x1b[36mhint: \x1b[0m"
	}
	fmt.Fprintf(a.Err, "%s %s\n", word, err)
	var x *host.ExitError
	if errors.As(err, &x) {
		if tail := x.Tail(10); len(tail) > 1 {
			fmt.Fprintf(a.Err, "       the last lines of the remote stderr:\n")
			for _, l := range tail {
				fmt.Fprintf(a.Err, "       | %s\n", l)
			}
		}
	}
	if h := fault.HintOf(err); h != "" {
		fmt.Fprintf(a.Err, "%s %s\n", hintWord, h)
	}
}
