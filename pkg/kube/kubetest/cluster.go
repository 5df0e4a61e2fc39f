package kubetest

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// Cluster is an API with the controllers that a test needs, and the kubeadm that
// makes it.
type Cluster struct {
	*API
	// Etcd is the etcd that control planes become members of.
	Etcd *Etcd
	// Phase is called before a phase of kubeadm join, where it is set.
	Phase func(node, phase string)

	// Broken reports whether a static pod of a control plane, or the kubelet of a node,
	// does not come up at a version; nil means that all do.
	Broken func(node, component, version string) bool
	// Silent reports whether the kubelet of a node ends at once at a version, so that the
	// cluster hears nothing of it; nil means that none does.
	Silent func(node, version string) bool
	// Plan is what kubeadm upgrade plan refuses with; empty means that it does not.
	Plan string

	mu    sync.Mutex
	hosts []*hosttest.Machine // that have a control plane
	// kubelets are the versions of those that run, by node.
	kubelets map[string]string
	config   string // what kubeadm init was told, as ClusterConfiguration
	// halt is how many more of kubeadm's effects happen before the connection is
	// cut, as when a host loses its power; negative means all.
	halt int
}

// Corefile is what kubeadm leaves for CoreDNS.
const Corefile = `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
}
`

// NewCluster starts an API whose DaemonSets run on every node at once, and
// whose pods say that the network works.
func NewCluster(wire *hosttest.Wire) *Cluster {
	c := &Cluster{API: New(wire), Etcd: &Etcd{wire: wire}, halt: -1, kubelets: map[string]string{}}
	c.React = c.control
	c.Refresh = c.mirror
	c.Pod = func(pod Object, p, _ string) (string, int) {
		node, _ := pod["spec"].(Object)["nodeName"].(string)
		if p == "/node" {
			return node, 200
		}
		return fmt.Sprintf(`{"node":%q,"results":[{"what":"resolve kubernetes.default"}]}`, node), 200
	}
	return c
}

// control does what the controllers and kubelets of a cluster do.
func (c *Cluster) control(resource, namespace, name string, o Object) {
	if resource == "nodes" && o != nil {
		for _, ds := range c.List("daemonsets", "") {
			m := metadata(ds)
			c.control("daemonsets", m["namespace"].(string), m["name"].(string), ds)
		}
		return
	}
	if resource != "daemonsets" {
		return
	}
	if o == nil {
		for _, p := range c.List("pods", namespace) {
			if m := metadata(p); strings.HasPrefix(m["name"].(string), name+"-") {
				c.Drop("pods", namespace, m["name"].(string))
			}
		}
		return
	}
	nodes := c.List("nodes", "")
	ready := len(nodes)
	for i, n := range nodes {
		node := metadata(n)["name"].(string)
		status := Object{"phase": "Running", "podIP": fmt.Sprintf("10.244.%d.2", i), "conditions": []any{Object{"type": "Ready", "status": "True"}}}
		if down(n) {
			ready--
			status = Object{"phase": "Pending"}
		} else if short(n) {
			ready--
			status = Object{"phase": "Failed", "reason": "Evicted"}
		}
		podLabels := o["spec"].(Object)["template"].(Object)["metadata"].(Object)["labels"]
		c.Put("pods", namespace, name+"-"+node, Object{
			"metadata": Object{"labels": podLabels, "ownerReferences": []any{Object{
				"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": metadata(o)["uid"], "controller": true,
			}}},
			"spec":   Object{"nodeName": node},
			"status": status,
		})
	}
	o = clone(o)
	count := len(nodes)
	o["status"] = Object{
		"observedGeneration": metadata(o)["generation"], "desiredNumberScheduled": count, "currentNumberScheduled": count, "numberMisscheduled": 0,
		"updatedNumberScheduled": count, "numberAvailable": ready, "numberReady": ready,
	}
	c.Put("daemonsets", namespace, name, o)
}

// down reports whether the kubelet of a node does not report.
func down(node Object) bool {
	conditions, _ := node["status"].(Object)["conditions"].([]any)
	return slices.ContainsFunc(conditions, func(c any) bool {
		o, _ := c.(Object)
		return o["type"] == "Ready" && o["status"] == "Unknown"
	})
}

// short reports whether the kubelet of a node evicts pods.
func short(node Object) bool {
	conditions, _ := node["status"].(Object)["conditions"].([]any)
	return slices.ContainsFunc(conditions, func(c any) bool {
		o, _ := c.(Object)
		return o["type"] == "DiskPressure" && o["status"] == "True"
	})
}

