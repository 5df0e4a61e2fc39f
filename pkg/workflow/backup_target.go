package workflow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/state"
)

// Backups are where the backups of a cluster are, and whose signatures count.
type Backups struct {
	backup.Store
	Trust backup.Trust
}

// OpenBackups opens where the backups of a cluster are: to where it is not empty,
// else what the YAML says.
func OpenBackups(ctx context.Context, o Options, to string, keys []archive.PublicKey, accept string) (*Backups, error) {
	where := to
	if where == "" {
		where = o.Inventory.Spec.Backup.Target
	}
	if where == "" {
		return nil, fault.New(fault.Usage, "name one with --to, or set spec.backup.target in "+o.SpecFile, errors.New("it is not said where backups are kept"))
	}
	to2, err := targetOptions(ctx, o, where)
	if err != nil {
		return nil, err
	}
	t, err := target.Open(ctx, where, to2)
	if err != nil {
		return nil, err
	}
	b := &Backups{Store: backup.Store{Target: t}}
	b.Trust, err = trust(o, keys, accept)
	return b, err
}

// targetOptions resolves how a target is reached. Secrets are asked for only where
// they are used.
func targetOptions(ctx context.Context, o Options, where string) (target.Options, error) {
	spec := o.Inventory.Spec.Backup
	out := target.Options{SSH: o.SSH}
	var errs []error
	secret := func(ref v1alpha1.SecretRef, what string) string {
		v, err := o.Secrets.Resolve(ctx, ref, what)
		errs = append(errs, err)
		return v.Reveal()
	}
	path := func(p string) string {
		p, err := config.ExpandPath(p)
		errs = append(errs, err)
		return p
	}
	switch {
	case strings.HasPrefix(where, "sftp://"):
		out.Login = sshhost.Login{
			User: "root", KeyFile: path(spec.SFTP.KeyFile), Passphrase: secret(spec.SFTP.Passphrase, "passphrase of the key for backups"),
			Password: secret(spec.SFTP.Password, "password for backups"), Agent: spec.SFTP.KeyFile == "" && spec.SFTP.Password == "", AgentSocket: os.Getenv("SSH_AUTH_SOCK"),
		}
	case strings.HasPrefix(where, "s3://"):
		out.S3 = target.S3Options{
			Endpoint: spec.S3.Endpoint, Region: spec.S3.Region,
			AccessKey: secret(spec.S3.AccessKey, "access key for backups"), SecretKey: secret(spec.S3.SecretKey, "secret key for backups"),
		}
		if spec.S3.CAFile != "" {
			ca, err := os.ReadFile(path(spec.S3.CAFile))
			out.S3.CA = ca
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// backupKey is the name of the cluster's signing key in the state folder.
const backupKey = "backup"

// signingKey returns the key that signs a cluster's backups. It is made the first
// time.
func signingKey(d *state.Dir) (archive.PrivateKey, error) {
	name := d.Secret(backupKey)
	k, err := archive.ReadPrivateKey(name + ".key")
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(d.Secret(""), 0o700); err != nil {
		return k, err
	}
	if err := os.Remove(name + ".pub"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return k, err // of a key that was never whole
	}
	if _, _, _, err := archive.GenerateKey(name); err != nil {
		return k, err
	}
	return archive.ReadPrivateKey(name + ".key")
}

// trust is whose signatures count: the cluster's own key, where this machine has it,
// and those that are given.
func trust(o Options, keys []archive.PublicKey, accept string) (backup.Trust, error) {
	t := backup.Trust{Keys: keys, Accept: accept}
	own, err := archive.ReadPublicKey(state.Open(o.Home, o.Inventory.Name).Secret(backupKey) + ".pub")
	if err == nil {
		t.Keys = append(t.Keys, own)
	} else if !errors.Is(err, os.ErrNotExist) {
		return t, err
	}
	return t, nil
}

// recipients returns whom a backup is encrypted for, from flags or the YAML. Plain
// only where it is said.
func recipients(o Options, given []string, plain bool) ([]string, bool, error) {
	spec := o.Inventory.Spec.Backup
	switch {
	case plain && len(given) > 0:
		return nil, false, fault.New(fault.Usage, "leave one of the two out", errors.New("--plain does not encrypt, and there are recipients"))
	case plain || len(given) == 0 && spec.Plain:
		return nil, true, nil
	case len(given) == 0:
		given = spec.Recipients
	}
	if len(given) == 0 {
		return nil, false, fault.New(fault.Usage, "make a key pair with kocli backup keygen, and give its public key with --recipient or in spec.backup.recipients; --plain does without",
			fmt.Errorf("it is not said whom the backup is encrypted for, and it holds all secrets of cluster %s", o.Inventory.Name))
	}
	_, err := backup.Recipients(given)
	return given, false, err
}
