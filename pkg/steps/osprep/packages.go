package osprep

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
)

// Packages installs those OS packages of the bundle that the host lacks. A
// package that is there already is left alone, whatever its version.
func Packages(pkgs []payload.Package) plan.Step {
	return converge.Func{
		Name: "osprep/packages",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			lacking, err := lackingPackages(ctx, r, pkgs)
			var out []plan.Change
			for _, p := range lacking {
				blob, size := p.File.Blob()
				out = append(out, plan.Change{Object: "package " + p.Name, To: "install", Bytes: size, Content: []string{blob}})
			}
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			lacking, err := lackingPackages(ctx, h, pkgs)
			if err != nil || len(lacking) == 0 {
				return err
			}
			argv := []string{"env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confold", "--install"}
			var entries []ledger.Entry
			var files []host.File
			for _, p := range lacking {
				files = append(files, p.File)
				argv = append(argv, p.File.Path)
				entries = append(entries, ledger.Entry{Kind: ledger.Package, Name: p.Name})
			}
			if err := converge.Put(ctx, h, files, 0); err != nil {
				return err
			}
			if err := ledger.Append(ctx, h, entries...); err != nil {
				return err
			}
			c := host.Command(argv...)
			c.Timeout = 10 * time.Minute
			if _, err := h.Run(ctx, c); err != nil {
				return fmt.Errorf("install %d packages: %w", len(lacking), err)
			}
			return nil
		},
	}
}

// lackingPackages returns the packages that are not installed.
func lackingPackages(ctx context.Context, r host.Reader, pkgs []payload.Package) ([]payload.Package, error) {
	if len(pkgs) == 0 {
		return nil, nil
	}
	argv := []string{"dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"}
	for _, p := range pkgs {
		argv = append(argv, p.Name)
	}
	// dpkg-query exits 1 when it does not know one of them, and lists the others.
	outs, _, err := converge.Asked(ctx, r, host.Command(argv...))
	if err != nil {
		return nil, err
	}
	installed := map[string]bool{}
	for _, l := range strings.Split(outs[0].Text(), "\n") {
		name, status, _ := strings.Cut(l, " ")
		installed[name] = status == "installed"
	}
	var out []payload.Package
	for _, p := range pkgs {
		if !installed[p.Name] {
			out = append(out, p)
		}
	}
	return out, nil
}
