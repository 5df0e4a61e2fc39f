package upgrade

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/preflight"
)

// State is what is known of a cluster before a hop. What is absent is not judged.
type State struct {
	Hop          Hop
	Inventory    *inventory.Inventory // at the version that the hop leads to
	Nodes        []Node
	Etcd         []Member
	Certificates []Certificate
	Deprecated   []Request
	Written      []Written
	Held         []Held
	// Moved says that an earlier hop of the same run has just moved pods.
	Moved bool
	Bare  []string // pods that nobody makes again: "default/debug on w-1"
	// Forced says that pods which a disruption budget holds are deleted in the end.
	Forced   bool
	Removals Removals
	// KubeletFlags are the flags that kubelets are started with, by node, without their
	// dashes.
	KubeletFlags map[string][]string
	Conflict     error // of the versions in the bundle
	Now          time.Time
	// Plan is what kubeadm of the version says against the hop; empty where it says
	// nothing, or was not asked yet.
	Plan string
	// Unknown is why what a gate looks at could not be looked at, by the gate's name.
	Unknown map[string]error
}

// Node is a node of the cluster.
type Node struct {
	Name    string
	Listed  bool // stands in the YAML
	Ready   bool
	Reason  string // why it is not
	Kubelet string // version
	Ours    bool   // an upgrade took it out of service
	// Cordoned says that it takes no pods.
	Cordoned bool
}

// Member is a member of etcd.
type Member struct {
	Name        string
	Err         string // why it is not healthy; empty where it is
	Size, Quota int64  // bytes; a quota of zero is not known
}

// Certificate is one on a control plane.
type Certificate struct {
	Node, Path string
	CA         bool
	Expires    time.Time
}

// Request is an API that somebody has asked for since an API server started, and that
// a version takes away.
type Request struct {
	API     string // "storage.k8s.io/v1beta1 volumeattributesclasses"
	Removed string // minor: "1.37"
}

// Written are objects that somebody wrote through a version of an API that goes.
type Written struct {
	API     string
	Removed string
	Objects []string // some of them
	Count   int
	// Release is the Helm release in whose manifest they stand; empty where they are in
	// the cluster.
	Release string
}

// Held is a pod that a disruption budget holds on a node.
type Held struct{ Node, Reason string }

// Gate is one named check.
type Gate struct {
	Name string // kebab-case, unique
	Doc  string // one sentence on what it refuses and why
	Run  func(State) []preflight.Finding
}

// Gates returns all checks of a cluster, in their order. Their names are public.
func Gates() []Gate {
	return []Gate{
		{"nodes-ready", "Every node is ready: one that is not would not come back, or hide who is to blame.", nodesReady},
		{"etcd-healthy", "Every member of etcd is healthy and has space: an upgrade writes, and takes members away one by one.", etcdHealthy},
		{"certificates-valid", "No certificate has expired, and no CA is about to: kubeadm renews certificates, and no CA.", certificatesValid},
		{"version-skew", "No kubelet would be more than three minors older than the API servers.", versionSkew},
		{"removed-apis", "Nobody uses an API that the version does not serve any more.", removedAPIs},
		{"disruption-budgets", "No disruption budget allows nothing: its pods would hold the drain.", disruptionBudgets},
		{"bare-pods", "No pod stands alone: the drain deletes it, and nobody makes it again.", barePods},
		{"feature-gates", "No component is told of a feature gate that the version does not know: it would not start.", featureGates},
		{"removed-flags", "No component is told of a flag that the version does not know: it would not start.", removedFlags},
		{"components-fit", "The versions in the bundle are not known to fail together.", componentsFit},
		{PlanGate, "kubeadm of the version says nothing against it either (kubeadm upgrade plan).", kubeadmPlan},
	}
}

// PlanGate is the gate that needs kubeadm of the version, and so comes later than the
// others: once content is on the hosts, and before anything of the cluster is changed.
const PlanGate = "kubeadm-plan"

// Names returns the names of all gates.
func Names() []string {
	var out []string
	for _, g := range Gates() {
		out = append(out, g.Name)
	}
	return out
}

// Judge makes all checks. An error can be made a warning by the name of its check.
// What could not be looked at is refused like what is wrong: the others are judged all
// the same.
func Judge(s State, ignore []string) []preflight.Finding {
	var all []preflight.Finding
	for _, g := range Gates() {
		found := g.Run(s)
		if err := s.Unknown[g.Name]; err != nil {
			found = append(found, refuse("", "mend the cause; or go without this check: --ignore "+g.Name, "it cannot be judged: %v", err))
		}
		for _, f := range found {
			f.Check = g.Name
			if f.Level == preflight.Error && slices.Contains(ignore, g.Name) {
				f.Level, f.Ignored = preflight.Warning, true
			}
			all = append(all, f)
		}
	}
	return all
}

