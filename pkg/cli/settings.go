package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
)

func formats() []string { return []string{"text", "json"} }

func levels() []string { return []string{"debug", "info", "warn", "error"} }

// ownFlag marks a flag that is only set on the command line, because a global
// flag of the same name means something else.
const ownFlag = "kocli-command-line-only"

// settings fills flags that were not given from KOCLI_* variables and the
// config file, and checks those with few values.
func (a *app) settings(cmd *cobra.Command) error {
	v, err := a.readConfig(cmd)
	if err != nil {
		return err
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" || f.Annotations[ownFlag] != nil || !v.IsSet(f.Name) {
			return
		}
		value := v.GetString(f.Name)
		if strings.HasSuffix(f.Value.Type(), "Slice") {
			value = strings.Join(v.GetStringSlice(f.Name), ",")
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			errs = append(errs, usage(cmd, fmt.Errorf("%s: %w", origin(v, f.Name), err)))
		}
	})
	for _, c := range []struct {
		flag, value string
		allowed     []string
	}{
		{"output", a.output, formats()}, {"log-format", a.logFormat, formats()}, {"log-level", a.logLevel, levels()},
	} {
		if !slices.Contains(c.allowed, c.value) {
			errs = append(errs, usage(cmd, fmt.Errorf("--%s %s: use one of %s", c.flag, c.value, strings.Join(c.allowed, ", "))))
		}
	}
	return errors.Join(errs...)
}

// readConfig reads the config file. One that was named has to be there.
func (a *app) readConfig(cmd *cobra.Command) (*viper.Viper, error) {
	v := viper.New()
	v.SetEnvPrefix("KOCLI")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	home := a.home
	if !cmd.Flags().Changed("home") && v.GetString("home") != "" {
		home = v.GetString("home")
	}
	file, named := filepath.Join(home, "config.yaml"), a.config
	if named == "" {
		named = v.GetString("config")
	}
	if named != "" {
		file = named
	}
	v.SetConfigFile(file)
	if err := v.ReadInConfig(); err != nil && (named != "" || !errors.Is(err, os.ErrNotExist)) {
		return nil, fault.New(fault.Usage, "see kocli help environment", fmt.Errorf("read config file: %w", err))
	}
	known := flagNames(cmd.Root())
	var errs []error
	for _, k := range v.AllKeys() {
		if !slices.Contains(known, k) {
			errs = append(errs, fault.New(fault.Usage, suggest(k, known, "kocli help environment"), fmt.Errorf("config file %s: no flag is called %q", file, k)))
		}
	}
	return v, errors.Join(errs...)
}

// flagNames lists the flags of all commands.
func flagNames(cmd *cobra.Command) []string {
	var out []string
	add := func(f *pflag.Flag) { out = append(out, f.Name) }
	cmd.PersistentFlags().VisitAll(add)
	cmd.Flags().VisitAll(add)
	for _, c := range cmd.Commands() {
		out = append(out, flagNames(c)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// origin says where the value of a flag came from.
func origin(v *viper.Viper, flag string) string {
	env := "KOCLI_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	if _, ok := os.LookupEnv(env); ok {
		return env
	}
	return v.ConfigFileUsed() + ": " + flag
}

// suggest is a hint that names what was probably meant.
func suggest(name string, candidates []string, otherwise string) string {
	if n := config.Nearest(name, candidates); n != "" {
		return fmt.Sprintf("did you mean %s? (%s)", n, otherwise)
	}
	return otherwise
}