// AddNode registers a node that is ready.
func (c *Cluster) AddNode(name string) {
	c.Put("nodes", "", name, Object{"status": Object{"conditions": []any{Object{"type": "Ready", "status": "True"}}}})
	c.control("nodes", "", name, c.Get("nodes", "", name))
}

// AddControlPlane registers a node that is ready, marked as kubeadm marks it.
func (c *Cluster) AddControlPlane(name string) {
	c.AddNode(name)
	o := c.Get("nodes", "", name)
	metadata(o)["labels"] = Object{"node-role.kubernetes.io/control-plane": ""}
	c.Put("nodes", "", name, o)
}

// HaltAfter has kubeadm end after n more of its effects, together with the
// connection; 0 lets it finish.
func (c *Cluster) HaltAfter(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.halt = n; n == 0 {
		c.halt = -1
	}
}

const kubeconfigPath = "/etc/kubernetes/admin.conf"

// effect is one thing that kubeadm does.
type effect func()

// Kubeadm makes a control plane on the machine and joins nodes to it, as far as
// kocli can tell, preflight checks included.
func (c *Cluster) Kubeadm() hosttest.Program {
	return func(ctx context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		i := slices.Index(argv, "/usr/bin/kubeadm")
		if i < 0 || argv[0] != "flock" {
			return hosttest.Reply{}, false
		}
		args := argv[i+1:]
		if args[0] == "upgrade" && (len(args) < 4 || args[3] != "kubelet-config" || slices.Contains(args, "--config")) {
			return c.upgrade(m, args), true
		}
		if args[0] == "reset" {
			c.run(m, resetEffects(ctx, m))
			return hosttest.Reply{}, true
		}
		if len(args) > 3 && args[0] == "upgrade" && args[3] == "kubelet-config" {
			c.run(m, []effect{c.kubeletConfig(m)})
			return hosttest.Reply{}, true
		}
		config, ignored, skipped := "", []string{}, []string{}
		for j, a := range args {
			if a == "--config" && j+1 < len(args) {
				config = args[j+1]
			}
			if list, ok := strings.CutPrefix(a, "--ignore-preflight-errors="); ok {
				ignored = strings.Split(list, ",")
			}
			if list, ok := strings.CutPrefix(a, "--skip-phases="); ok {
				skipped = strings.Split(list, ",")
			}
		}
		text, ok := m.Read(config)
		if !ok {
			return hosttest.Reply{Stderr: "error: unable to read config from " + config, Code: 1}, true
		}
		var effects []effect
		var refusals []string
		switch args[0] {
		case "certs": // renew NAME
			return c.renew(m, args[2]), true
		case "kubeconfig": // user
			return c.user(m, args), true
		case "init":
			if len(args) > 2 && args[1] == "phase" && args[2] == "certs" {
				effects = []effect{c.certificate(m, text)}
				break
			}
			effects, refusals = c.initEffects(m, text), found(m, "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/manifests/etcd.yaml")
			if _, ok := m.Read("/var/lib/etcd/member/db"); ok {
				refusals = append(refusals, "DirAvailable--var-lib-etcd")
			}
		case "join":
			if err := c.checkToken(text); err != "" {
				return hosttest.Reply{Stderr: "error execution phase preflight: " + err, Code: 1}, true
			}
			if !slices.Contains(skipped, "preflight") {
				refusals = found(m, "/etc/kubernetes/kubelet.conf", "/etc/kubernetes/pki/ca.crt")
			}
			if r := refused(refusals, ignored); r != nil {
				return *r, true
			}
			return c.join(m, text, skipped), true
		default:
			return hosttest.Reply{}, false
		}
		if r := refused(refusals, ignored); r != nil {
			return *r, true
		}
		c.run(m, effects)
		return hosttest.Reply{}, true
	}
}

// refused is what kubeadm says when a preflight check fails that is not ignored.
func refused(refusals, ignored []string) *hosttest.Reply {
	for _, r := range refusals {
		if !slices.Contains(ignored, r) {
			return &hosttest.Reply{Stderr: "error execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR " + r + "]: already exists\n", Code: 1}
		}
	}
	return nil
}

// run has the effects happen, as many of them as HaltAfter allows. It reports
// whether kubeadm lives on.
func (c *Cluster) run(m *hosttest.Machine, effects []effect) bool {
	for _, e := range effects {
		c.mu.Lock()
		end := c.halt == 0
		c.halt--
		if c.halt < 0 {
			c.halt = -1
		}
		c.mu.Unlock()
		if end {
			m.Cut()
			return false
		}
		e()
	}
	return true
}

// found names the preflight checks that fail because files exist.
func found(m *hosttest.Machine, files ...string) []string {
	var out []string
	for _, f := range files {
		if _, ok := m.Read(f); ok {
			out = append(out, "FileAvailable-"+strings.ReplaceAll(f, "/", "-"))
		}
	}
	return out
}