func refuse(node, fix, format string, args ...any) preflight.Finding {
	return preflight.Finding{Node: node, Level: preflight.Error, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func warn(node, fix, format string, args ...any) preflight.Finding {
	f := refuse(node, fix, format, args...)
	f.Level = preflight.Warning
	return f
}

// nodesReady is lenient where a hop goes on: a node that is not ready may be the one
// that was worked on.
func nodesReady(s State) []preflight.Finding {
	var out []preflight.Finding
	for _, n := range s.Nodes {
		if n.Listed && n.Cordoned && !n.Ours {
			out = append(out, warn(n.Name, "kubectl uncordon "+n.Name+" where it was forgotten", "takes no pods, and not because of an upgrade: it is upgraded, and stays so"))
		}
		switch {
		case n.Ready:
		case s.Hop.Begun || n.Ours:
			out = append(out, warn(n.Name, "", "is not ready, as an upgrade that was interrupted may have left it: %s", n.Reason))
		default:
			out = append(out, refuse(n.Name, "kocli status shows more; bring it back, or take it out: kocli node remove "+n.Name, "is not ready: %s", n.Reason))
		}
	}
	return out
}

// etcdFull is the part of its quota from which on a member has too little space.
const etcdFull = 0.8

func etcdHealthy(s State) []preflight.Finding {
	var out []preflight.Finding
	healthy := 0
	for _, m := range s.Etcd {
		if m.Err == "" {
			healthy++
		}
	}
	quorum := healthy > len(s.Etcd)/2
	for _, m := range s.Etcd {
		if m.Err != "" {
			f := refuse(m.Name, "kocli status shows more; see the log: kocli exec "+m.Name+" --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_etcd-*/*/*.log'", "its member of etcd is not healthy: %s", m.Err)
			if s.Hop.Begun && quorum && len(s.Etcd) > 1 {
				f.Level = preflight.Warning
			}
			out = append(out, f)
			continue
		}
		if m.Quota > 0 && float64(m.Size) > etcdFull*float64(m.Quota) {
			out = append(out, refuse(m.Name, "compact and defragment it, or raise quota-backend-bytes in spec.kubernetes.etcd.extraArgs",
				"its member of etcd has %d MiB of the %d MiB that it may have: what is full refuses writes", m.Size>>20, m.Quota>>20))
		}
	}
	return out
}

// caMargin is how long a CA has to be valid still, and a certificate to be passed
// over: kubeadm renews it.
const caMargin = 30 * 24 * time.Hour

func certificatesValid(s State) []preflight.Finding {
	var out []preflight.Finding
	for _, c := range s.Certificates {
		day := c.Expires.UTC().Format(time.DateOnly)
		switch {
		case !c.Expires.After(s.Now):
			out = append(out, refuse(c.Node, "renew it first: kocli exec "+c.Node+" --root -- kubeadm certs renew all", "%s expired on %s", c.Path, day))
		case c.CA && c.Expires.Before(s.Now.Add(caMargin)):
			out = append(out, refuse(c.Node, "rotate the CA first: see Kubernetes' own guide to manual rotation of CA certificates", "the CA %s expires on %s, and an upgrade does not renew it", c.Path, day))
		}
	}
	return out
}

// maxSkew is how many minors a kubelet may be older than the API servers.
const maxSkew = 3

func versionSkew(s State) []preflight.Finding {
	to, err := parse(s.Hop.To)
	if err != nil {
		return nil
	}
	var out []preflight.Finding
	for _, n := range s.Nodes {
		have, err := parse(n.Kubelet)
		if err != nil || n.Listed {
			continue
		}
		fix := "put it into the YAML, so that it is upgraded too; or take it out: kocli node remove " + n.Name
		if older := minors(have, to); older > maxSkew {
			out = append(out, refuse(n.Name, fix, "is not in the YAML, and its kubelet %s would be %d minors older than the API servers; %d are supported", n.Kubelet, older, maxSkew))
		} else if have.LessThan(to) {
			out = append(out, warn(n.Name, fix, "is not in the YAML and stays at %s", n.Kubelet))
		}
	}
	return out
}

// minors is how many minors a is older than b.
func minors(a, b *version.Version) int { return int(b.Minor()) - int(a.Minor()) }

// removedAPIs refuses what is asked for and goes on this hop. An object's last writer
// may be long gone, so that is a warning.
func removedAPIs(s State) []preflight.Finding {
	var out []preflight.Finding
	for _, r := range s.Deprecated {
		if goneBy(r.Removed, s.Hop.To) {
			out = append(out, refuse("", "find who asks (an audit log has annotations k8s.io/deprecated) and update it; API servers count since they started",
				"%s is asked for, and Kubernetes %s does not serve it any more", r.API, r.Removed))
		}
	}
	for _, w := range s.Written {
		if w.Release != "" {
			out = append(out, warn("", "upgrade the release to a chart that uses the newer version first: Helm fails where it would send the old one again",
				"the Helm release %s holds %s of %s, which Kubernetes %s does not serve any more", w.Release, strings.Join(w.Objects, ", "), w.API, w.Removed))
			continue
		}
		out = append(out, warn("", "write them again with the newer version of the API before charts and manifests are applied the next time",
			"%d objects were last written through %s, which Kubernetes %s does not serve any more: %s", w.Count, w.API, w.Removed, strings.Join(w.Objects, ", ")))
	}
	return out
}

func disruptionBudgets(s State) []preflight.Finding {
	var out []preflight.Finding
	for _, h := range s.Held {
		f := refuse(h.Node, "let it allow a disruption (more replicas, or another budget: kubectl get pdb -A), or give a time after which its pods are deleted: --force-after DURATION", "%s", h.Reason)
		if s.Forced || s.Hop.Begun || s.Moved { // pods may not be ready yet where they went; the drain waits for them
			f.Level = preflight.Warning
		}
		out = append(out, f)
	}
	return out
}

// barePods warns: such a pod may be one that somebody forgot.
func barePods(s State) []preflight.Finding {
	if len(s.Bare) == 0 {
		return nil
	}
	return []preflight.Finding{warn("", "save what is needed of them, or have a Deployment or StatefulSet make them",
		"pods that nobody makes again, and that the drain deletes: %s", strings.Join(s.Bare, ", "))}
}

// featureGates looks at what the YAML tells the components.
func featureGates(s State) []preflight.Finding {
	if s.Inventory == nil {
		return nil
	}
	var out []preflight.Finding
	look := func(where string, gates []string) {
		for _, g := range gates {
			if minor, gone := s.Removals.gone(g, s.Hop.To); gone {
				out = append(out, refuse("", "take it out of "+where+", and run kocli create once with the version that runs", "%s names the feature gate %s, which Kubernetes %s does not know any more", where, g, minor))
			}
		}
	}
	k := s.Inventory.Spec.Kubernetes
	for where, o := range map[string]map[string]any{"spec.kubernetes.overrides.kubelet": k.Overrides.Kubelet, "spec.kubernetes.overrides.kubeProxy": k.Overrides.KubeProxy} {
		look(where, keys(o["featureGates"]))
	}
	for _, n := range s.Inventory.Nodes {
		look("the kubelet of spec.hosts "+n.Name, keys(n.KubeletOverride["featureGates"]))
	}
	for _, c := range told(k) {
		var gates []string
		for _, g := range strings.Split(c.args["feature-gates"], ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(g), "=")
			gates = append(gates, name)
		}
		look(c.where, gates)
	}
	slices.SortFunc(out, func(a, b preflight.Finding) int { return strings.Compare(a.Message, b.Message) })
	return out
}

// component is a component of the control plane, and the flags that the YAML gives it.
type component struct {
	program, where string
	args           map[string]string
}

func told(k v1alpha1.Kubernetes) []component {
	const at = "spec.kubernetes."
	return []component{
		{"kube-apiserver", at + "apiServer.extraArgs", k.APIServer.ExtraArgs},
		{"kube-controller-manager", at + "controllerManager.extraArgs", k.ControllerManager.ExtraArgs},
		{"kube-scheduler", at + "scheduler.extraArgs", k.Scheduler.ExtraArgs},
	}
}

// removedFlags looks at what the YAML tells the control plane, and at what kubelets are started
// with.
func removedFlags(s State) []preflight.Finding {
	var out []preflight.Finding
	if s.Inventory != nil {
		for _, c := range told(s.Inventory.Spec.Kubernetes) {
			for _, name := range slices.Sorted(maps.Keys(c.args)) {
				if minor, gone := s.Removals.flagGone(c.program, name, s.Hop.To); gone {
					out = append(out, refuse("", "take it out of "+c.where, "%s has --%s, which %s of Kubernetes %s does not know any more", c.where, name, c.program, minor))
				}
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(s.KubeletFlags)) {
		for _, name := range s.KubeletFlags[node] {
			if minor, gone := s.Removals.flagGone("kubelet", name, s.Hop.To); gone {
				out = append(out, refuse(node, "take it out of /var/lib/kubelet/kubeadm-flags.env or /etc/default/kubelet on "+node+", and out of the YAML where it stands there",
					"its kubelet is started with --%s, which Kubernetes %s does not know any more", name, minor))
			}
		}
	}
	return out
}

// keys are the names in an object of a YAML.
func keys(v any) []string {
	var out []string
	if m, ok := v.(map[string]any); ok {
		for k := range m {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func kubeadmPlan(s State) []preflight.Finding {
	if s.Plan == "" {
		return nil
	}
	return []preflight.Finding{refuse("", "mend what it says, then run the same command again. Content is on the hosts by now, and nothing of the cluster was changed", "%s", s.Plan)}
}

func componentsFit(s State) []preflight.Finding {
	if s.Conflict == nil {
		return nil
	}
	return []preflight.Finding{refuse("", "kocli bundle versions shows what fits; build the bundle again", "%v", s.Conflict)}
}
