package kubeadm

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/inventory"
)

// JoinPart is a part of the join of a control plane that runs as a kubeadm of
// its own. kubeadm's phases share nothing but what is on the disk and in the
// cluster, and each invocation discovers the cluster anew, so that they may be
// told apart with --skip-phases.
type JoinPart int

// The parts, in their order, which is kubeadm's own.
const (
	// JoinPrepare checks the host, and makes its certificates and kubeconfigs. It
	// writes on this host only.
	JoinPrepare JoinPart = iota
	// JoinMember starts the kubelet and has the host's etcd become a voting
	// member. The manifests and the kubelet go with it, and not before it: an API
	// server that waits for its etcd crashes, and a kubelet that waits for its API
	// server backs off, both up to minutes.
	JoinMember
	// JoinFinish waits until the kubelet has registered the node, marks it as a
	// control plane, and waits for the control plane's health.
	JoinFinish
)

// The phases of kubeadm join that are told apart.
const (
	phaseCheckEtcd    = "check-etcd"
	phaseKubeletStart = "kubelet-start"
	phaseManifests    = "control-plane-prepare/control-plane"
)

// phases are the names of a part's phases: the same from 1.34 to 1.37, but for
// the etcd phase of old behind the feature gate ControlPlaneKubeletLocalMode,
// which 1.36 has no more. kubeadm refuses a name that it does not know.
func (p JoinPart) phases(v *version.Version) []string {
	switch p {
	case JoinPrepare:
		return []string{"preflight", "control-plane-prepare/download-certs", "control-plane-prepare/certs", "control-plane-prepare/kubeconfig"}
	case JoinMember:
		out := []string{phaseManifests, phaseCheckEtcd, phaseKubeletStart, "etcd-join"}
		if v.LessThan(version.MustParseGeneric("1.36.0")) {
			out = append(out, "control-plane-join/etcd")
		}
		return out
	}
	return []string{"kubelet-wait-bootstrap", "control-plane-join/mark-control-plane", "wait-control-plane"}
}

// JoinSkips returns the phases that kubeadm join has to skip, so that only these
// parts run; the kubelet is started, with the token of this join, where kubelet
// says so, whatever the parts. Phases that the user has it skip are skipped too.
func JoinSkips(inv *inventory.Inventory, kubelet bool, parts ...JoinPart) []string {
	v := version.MustParseGeneric(inv.Version()) // validated before
	var out []string
	for _, p := range []JoinPart{JoinPrepare, JoinMember, JoinFinish} {
		for _, name := range p.phases(v) {
			run := slices.Contains(parts, p)
			if name == phaseKubeletStart {
				run = kubelet
			}
			if !run {
				out = append(out, name)
			}
		}
	}
	if own, ok := inv.Spec.Kubernetes.Overrides.JoinConfiguration["skipPhases"].([]any); ok {
		for _, o := range own {
			if name, ok := o.(string); ok && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
