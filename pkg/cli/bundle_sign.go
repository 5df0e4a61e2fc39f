package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

func (a *app) bundleKeygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen [--out NAME]",
		Short: "Make a key pair that signs bundles",
		Long: `Writes NAME.key, which signs bundles, and NAME.pub, which verifies them: ed25519 in PEM,
as OpenSSL reads and writes them. Files that exist are never overwritten. Keep NAME.key
where bundles are built, and take NAME.pub to where they are installed.`,
		Example: "  kocli bundle keygen\n  kocli bundle keygen --out release-2026",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			private, public, k, err := archive.GenerateKey(out)
			if err != nil {
				return err
			}
			v := map[string]any{"privateKey": private, "publicKey": public, "keyID": k.ID()}
			return a.result(fault.OK, v, func() error {
				printf(a.Out, "Private key: %s (keep it secret; it signs)\nPublic key:  %s (give it away; it verifies)\nKey ID:      %s\n", private, public, k.ID())
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "kocli-bundle", "`name` of the two files, without .key and .pub")
	commandLineOnly(cmd, "out")
	return cmd
}

func (a *app) bundleSignCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "sign BUNDLE --key NAME.key",
		Short: "Sign a bundle",
		Long: `Adds a signature at the end of the bundle's file. The rest of it, and its digest, do
not change. Several keys may sign one bundle. When it was interrupted, type it again.

Whoever has the public key then refuses every other bundle with --key NAME.pub, for
bundle verify, preflight, plan and create.`,
		Example: "  kocli bundle sign kocli-v1.36.3-amd64.tar --key kocli-bundle.key",
		Args:    oneArg("the bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return fault.New(fault.Usage, "make a key with: kocli bundle keygen", errors.New("--key is missing: the private key that signs"))
			}
			k, err := archive.ReadPrivateKey(key)
			if err != nil {
				return err
			}
			digest, list, err := archive.Sign(args[0], k)
			if err != nil {
				return err
			}
			v := map[string]any{"bundle": args[0], "digest": digest, "keyID": k.Public().ID(), "signatures": list}
			return a.result(fault.OK, v, func() error {
				printf(a.Out, "%s is signed by %s\nDigest: %s\n", args[0], k.Public().ID(), digest)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key `file`")
	commandLineOnly(cmd, "key") // KOCLI_KEY names public keys
	return cmd
}

// keyFlag adds --key to a command that reads a bundle.
func keyFlag(cmd *cobra.Command, keys *[]string) {
	cmd.Flags().StringSliceVar(keys, "key", nil, "public key `file`: refuse a bundle that none of these keys has signed; may be repeated")
}

// publicKeys reads the files of --key.
func publicKeys(files []string) ([]archive.PublicKey, error) {
	var out []archive.PublicKey
	var errs []error
	for _, f := range files {
		k, err := archive.ReadPublicKey(f)
		out, errs = append(out, k), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// openBundle opens a bundle and, where keys are given, checks its signature.
func openBundle(path string, keyFiles []string) (*archive.Bundle, error) {
	keys, err := publicKeys(keyFiles)
	if err != nil {
		return nil, err
	}
	return archive.OpenSigned(path, keys)
}
