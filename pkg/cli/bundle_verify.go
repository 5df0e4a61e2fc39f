package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow/closure"
)

func (a *app) bundleVerifyCommand() *cobra.Command {
	var keys []string
	var spec string
	cmd := &cobra.Command{
		Use:   "verify BUNDLE [--key NAME.pub] [--closure CLUSTER.yaml]",
		Short: "Check every byte of a bundle, and that nothing is missing in it",
		Long: `Reads the whole file. A bundle that is damaged, cut off, or holds anything that it
does not list is refused with exit code 6. create checks what it sends by itself.

With --key it is refused too when none of the keys has signed it.

With --closure it is refused when it lacks anything that an install of the cluster
YAML would ask for: images of kubeadm, of containerd's configuration and of all
manifests, programs for each role, and OS packages, on every architecture of the
bundle. Each is listed with who asks for it. create, plan and bundle push make the
same check for the hosts as they are, before anything is changed.`,
		Example: `  kocli bundle verify kocli-v1.36.3-amd64.tar
  kocli bundle verify kocli-v1.36.3-amd64.tar --key kocli-bundle.pub
  kocli bundle verify kocli-v1.36.3-amd64.tar --closure cluster.yaml`,
		Args: oneArg("the bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.bundleVerify(cmd, args[0], keys, spec) },
	}
	keyFlag(cmd, &keys)
	cmd.Flags().StringVar(&spec, "closure", "", "cluster `YAML` that the bundle has to be complete for")
	return cmd
}

// verification is the result of bundle verify. Its JSON is stable.
type verification struct {
	Bundle            string          `json:"bundle"`
	Digest            string          `json:"digest"`
	Bytes             int64           `json:"bytes"`
	OK                bool            `json:"ok"`
	SignatureVerified bool            `json:"signatureVerified"`
	Closure           *closure.Report `json:"closure,omitempty"`
}

func (a *app) bundleVerify(cmd *cobra.Command, path string, keys []string, spec string) error {
	var inv *inventory.Inventory
	if spec != "" {
		a.file = spec
		c, err := a.load()
		if err != nil {
			return err
		}
		if inv, err = inventory.New(c); err != nil {
			return fault.New(fault.Usage, "kocli validate -f "+spec, err)
		}
	}
	b, err := openBundle(path, keys)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	show := a.ui()
	defer show.Close()
	if err := b.Verify(cmd.Context(), func(done, total int64) { show.Progress("verify", done, total) }); err != nil {
		return err
	}
	show.Close()
	v := verification{Bundle: path, Digest: b.Digest(), Bytes: b.Size(), OK: true, SignatureVerified: len(keys) > 0}
	if inv != nil {
		if v.Closure, err = closureOf(inv, b); err != nil {
			return err
		}
		v.OK = len(v.Closure.Missing) == 0
	}
	code := fault.OK
	if !v.OK {
		code = fault.Bundle
	}
	if err := a.result(code, v, func() error { a.writeVerification(v, len(b.Manifest().Items), spec); return nil }); err != nil || v.OK {
		return err
	}
	if a.json() {
		return shown(code)
	}
	return fault.New(code, "build a bundle that has them: kocli bundle build -f BUNDLE.yaml, or change "+spec,
		fmt.Errorf("the bundle is not complete for %s: it lacks %s", spec, ui.Count(len(v.Closure.Missing), "thing")))
}

// closureOf proves a bundle for a cluster of whose hosts nothing is known.
func closureOf(inv *inventory.Inventory, b *archive.Bundle) (*closure.Report, error) {
	cat, err := catalogue.Embedded()
	if err != nil {
		return nil, err
	}
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, err
	}
	r, err := closure.Check(closure.Input{Inventory: inv, Bundle: b, Catalogue: cat, Addons: known})
	return &r, err
}

func (a *app) writeVerification(v verification, items int, spec string) {
	printf(a.Out, "%s is whole: %s, %d items\nDigest: %s\n", v.Bundle, ui.Bytes(v.Bytes), items, v.Digest)
	if v.SignatureVerified {
		printf(a.Out, "It is signed by a key of --key.\n")
	}
	if v.Closure == nil {
		return
	}
	if len(v.Closure.Mirrored) > 0 {
		printf(a.Out, "From the mirrors of %s, not from the bundle:\n", spec)
		for _, m := range v.Closure.Mirrored {
			printf(a.Out, "  %s\n", m)
		}
	}
	if v.OK {
		printf(a.Out, "It has all of the %d things that %s asks for.\n", v.Closure.Asked-len(v.Closure.Mirrored), spec)
		return
	}
	printf(a.Out, "Missing for %s, and who asks for it:\n", spec)
	for _, m := range v.Closure.Missing {
		printf(a.Out, "  %s\n", m)
	}
}
