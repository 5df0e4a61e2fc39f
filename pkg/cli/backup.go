package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup", Short: "Make, list, prove and restore backups of a cluster",
		Long: `A backup is one encrypted file: a snapshot of etcd, the certificates and configuration of
a control plane, and the cluster YAML. Beside it stands a signed receipt. A folder,
sftp:// and s3:// can hold them; spec.backup in the YAML says which.`,
		Example: `  kocli backup keygen --out prod
  kocli backup create -f cluster.yaml --to /mnt/backups --recipients-file prod.pub
  kocli backup list -f cluster.yaml --to /mnt/backups
  kocli backup verify -f cluster.yaml --to /mnt/backups --identity prod.key`,
		Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.backupCreateCommand(), a.backupListCommand(), a.backupPruneCommand(), a.backupVerifyCommand(), a.backupRestoreCommand(), a.backupScheduleCommand(), a.backupKeygenCommand())
	return cmd
}

// targetFlag says where backups are.
func targetFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "to", "", "`target`: a folder, sftp://USER@HOST/PATH or s3://BUCKET/PREFIX (default: spec.backup.target)")
	own(cmd, "to")
}

// checkTarget makes a path absolute and refuses what is no target.
func checkTarget(to string) (string, error) {
	if to == "" {
		return "", nil
	}
	if !strings.Contains(to, "://") {
		return filepath.Abs(to)
	}
	if err := config.CheckBackupTarget(to); err != nil {
		return "", fault.New(fault.Usage, "give a folder, sftp://USER@HOST/PATH or s3://BUCKET/PREFIX", fmt.Errorf("--to %s", err)) //nolint:errorlint // the text is the message
	}
	return to, nil
}

func (a *app) backupCreateCommand() *cobra.Command {
	var b workflow.BackupOptions
	var file string
	cmd := &cobra.Command{
		Use:   "create -f CLUSTER.yaml [--to TARGET] [--recipient age1...]",
		Short: "Make a backup",
		Long: `Takes a snapshot of etcd on a control plane that does not lead, through etcd's API, and
packs it with certificates and configuration, compressed and encrypted there, in one
stream: nothing is written in the clear on the way. Only what is complete is listed.

It is encrypted for the recipients: public keys of age, of which each opens it. Where
spec.backup.retention says so, backups that are kept no longer go afterwards; with --to
none go.`,
		Example: `  kocli backup create -f cluster.yaml
  kocli backup create -f cluster.yaml --to sftp://backup@10.0.0.9/srv/backups --recipient age1...
  kocli backup create -f cluster.yaml --to ./backups --plain`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if b.To, err = checkTarget(b.To); err != nil {
				return err
			}
			if file != "" {
				more, err := backup.RecipientsFile(file)
				if err != nil {
					return err
				}
				b.Recipients = append(b.Recipients, more...)
			}
			return a.backupCreate(cmd, b)
		},
	}
	targetFlag(cmd, &b.To)
	cmd.Flags().StringSliceVar(&b.Recipients, "recipient", nil, "public `key` of age that it is encrypted for; may be repeated (default: spec.backup.recipients)")
	cmd.Flags().StringVar(&file, "recipients-file", "", "`file` of public keys, one a line")
	cmd.Flags().BoolVar(&b.Plain, "plain", false, "do not encrypt: whoever reads the file has all secrets of the cluster")
	own(cmd, "plain")
	return cmd
}

func (a *app) backupCreate(cmd *cobra.Command, b workflow.BackupOptions) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	r, err := workflow.Backup(cmd.Context(), o, b)
	if err != nil {
		if r == nil {
			return failedRun(err, nil)
		}
		return failedRun(err, &workflow.Result{Log: r.Log})
	}
	return a.result(fault.OK, r, func() error {
		printf(a.Out, "Backup %s is complete: %d objects at revision %d, %s of %s in %s.\nTarget: %s\n",
			r.Name, r.Keys, r.Revision, ui.Bytes(r.Size), ui.Bytes(r.Database), ui.Duration(r.Duration), r.Target)
		for _, n := range r.Pruned {
			printf(a.Out, "Not kept any longer: %s\n", n)
		}
		if !r.Encrypted {
			printf(a.Err, "note: it is not encrypted, and holds all secrets of the cluster\n")
		}
		return nil
	})
}

