package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) backupRestoreCommand() *cobra.Command {
	var w workflow.WhichBackup
	var p planFlags
	var iKnow, dry bool
	cmd := &cobra.Command{
		Use:   "restore [NAME|FILE] -f CLUSTER.yaml --identity FILE [--bundle FILE]",
		Short: "Make a cluster anew from a backup",
		Long: `Makes the hosts of the YAML be the cluster of the backup (the newest where none is named):
all control planes, on the same hosts or on others with other addresses, which need the
bundle. The data of etcd is restored on all of them at once, with revisions far above
the old ones, so that nobody who watched is told of the past; then etcd, the API
servers and controllers start in this order, and workers join or come back.
Control planes of the backup that the YAML does not name are forgotten once they are
silent; they must not be switched on again as they are.

The backup is proved before anything is changed. What etcd held there before is put
aside, as /var/lib/etcd/member.before-ID. A cluster whose API answers, also on hosts
that the YAML does not name, is left alone without --i-know. After an interruption the
same command goes on. --key is for the bundle and for the backup.`,
		Example: `  kocli backup restore -f cluster.yaml --identity prod.key --bundle kocli-v1.36.3-amd64.tar
  kocli backup restore ./prod-20261125T023000Z-cp-2.tar.zst.age -f cluster.yaml --identity prod.key --bundle kocli-v1.36.3-amd64.tar`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := whichOf(w, p.keys, args)
			if err != nil {
				return err
			}
			return a.backupRestore(cmd, p, dry, workflow.RestoreOptions{Which: w, IKnow: iKnow})
		},
	}
	p.add(cmd)
	targetFlag(cmd, &w.Target)
	cmd.Flags().StringVar(&w.Identity, "identity", "", "`file` with the private key of age, AGE-SECRET-KEY-...")
	cmd.Flags().StringVar(&w.Accept, "accept-signer", "", "`ID` of a key that is trusted, where this machine does not know the cluster's")
	cmd.Flags().BoolVar(&iKnow, "i-know", false, "restore over a cluster that works: what was written since the backup is lost")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "prove the backup, show what would change, and change nothing")
	own(cmd, "accept-signer", "i-know", "dry-run")
	return cmd
}

func (a *app) backupRestore(cmd *cobra.Command, p planFlags, dry bool, ro workflow.RestoreOptions) error {
	show := a.ui()
	defer show.Close()
	raw, err := a.read()
	if err != nil {
		return err
	}
	o, err := p.optionsOf(a, cmd, raw, show)
	if err != nil {
		return err
	}
	if p.bundle == "" {
		o.Keys = nil
	}
	if o.Inventory.ExternalEtcd() != nil {
		return fault.New(fault.Usage, "restore it where it is", errors.New("the cluster's data is in an etcd that kocli does not run"))
	}
	if dry {
		pre, err := workflow.PlanRestore(cmd.Context(), o, ro)
		return a.planned(show, o, pre, err)
	}
	ro.Confirm = func(q string) error { return a.confirm(cmd.Context(), q) }
	r, err := workflow.Restore(cmd.Context(), o, ro)
	if err != nil {
		return failedRun(err, r)
	}
	return a.result(fault.OK, r, func() error {
		writeResult(a.Out, r)
		printf(a.Out, "Restored. See that all is well: kocli status -f %s\n", a.file)
		return nil
	})
}

func (a *app) recoverCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "recover --from NODE -f CLUSTER.yaml",
		Short: "Make a cluster that lost its quorum work again, from one survivor",
		Long: `Where so many control planes are gone for good that etcd has no quorum, and one is left:
its data becomes that of an etcd of one member, with revisions far above the old ones.
What was there is put aside on it. What the lost members had and it had not is lost; a
backup may be newer.

It refuses where etcd has its quorum, or another control plane of the YAML answers.
Others are added afterwards, as new ones.`,
		Example: `  kocli recover --from cp-2 -f cluster.yaml
  kocli scale -f cluster.yaml --dead cp-1,cp-3 --bundle kocli-v1.36.3-amd64.tar`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return fault.New(fault.Usage, "name it: --from NODE", errors.New("it is not said which control plane survived"))
			}
			show := a.ui()
			defer show.Close()
			o, err := a.options(cmd, "", show)
			if err != nil {
				return err
			}
			r, err := workflow.Recover(cmd.Context(), o, from, func(q string) error { return a.confirm(cmd.Context(), q) })
			if err != nil {
				if r == nil {
					return failedRun(err, nil)
				}
				return failedRun(err, &r.Result)
			}
			return a.result(fault.OK, r, func() error {
				printf(a.Out, "Cluster %s works again, with %s as the only member of etcd (%s).\n", r.Cluster, r.From, ui.Duration(r.Duration))
				if len(r.Lost) > 0 {
					printf(a.Out, "Not members any more: %s. They must not be switched on again as they are.\nTake them out of the YAML, put others in, and run:\n  kocli scale -f %s --dead %s --bundle FILE\n",
						strings.Join(r.Lost, ", "), a.file, strings.Join(r.Lost, ","))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`node` whose etcd survived")
	own(cmd, "from")
	return cmd
}

func (a *app) backupScheduleCommand() *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:   "schedule -f CLUSTER.yaml [--off]",
		Short: "Have control planes make backups by themselves",
		Long: `Installs a systemd timer on every control plane that makes backups as spec.backup says,
without this machine: same format, same signature. With sftp:// and s3://, the one
whose etcd does not lead makes each backup; in a folder every control plane keeps its
own. What the target is reached with is kept on the control planes, 0600.
kocli status shows how the last one went.`,
		Example: "  kocli backup schedule -f cluster.yaml\n  kocli backup schedule -f cluster.yaml --off",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show := a.ui()
			defer show.Close()
			o, err := a.options(cmd, "", show)
			if err != nil {
				return err
			}
			r, err := workflow.ScheduleBackups(cmd.Context(), o, off)
			if err != nil {
				return failedRun(err, r)
			}
			return a.result(fault.OK, r, func() error {
				if off {
					printf(a.Out, "The control planes make no backups by themselves: %s.\n", ui.Count(r.Changed, "change"))
					return nil
				}
				b := o.Inventory.Spec.Backup
				printf(a.Out, "Backups of cluster %s to %s, %s: %s.\n", r.Cluster, b.Target, b.Schedule, ui.Count(r.Changed, "change"))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "take the timers away")
	own(cmd, "off")
	return cmd
}
