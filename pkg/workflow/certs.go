package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/pki"
)

// CertsReport is every certificate of a cluster. Its JSON is stable.
type CertsReport struct {
	Cluster      string      `json:"cluster"`
	Certificates []pki.Entry `json:"certificates"`
	// Problems are certificates that have ended or will within 30 days, and those that
	// are served and not those of the files, in a line each.
	Problems []string `json:"problems"`
	// Unread are hosts and kinds that could not be looked at.
	Unread []string `json:"unread"`
}

// CertsList looks at the certificates of all nodes, of the endpoint, and of webhooks
// where the API answers. Hosts that do not answer are an error, beside what the
// others have.
func CertsList(ctx context.Context, o Options) (*CertsReport, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	return s.certsList(ctx)
}

func (s *Session) certsList(ctx context.Context) (*CertsReport, error) {
	rep := &CertsReport{Cluster: s.inv.Name, Certificates: []pki.Entry{}, Problems: []string{}, Unread: []string{}}
	all, err := s.pkiSurvey(ctx, s.inv.Nodes)
	rep.Certificates = append(rep.Certificates, all...)
	if err == nil && len(all) == 0 {
		return nil, noCluster(s.o)
	}
	bundles, berr := s.caBundles(ctx)
	if berr != nil {
		rep.Unread = append(rep.Unread, "webhooks and aggregated APIs: "+firstOf(berr))
	}
	rep.Certificates = append(rep.Certificates, bundles...)
	rep.Problems = append(rep.Problems, certProblems(rep.Certificates)...)
	return rep, err
}

// pkiSurvey looks at the certificates of nodes, many at once.
func (s *Session) pkiSurvey(ctx context.Context, nodes []inventory.Node) ([]pki.Entry, error) {
	found, errs := make([][]pki.Entry, len(nodes)), make([]error, len(nodes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAnswers)
	for i, n := range nodes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r, err := s.hosts.Look(ctx, n.Name)
			if err == nil {
				found[i], err = pki.Survey(ctx, r, s.inv, n, s.o.Clock.Now())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return s.endpointOnce(slices.Concat(found...)), errors.Join(errs...)
}

// endpointOnce keeps one entry for each certificate that is shown at the endpoint,
// whoever saw it: it has to be that of an API server's file. Those of an endpoint that
// is on each node itself stay apart.
func (s *Session) endpointOnce(all []pki.Entry) []pki.Entry {
	files := map[string]*pki.Facts{}
	for _, e := range all {
		if e.Name == "apiserver" && e.File != nil {
			files[e.File.SHA256] = e.File
		}
	}
	seen := map[string]bool{}
	var out []pki.Entry
	for _, e := range all {
		if e.Name != pki.EndpointName {
			out = append(out, e)
			continue
		}
		key := e.Problem
		if e.Served != nil {
			key = e.Served.SHA256
			e.Differs = len(files) > 0 && files[key] == nil
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		out = append(out, e)
	}
	return out
}

// caBundles lists the CAs that the API server has for others.
func (s *Session) caBundles(ctx context.Context) ([]pki.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var bundles []kube.CABundle
	err := errors.Join(s.throughControlPlane(ctx, func(r host.Reader) error {
		c, err := s.access.Look(ctx, r)
		if err != nil {
			return err
		}
		bundles, err = c.CABundles(ctx)
		return err
	})...)
	var out []pki.Entry
	for _, b := range bundles {
		certs, err := pki.All(b.PEM)
		if err != nil {
			out = append(out, pki.Entry{Name: b.Name, State: pki.Unread, Problem: err.Error()})
			continue
		}
		for _, c := range certs {
			e := pki.Entry{Name: b.Name, File: pki.FactsOf(c)}
			e.Judge(s.o.Clock.Now())
			out = append(out, e)
		}
	}
	return out, err
}

// certProblems says what there is to do something about, in a line each.
func certProblems(all []pki.Entry) []string {
	var out []string
	for _, e := range all {
		where := e.Name
		if e.Node != "" {
			where += " on " + e.Node
		}
		switch {
		case e.State == pki.Expired:
			out = append(out, fmt.Sprintf("certificate %s ended on %s", where, e.Expires.Format(time.DateOnly)))
		case e.State == pki.Expiring:
			out = append(out, fmt.Sprintf("certificate %s ends in %d days, on %s", where, e.Days, e.Expires.Format(time.DateOnly)))
		case e.Differs && e.Name == pki.EndpointName:
			out = append(out, fmt.Sprintf("certificate %s: what is shown at %s is that of no API server of this cluster", where, e.Address))
		case e.Differs:
			out = append(out, fmt.Sprintf("certificate %s: what is served at %s is not what the file has", where, e.Address))
		case e.State == pki.Unread && e.Problem != "":
			out = append(out, fmt.Sprintf("certificate %s: %s", where, e.Problem))
		}
	}
	return out
}

// expiringTimeout is how long a status waits for certificates, after all else: a host
// that is down would take as long as its SSH.
const expiringTimeout = 5 * time.Second

// expiring looks at the control planes for status, and says what ends within 30 days.
// Those that do not answer are status's own to tell.
func (s *Session) expiring(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, expiringTimeout)
	defer cancel()
	all, err := s.pkiSurvey(ctx, s.inv.ControlPlanes())
	if err != nil && len(all) == 0 {
		return nil
	}
	return certProblems(slices.DeleteFunc(all, func(e pki.Entry) bool { return e.State != pki.Expired && e.State != pki.Expiring }))
}

// firstOf is an error in a line.
func firstOf(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// onlyPlanes refuses names of certificates where kubeadm has none of them, and says
// who renews the kubelets'.
func onlyPlanes(names []string, all bool) ([]pki.Managed, error) {
	if all && len(names) > 0 {
		return nil, fault.New(fault.Usage, "leave out one of both", errors.New("names are given, and --all as well"))
	}
	if all {
		return pki.AllManaged(), nil
	}
	known := strings.Join(pki.Names(pki.AllManaged()), ", ")
	if len(names) == 0 {
		return nil, fault.New(fault.Usage, "kocli certs renew --all; or some of: "+known, errors.New("no certificate is named"))
	}
	for _, n := range names {
		if strings.HasPrefix(n, "kubelet") {
			return nil, fault.New(fault.Usage, "where a kubelet could not: kocli certs rescue", fmt.Errorf("%s: kubelets renew their client certificates by themselves, and make their serving certificates", n))
		}
	}
	want, err := pki.Select(names)
	if err != nil {
		return nil, fault.New(fault.Usage, "there are: "+known, err)
	}
	return want, nil
}

// missing reports whether err says that there is no file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
