package pki

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// Entry is one certificate of a node: what its file has beside what is served. Its
// JSON is stable.
type Entry struct {
	Name    string    `json:"name"`
	Node    string    `json:"node,omitempty"`
	Path    string    `json:"path,omitempty"`
	Address string    `json:"address,omitempty"` // where it is served
	File    *Facts    `json:"file,omitempty"`
	Served  *Facts    `json:"served,omitempty"`
	Differs bool      `json:"differs"`          // file and served are not the same
	Expires time.Time `json:"expires,omitzero"` // the earlier of both
	Days    int       `json:"daysLeft"`
	State   State     `json:"state"`
	Problem string    `json:"problem,omitempty"` // why it could not be read
}

// State is a certificate in a word.
type State string

// The states of a certificate.
const (
	Valid    State = "valid"
	Expiring State = "expiring" // within WarnBefore
	Expired  State = "expired"
	Unread   State = "unread" // Problem says why
)

// Any is what there is: the file, or what is served.
func (e *Entry) Any() *Facts {
	if e.File != nil {
		return e.File
	}
	return e.Served
}

// Judge fills in what follows from file and served.
func (e *Entry) Judge(now time.Time) {
	e.Differs = e.File != nil && e.Served != nil && e.File.SHA256 != e.Served.SHA256
	e.State = Unread
	for _, f := range []*Facts{e.File, e.Served} {
		if f == nil {
			continue
		}
		if e.Expires.IsZero() || f.NotAfter.Before(e.Expires) {
			e.Expires = f.NotAfter
		}
		switch {
		case f.Expired(now):
			e.State = Expired
		case f.Soon(now) && e.State != Expired:
			e.State = Expiring
		case e.State == Unread:
			e.State = Valid
		}
	}
	if !e.Expires.IsZero() {
		e.Days = int(math.Floor(e.Expires.Sub(now).Hours() / 24))
	}
}

// Survey looks at a node: all files at once, all components at once. What cannot be
// read is an entry that says why; a node that has not joined has no entries.
func Survey(ctx context.Context, r host.Reader, inv *inventory.Inventory, n inventory.Node, now time.Time) ([]Entry, error) {
	want, from := files(inv, n), servers(inv, n)
	inFile, served := make([]Entry, len(want)), make([]Entry, len(from))
	absent := make([]bool, len(want))
	var wg sync.WaitGroup
	for i, f := range want {
		wg.Go(func() {
			inFile[i] = Entry{Name: f.name, Node: n.Name, Path: f.path}
			absent[i] = inFile[i].read(ctx, r, f)
		})
	}
	for i, s := range from {
		wg.Go(func() {
			served[i] = Entry{Name: s.name, Node: n.Name, Address: s.address}
			c, err := Served(ctx, r, s.address)
			if err != nil {
				served[i].Problem = "not served: " + err.Error()
				return
			}
			served[i].Served = FactsOf(c)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if absent[0] { // the CA: it has not joined
		return nil, nil
	}
	var out []Entry
	at := map[string]int{}
	for i, e := range inFile {
		_, twice := at[e.Name] // the kubelet has one of two
		if absent[i] && !want[i].needed || twice || e.Path == "" {
			continue
		}
		at[e.Name] = len(out)
		out = append(out, e)
	}
	for _, s := range served {
		if i, ok := at[s.Name]; ok {
			out[i].Address, out[i].Served = s.Address, s.Served
			if out[i].Problem == "" {
				out[i].Problem = s.Problem
			}
			continue
		}
		out = append(out, s)
	}
	for i := range out {
		out[i].Judge(now)
	}
	return out, nil
}

// read reads the certificate of a file. It reports whether there is no file. A
// kubeconfig that only names a file has no path any more: that file is listed.
func (e *Entry) read(ctx context.Context, r host.Reader, f file) (absent bool) {
	data, err := r.ReadFile(ctx, f.path)
	if errors.Is(err, fs.ErrNotExist) {
		e.Problem = "there is no such file"
		return true
	}
	if err == nil && f.conf {
		var elsewhere string
		if data, elsewhere, err = kubeadm.ClientCertificateOf(data); err == nil && elsewhere != "" {
			e.Path = ""
			return false
		}
	}
	if err != nil {
		e.Problem = err.Error()
		return false
	}
	c, err := First(data)
	if err != nil {
		e.Problem = err.Error()
		return false
	}
	e.File = FactsOf(c)
	return false
}