func (a *app) backupListCommand() *cobra.Command {
	var to string
	var all bool
	var keys []string
	cmd := &cobra.Command{
		Use:   "list -f CLUSTER.yaml [--to TARGET]",
		Short: "List the backups that are complete",
		Long: `Lists the backups of the cluster, the newest first, by their signed receipts: no private
key is needed. What is incomplete or damaged is named below the list.`,
		Example: "  kocli backup list -f cluster.yaml\n  kocli backup list -f cluster.yaml -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := checkTarget(to)
			if err != nil {
				return err
			}
			pub, err := publicKeys(keys)
			if err != nil {
				return err
			}
			show := a.ui()
			defer show.Close()
			o, err := a.options(cmd, "", show)
			if err != nil {
				return err
			}
			l, err := workflow.ListBackups(cmd.Context(), o, to, pub, all)
			if err != nil {
				return err
			}
			show.Close()
			return a.result(fault.OK, l, func() error { a.writeBackups(l); return nil })
		},
	}
	targetFlag(cmd, &to)
	keyFlag(cmd, &keys)
	cmd.Flags().BoolVar(&all, "all", false, "those of other clusters too")
	own(cmd, "all")
	return cmd
}

func (a *app) writeBackups(l *workflow.BackupList) {
	if len(l.Backups) == 0 {
		printf(a.Out, "No backup is in %s.\n", l.Target)
	} else {
		t := a.table("BACKUP", "AGE", "SIZE", "OBJECTS", "REVISION", "KUBERNETES", "")
		for _, b := range l.Backups {
			var notes []string
			if !b.Trusted {
				notes = append(notes, "signed by a key that is not known here")
			}
			if !b.Encrypted {
				notes = append(notes, "not encrypted")
			}
			t.AppendRow(table.Row{b.Name, ui.Duration(b.Age.Truncate(time.Second)), ui.Bytes(b.Size), b.Keys, b.Revision, b.Kubernetes, strings.Join(notes, "; ")})
		}
		t.Render()
	}
	for _, n := range l.Notes {
		printf(a.Err, "note: %s\n", n)
	}
}

func (a *app) backupPruneCommand() *cobra.Command {
	var to string
	var r backup.Retention
	var dry bool
	cmd := &cobra.Command{
		Use:   "prune -f CLUSTER.yaml [--keep N] [--max-age DURATION]",
		Short: "Remove backups that are kept no longer",
		Long: `Removes the backups of the cluster beyond the newest N, and those that are older than
the age, as the flags or spec.backup.retention say. The newest always stays, and so do
those that others signed.`,
		Example: "  kocli backup prune -f cluster.yaml --dry-run\n  kocli backup prune -f cluster.yaml --keep 14 --max-age 720h",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := checkTarget(to)
			if err != nil {
				return err
			}
			if r.Keep < 0 || r.MaxAge < 0 {
				return usage(cmd, errors.New("--keep and --max-age have to be more than nothing"))
			}
			show := a.ui()
			defer show.Close()
			o, err := a.options(cmd, "", show)
			if err != nil {
				return err
			}
			gone, err := workflow.PruneBackups(cmd.Context(), o, to, r, dry)
			if err != nil {
				return err
			}
			show.Close()
			doc := map[string]any{"removed": gone, "dryRun": dry}
			return a.result(fault.OK, doc, func() error {
				what := "Removed"
				if dry {
					what = "Would remove"
				}
				printf(a.Out, "%s %s.\n", what, ui.Count(len(gone), "backup"))
				for _, n := range gone {
					printf(a.Out, "  %s\n", n)
				}
				return nil
			})
		},
	}
	targetFlag(cmd, &to)
	cmd.Flags().IntVar(&r.Keep, "keep", 0, "how `many` stay (default: spec.backup.retention.keep)")
	cmd.Flags().DurationVar(&r.MaxAge, "max-age", 0, "how old one may be, for example `720h` (default: spec.backup.retention.maxAge)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go, and remove nothing")
	own(cmd, "keep", "max-age", "dry-run")
	return cmd
}

// whichFlags name a backup and say how it is read.
func whichFlags(cmd *cobra.Command, w *workflow.WhichBackup, keys *[]string) {
	targetFlag(cmd, &w.Target)
	keyFlag(cmd, keys)
	cmd.Flags().StringVar(&w.Identity, "identity", "", "`file` with the private key of age, AGE-SECRET-KEY-...")
	cmd.Flags().StringVar(&w.Accept, "accept-signer", "", "`ID` of a key that is trusted, where this machine does not know the cluster's")
	own(cmd, "accept-signer")
}

// whichOf completes what flags and argument say.
func whichOf(w workflow.WhichBackup, keys, args []string) (workflow.WhichBackup, error) {
	var err error
	if len(args) > 0 {
		w.Name = args[0]
	}
	if w.Target, err = checkTarget(w.Target); err != nil {
		return w, err
	}
	w.Keys, err = publicKeys(keys)
	return w, err
}

func (a *app) backupVerifyCommand() *cobra.Command {
	var w workflow.WhichBackup
	var keys []string
	var maxAge time.Duration
	var scratch string
	cmd := &cobra.Command{
		Use:   "verify [NAME|FILE] -f CLUSTER.yaml --identity FILE",
		Short: "Prove that a backup can be restored",
		Long: `A drill, on this machine: decrypts a backup (the newest where none is named), holds every
file against the signed manifest, restores the snapshot into a scratch etcd, and
compares number of keys, hash, revision and some objects with what etcd said when it
was made. It says how old and how complete it is. The restored data is in the clear in
a folder of its own, 0700, for as long as this takes.

Exit code 8 when the backup is not good or too old, 9 when it cannot be decrypted or
its signer is not known, 0 when it is good.`,
		Example: `  kocli backup verify -f cluster.yaml --identity prod.key
  kocli backup verify -f cluster.yaml --identity prod.key --max-age 26h -o json
  kocli backup verify ./prod-20261125T023000Z-cp-2.tar.zst.age -f cluster.yaml --identity prod.key`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := whichOf(w, keys, args)
			if err != nil {
				return err
			}
			show := a.ui()
			defer show.Close()
			o, err := a.options(cmd, "", show)
			if err != nil {
				return err
			}
			d, err := workflow.VerifyBackup(cmd.Context(), o, w, maxAge, scratch)
			if err != nil {
				return err
			}
			show.Close()
			return a.result(fault.OK, d, func() error {
				printf(a.Out, "Backup %s is good: %d objects at revision %d, hash %s, %d samples and %d files are as they were.\n",
					d.Name, d.Keys, d.Revision, d.Hash, d.Samples, d.Files)
				printf(a.Out, "It is %s old, of cluster %s, Kubernetes %s, etcd %s, signed by %s. The drill took %s.\n",
					ui.Duration(d.Age.Truncate(time.Second)), d.Cluster, d.Kubernetes, d.Etcd, d.Signer, ui.Duration(d.Duration))
				return nil
			})
		},
	}
	whichFlags(cmd, &w, &keys)
	cmd.Flags().DurationVar(&maxAge, "max-age", 0, "how old it may be, for example `26h`")
	cmd.Flags().StringVar(&scratch, "scratch", "", "`folder` for the restored data (default: that of the system)")
	own(cmd, "max-age")
	return cmd
}

func (a *app) backupKeygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen [--out NAME]",
		Short: "Make a key pair for encrypted backups",
		Long: `Writes NAME.key, the private key that opens backups, mode 0600, and NAME.pub, the public
key that they are encrypted for, as age-keygen does. Keep NAME.key where neither the
cluster nor its backups are: without it they are lost.`,
		Example: "  kocli backup keygen --out prod",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			private, public := out+".key", out+".pub"
			recipient, err := backup.GenerateIdentity(private, public)
			if err != nil {
				return err
			}
			doc := map[string]string{"privateKey": private, "publicKey": public, "recipient": recipient}
			return a.result(fault.OK, doc, func() error {
				printf(a.Out, "%s opens backups: keep it safe, and elsewhere\n%s encrypts them\nrecipient: %s\n", private, public, recipient)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "backup", "`name` of the two files, without ending")
	own(cmd, "out")
	return cmd
}
