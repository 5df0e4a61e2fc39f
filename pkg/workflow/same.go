package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// caKey is what the first moments of kubeadm init leave, and no join of a worker.
const caKey = "/etc/kubernetes/pki/ca.key"

// apiServerManifest says which version a control plane runs.
const apiServerManifest = kubeadm.APIServerManifestPath

// sameCluster refuses what create would do harm with: a new cluster where hosts
// belong to one already, and another version of Kubernetes than the one that
// runs.
func (s *Session) sameCluster(ctx context.Context, c *Cluster) error {
	facts, seed := c.Facts, c.Seed.Name
	if !slices.Contains(facts[seed].Kubernetes, caKey) {
		for _, n := range s.inv.Nodes {
			k := slices.DeleteFunc(slices.Clone(facts[n.Name].Kubernetes), func(f string) bool { return strings.HasPrefix(f, path.Dir(caKey)) })
			if len(k) > 0 {
				return fault.New(fault.Preflight,
					fmt.Sprintf("if %s is the cluster that you mean, list its control plane first in spec.hosts; if nothing of it is needed: kocli reset", n.Name),
					fmt.Errorf("%s would start a new cluster, and %s belongs to one already (%s)", seed, n.Name, k[0]))
			}
		}
		return nil
	}
	r, err := s.hosts.Look(ctx, seed)
	if err != nil {
		return err
	}
	if err := s.sameName(ctx, r); err != nil {
		return err
	}
	manifest, err := r.ReadFile(ctx, apiServerManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // init has not come that far
	}
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`(?m)^\s*image:\s*\S+/kube-apiserver:(v[0-9.]+\S*)`).FindSubmatch(manifest)
	if m != nil && string(m[1]) != s.inv.Version() {
		return fault.New(fault.Usage, fmt.Sprintf("to bring the cluster there: kocli upgrade -f %s --bundle FILE; or set spec.kubernetes.version to %s", s.o.SpecFile, m[1]),
			fmt.Errorf("the cluster runs Kubernetes %s, and the YAML asks for %s", m[1], s.inv.Version()))
	}
	return s.sameKubelets(ctx, r)
}

// sameKubelets refuses a cluster whose upgrade did not come to its end: programs would
// be replaced on nodes that are not drained.
func (s *Session) sameKubelets(ctx context.Context, r host.Reader) error {
	c, err := s.access.Look(ctx, r)
	if err != nil {
		return nil //nolint:nilerr // as for the name
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil //nolint:nilerr // as for the name
	}
	var behind []string
	for _, n := range nodes {
		v := n.Status.NodeInfo.KubeletVersion
		if _, listed := s.inv.Node(n.Name); listed && v != "" && v != s.inv.Version() {
			behind = append(behind, n.Name+" ("+v+")")
		}
	}
	if len(behind) == 0 {
		return nil
	}
	return fault.New(fault.Usage, fmt.Sprintf("let it come to its end first: kocli upgrade -f %s --bundle FILE", s.o.SpecFile),
		fmt.Errorf("an upgrade to %s is under way: kubelets of another version are on %s", s.inv.Version(), strings.Join(behind, ", ")))
}

// sameName refuses a control plane that belongs to a cluster of another name. One
// that does not answer is found out about later.
func (s *Session) sameName(ctx context.Context, r host.Reader) error {
	c, err := s.access.Look(ctx, r)
	if err != nil {
		return nil //nolint:nilerr // init has not come that far, or does not answer: its step says so
	}
	conf, err := c.ConfigMap(ctx, "kube-system", "kubeadm-config")
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	m := regexp.MustCompile(`(?m)^clusterName:\s*"?([^"\s]+)"?\s*$`).FindStringSubmatch(conf["ClusterConfiguration"])
	if m == nil || m[1] == s.inv.Name {
		return nil
	}
	return fault.New(fault.Preflight, "if that is the cluster that you mean, set metadata.name to "+m[1]+"; if nothing of it is needed, reset it with its own YAML: kocli reset",
		fmt.Errorf("%s is a control plane of the cluster %s, not of %s", r.Name(), m[1], s.inv.Name))
}
