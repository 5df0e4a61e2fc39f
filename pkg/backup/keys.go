package backup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

const hintRecipient = "make a key pair with: kocli backup keygen; its public key, age1..., is the recipient"

// Recipients parses public keys of age, one of them in each string.
func Recipients(keys []string) ([]age.Recipient, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	out, err := age.ParseRecipients(strings.NewReader(strings.Join(keys, "\n")))
	if err != nil {
		return nil, fault.New(fault.Usage, hintRecipient, fmt.Errorf("recipients of the backup: %w", err))
	}
	return out, nil
}

// RecipientsFile reads a file of public keys, one a line.
func RecipientsFile(path string) ([]string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fault.New(fault.Usage, hintRecipient, fmt.Errorf("read recipients: %w", err))
	}
	var out []string
	for l := range strings.Lines(string(data)) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return nil, fault.New(fault.Usage, hintRecipient, fmt.Errorf("no recipient is in %s", path))
	}
	_, err = Recipients(out)
	return out, err
}

// Identities reads a file of private keys; none where path is empty.
func Identities(path string) ([]age.Identity, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fault.New(fault.BackupKey, "name the file that kocli backup keygen, or age-keygen, wrote", fmt.Errorf("read the private key: %w", err))
	}
	defer func() { _ = f.Close() }() // only read
	out, err := age.ParseIdentities(f)
	if err != nil { // which never quotes a key
		return nil, fault.New(fault.BackupKey, "name the file that kocli backup keygen, or age-keygen, wrote", fmt.Errorf("no private key of age is in %s", path))
	}
	return out, nil
}

// GenerateIdentity writes a new private key, mode 0600, and its public key to files
// that must not exist, and returns the public key.
func GenerateIdentity(private, public string) (recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	recipient = id.Recipient().String()
	if err := createFile(private, 0o600, fmt.Sprintf("# public key: %s\n%s\n", recipient, id)); err != nil {
		return "", err
	}
	if err := createFile(public, 0o644, recipient+"\n"); err != nil {
		return "", errors.Join(err, os.Remove(private)) // made a moment ago, and used by nobody
	}
	return recipient, nil
}

func createFile(path string, mode os.FileMode, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fault.New(fault.Usage, "keys are never overwritten: choose another name with --out", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// Trust is whose signature a backup has to have.
type Trust struct {
	Keys []archive.PublicKey
	// Accept is the ID of a key that is trusted although none was given; for a machine
	// that never saw the cluster.
	Accept string
}

// Check returns nil when key is trusted. The error carries fault.BackupKey.
func (t Trust) Check(key archive.PublicKey) error {
	if t.Accept != "" && t.Accept == key.ID() {
		return nil
	}
	var known []string
	for _, k := range t.Keys {
		if k.ID() == key.ID() {
			return nil
		}
		known = append(known, k.ID())
	}
	if len(known) == 0 {
		return fault.New(fault.BackupKey, "if you know that it is the cluster's: --accept-signer "+key.ID()+"; or give its public key: --key FILE",
			fmt.Errorf("this machine knows no key of the cluster's, and the backup is signed by %s", key.ID()))
	}
	return fault.New(fault.BackupKey, "if you trust that key too: --accept-signer "+key.ID(),
		fmt.Errorf("the backup is signed by %s, not by %s", key.ID(), strings.Join(known, ", ")))
}