func (c *Cluster) initEffects(m *hosttest.Machine, config string) []effect {
	own := document(config, "ClusterConfiguration")
	c.mu.Lock()
	c.config = own
	c.mu.Unlock()
	file := func(p, text string) effect {
		return func() {
			if _, ok := m.Read(p); !ok { // kubeadm uses what is there
				m.Write(p, 0o600, text)
			}
		}
	}
	out := []effect{
		file("/etc/kubernetes/pki/ca.crt", "CA"), file("/etc/kubernetes/pki/ca.key", "KEY"),
		c.certificate(m, own),
		file("/etc/kubernetes/admin.conf", c.conf()), file("/etc/kubernetes/kubelet.conf", c.conf()),
		func() { c.manifests(m, parse1(own).KubernetesVersion) },
		func() { c.AddControlPlane(m.Name()); c.kubeletOf(m) },
		func() {
			c.Put("configmaps", "kube-system", "kubelet-config", Object{"data": Object{"kubelet": document(config, "KubeletConfiguration")}})
		},
		c.kubeletConfig(m),
		func() {
			c.Put("configmaps", "kube-system", "kubeadm-config", Object{"data": Object{"ClusterConfiguration": own}})
		},
		func() {
			c.Put("configmaps", "kube-public", "cluster-info", Object{"data": Object{"kubeconfig": c.conf()}})
		},
		func() { c.AddCoreDNS() },
		func() {
			c.Put("configmaps", "kube-system", "kube-proxy", Object{"data": Object{"config.conf": document(config, "KubeProxyConfiguration"), "kubeconfig.conf": c.conf()}})
		},
	}
	if elsewhere(own) {
		return out
	}
	return slices.Insert(out, 5, file("/etc/kubernetes/manifests/etcd.yaml", "etcd"), file("/var/lib/etcd/member/db", "db"))
}

// elsewhere reports whether a ClusterConfiguration has its etcd outside the cluster.
func elsewhere(config string) bool { return strings.Contains(config, "\netcd:\n  external:\n") }

// AddCoreDNS is kubeadm's add-on: a Corefile, kept when there is one, and a
// Deployment that is ready.
func (c *Cluster) AddCoreDNS() {
	if c.Get("configmaps", "kube-system", "coredns") == nil {
		c.Put("configmaps", "kube-system", "coredns", Object{"data": Object{"Corefile": Corefile}})
	}
	c.Put("deployments", "kube-system", "coredns", Object{
		"spec":   Object{"replicas": 2},
		"status": Object{"observedGeneration": 9, "updatedReplicas": 2, "availableReplicas": 2, "replicas": 2, "readyReplicas": 2},
	})
}

// resetEffects are what kubeadm reset does, in its order: it empties folders and
// leaves them, cannot remove containers without containerd, and says so only in
// its output.
func resetEffects(ctx context.Context, m *hosttest.Machine) []effect {
	empty := func(dir string) effect {
		return func() {
			for _, f := range m.Files() {
				if strings.HasPrefix(f, dir+"/") {
					m.Delete(f)
				}
			}
		}
	}
	out := []effect{
		empty("/var/lib/etcd"),
		func() {
			if _, err := m.Query(ctx, host.Command("systemctl", "is-active", "containerd.service")); err == nil {
				empty(hosttest.ContainersDir)()
			}
		},
		empty("/etc/kubernetes/manifests"), empty("/var/lib/kubelet"), empty("/etc/kubernetes/pki"),
	}
	for _, f := range []string{"admin", "super-admin", "kubelet", "bootstrap-kubelet", "controller-manager", "scheduler"} {
		out = append(out, func() { m.Delete("/etc/kubernetes/" + f + ".conf") })
	}
	return out
}

// checkToken complains when a join configuration holds no token that the cluster
// knows.
func (c *Cluster) checkToken(config string) string {
	for _, doc := range strings.Split(config, "\n---\n") {
		var o Object
		if yaml.Unmarshal([]byte(doc), &o) != nil {
			return "the configuration is not YAML"
		}
		d, _ := o["discovery"].(Object)
		if d == nil {
			continue
		}
		token, _ := d["tlsBootstrapToken"].(string)
		if b, ok := d["bootstrapToken"].(Object); ok && token == "" {
			token, _ = b["token"].(string)
		}
		id, _, _ := strings.Cut(token, ".")
		if c.Get("secrets", "kube-system", path.Base("bootstrap-token-"+id)) != nil {
			return ""
		}
		return "the token " + id + " is not known to the cluster"
	}
	return "no token in the configuration"
}
