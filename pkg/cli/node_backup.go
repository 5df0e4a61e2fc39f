package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/local"
)

// maxRequest is the largest request for a backup, in bytes.
const maxRequest = 16 << 20

// onHostBackupCommand makes a backup of the control plane that it runs on.
func (a *app) onHostBackupCommand() *cobra.Command {
	var protocol, config string
	cmd := &cobra.Command{
		Use: "backup", Short: "Make a backup of this control plane", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				return a.scheduledBackup(cmd, config)
			}
			if protocol != backup.Protocol {
				return usage(cmd, fmt.Errorf("this kocli speaks protocol %s, not %s", backup.Protocol, protocol))
			}
			var rq backup.Request
			if err := json.NewDecoder(io.LimitReader(a.In, maxRequest)).Decode(&rq); err != nil {
				return usage(cmd, errors.New("the request on stdin has another form")) // never quoted: it holds a key
			}
			o, err := rq.Options()
			if err != nil {
				return err
			}
			out := backup.Sender{W: a.Out}
			r, err := backup.Write(cmd.Context(), out, local.New(rq.Node), o)
			if err != nil {
				return err
			}
			return out.End(r)
		},
	}
	cmd.Flags().StringVar(&protocol, "protocol", "", "`version` of the stream")
	cmd.Flags().StringVar(&config, "schedule", "", "`file` that says what a scheduled backup is made with")
	return cmd
}

// scheduledBackup makes the backup that a timer asks for, and keeps how it went.
func (a *app) scheduledBackup(cmd *cobra.Command, config string) error {
	s, err := backup.ReadSchedule(config)
	if err != nil {
		return err
	}
	r := s.Run(cmd.Context(), local.New(s.Request.Node), a.now)
	kept := r.Keep("/")
	switch {
	case !r.OK:
		return errors.Join(fault.New(fault.Failure, r.Hint, errors.New(r.Error)), kept)
	case r.LeftTo != "":
		printf(a.Out, "left to %s\n", r.LeftTo)
	default:
		printf(a.Out, "%s is complete: %d bytes in %s\n", r.Receipt.Name, r.Receipt.Size, r.Target)
	}
	return kept
}

// onHostRestoreCommand makes etcd's data directory anew on the control plane that it
// runs on.
func (a *app) onHostRestoreCommand() *cobra.Command {
	var protocol string
	cmd := &cobra.Command{
		Use: "restore", Short: "Make the data of this etcd anew", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if protocol != datadir.Protocol {
				return usage(cmd, fmt.Errorf("this kocli speaks protocol %s, not %s", datadir.Protocol, protocol))
			}
			var rq datadir.Request
			if err := json.NewDecoder(io.LimitReader(a.In, maxRequest)).Decode(&rq); err != nil {
				return usage(cmd, fmt.Errorf("read the request: %w", err))
			}
			return datadir.Install(rq)
		},
	}
	cmd.Flags().StringVar(&protocol, "protocol", "", "`version` of the request")
	return cmd
}
