package sshhost

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/kocli/kocli/pkg/fault"
)

// ErrHostKey is wrapped by every refusal of a host key.
var ErrHostKey = errors.New("host key refused")

// HintOf returns the hint of a refused host key.
func HintOf(err error) string { return fault.HintOf(err) }

// KnownHosts checks host keys against files in OpenSSH's format. A key that is
// not known is offered to Accept; one that differs from a known key is refused
// always.
type KnownHosts struct {
	// File receives newly accepted keys; created with mode 0600.
	File string
	// More files to read, such as ~/.ssh/known_hosts. Missing ones are skipped.
	More []string
	// Accept decides about a first contact; nil refuses.
	Accept func(host string, key ssh.PublicKey) bool

	mu     sync.Mutex
	db     ssh.HostKeyCallback // of the files as they were when they were read last
	loaded []loadedFile
}

// loadedFile tells whether a file has changed.
type loadedFile struct {
	name     string
	size     int64
	modified time.Time
}

// check returns the callback for one address, and the key algorithms to ask the
// server for: those of the keys that are already known, because a server that
// shows another of its keys would look like an impostor.
func (k *KnownHosts) check(addr string) (ssh.HostKeyCallback, []string) {
	return func(hostname string, remote net.Addr, key ssh.PublicKey) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		db, err := k.load()
		if err != nil {
			return err
		}
		err = db(hostname, remote, key)
		var ke *knownhosts.KeyError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &ke) && len(ke.Want) == 0:
			return k.first(hostname, key)
		case errors.As(err, &ke):
			w := ke.Want[0]
			return fault.New(fault.Unreachable,
				fmt.Sprintf("if the host was reinstalled, remove the old key (%s line %d) and run again: ssh-keygen -f %s -R %s",
					w.Filename, w.Line, w.Filename, knownhosts.Normalize(hostname)),
				fmt.Errorf("%w: %s shows %s, which is not the key on record: someone may be in between", ErrHostKey, hostname, ssh.FingerprintSHA256(key)))
		}
		return fmt.Errorf("%w: %w", ErrHostKey, err)
	}, k.algorithms(addr)
}

// Lines returns the lines of the files that name the host of a URL, for another
// machine that is to trust the same keys. An error where there are none.
func (k *KnownHosts) Lines(rawURL string) ([]byte, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	k.mu.Lock()
	defer k.mu.Unlock()
	db, err := k.load()
	if err != nil {
		return nil, err
	}
	var ke *knownhosts.KeyError
	if !errors.As(db(addr, &net.TCPAddr{}, noKey{}), &ke) || len(ke.Want) == 0 {
		return nil, fmt.Errorf("%w: no key of %s is known", ErrHostKey, addr)
	}
	var out bytes.Buffer
	for _, w := range ke.Want {
		fmt.Fprintln(&out, knownhosts.Line([]string{knownhosts.Normalize(addr)}, w.Key))
	}
	return out.Bytes(), nil
}

// load reads the files, where they are not what they were: there may be hundreds
// of hosts, and as many logins. The lock is held.
func (k *KnownHosts) load() (ssh.HostKeyCallback, error) {
	var files []string
	var now []loadedFile
	for _, f := range append([]string{k.File}, k.More...) {
		if i, err := os.Stat(f); f != "" && err == nil {
			files, now = append(files, f), append(now, loadedFile{f, i.Size(), i.ModTime()})
		}
	}
	if k.db != nil && slices.Equal(now, k.loaded) {
		return k.db, nil
	}
	db, err := knownhosts.New(files...)
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w", err)
	}
	k.db, k.loaded = db, now
	return db, nil
}

// first decides about a host that is not on record.
func (k *KnownHosts) first(hostname string, key ssh.PublicKey) error {
	if k.Accept == nil || !k.Accept(hostname, key) {
		return fault.New(fault.Unreachable,
			"compare the fingerprint on the host (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run again with --accept-new-host-keys",
			fmt.Errorf("%w: %s is not in known_hosts; it shows %s %s", ErrHostKey, hostname, key.Type(), ssh.FingerprintSHA256(key)))
	}
	if k.File == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(k.File), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("record host key: %w", err)
	}
	_, err = fmt.Fprintln(f, knownhosts.Line([]string{knownhosts.Normalize(hostname)}, key))
	return errors.Join(err, f.Close())
}

// algorithms asks the database which keys it holds for addr, by showing it one
// that cannot be there.
func (k *KnownHosts) algorithms(addr string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	db, err := k.load()
	if err != nil {
		return nil
	}
	var ke *knownhosts.KeyError
	if !errors.As(db(addr, &net.TCPAddr{}, noKey{}), &ke) {
		return nil
	}
	if len(ke.Want) == 0 { // a first contact: the key that people compare comes first
		return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	var out []string
	for _, w := range ke.Want {
		if t := w.Key.Type(); t == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, t)
		}
	}
	return out
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return bytes.Repeat([]byte{0}, 4) }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }
