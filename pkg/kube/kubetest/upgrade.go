package kubetest

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// components are the static pods that have the version of Kubernetes.
func components() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}
}

func manifestPath(component string) string {
	return "/etc/kubernetes/manifests/" + component + ".yaml"
}

func manifest(component, version string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: %s\n    image: registry.k8s.io/%[1]s:%s\n", component, version)
}

// manifests writes the static pods of a control plane, those that are not there.
func (c *Cluster) manifests(m *hosttest.Machine, version string) {
	for _, name := range components() {
		if _, ok := m.Read(manifestPath(name)); !ok {
			m.Write(manifestPath(name), 0o600, manifest(name, version))
		}
	}
	c.Watch(m)
}

// Watch has the kubelet of a control plane run the static pods in its manifests.
func (c *Cluster) Watch(m *hosttest.Machine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.hosts, m) {
		c.hosts = append(c.hosts, m)
	}
}

var releasePattern = regexp.MustCompile(`v[0-9]+\.[0-9]+\.[0-9]+`)

// mirror has a pod in the API for each static pod, as the kubelets do, and the API
// server be the newest of them.
func (c *Cluster) mirror() {
	c.report()
	c.mu.Lock()
	hosts := slices.Clone(c.hosts)
	c.mu.Unlock()
	newest := ""
	for _, m := range hosts {
		for _, name := range components() {
			text, _ := m.Read(manifestPath(name))
			v := releasePattern.FindString(text)
			if v == "" || c.Get("nodes", "", m.Name()) == nil {
				c.Drop("pods", "kube-system", name+"-"+m.Name())
				continue
			}
			if name == "kube-apiserver" {
				newest = max(newest, v)
			}
			ready := "True"
			if c.broken(m.Name(), name, v) {
				ready = "False"
			}
			c.Put("pods", "kube-system", name+"-"+m.Name(), Object{
				"metadata": Object{
					"labels":      Object{"tier": "control-plane", "component": name},
					"annotations": Object{"kubernetes.io/config.mirror": "x"},
				},
				"spec":   Object{"nodeName": m.Name(), "containers": []any{Object{"name": name, "image": "registry.k8s.io/" + name + ":" + v}}},
				"status": Object{"phase": "Running", "conditions": []any{Object{"type": "Ready", "status": ready}}},
			})
		}
	}
	if newest != "" {
		c.SetRelease(newest)
	}
}

func (c *Cluster) broken(node, component, version string) bool {
	return c.Broken != nil && c.Broken(node, component, version)
}

// kubeletOf has a node say the version of the kubelet on its host: the one that stands
// in the program.
func (c *Cluster) kubeletOf(m *hosttest.Machine) {
	o := c.Get("nodes", "", m.Name())
	v := programOf(m, "/usr/bin/kubelet")
	if o == nil || v == "" {
		return
	}
	if c.Silent != nil && c.Silent(m.Name(), v) {
		c.mu.Lock()
		delete(c.kubelets, m.Name())
		c.mu.Unlock()
		return
	}
	status, _ := o["status"].(Object)
	if status == nil {
		status = Object{}
	}
	ready := "True"
	if c.broken(m.Name(), "kubelet", v) {
		ready = "False"
	}
	status["nodeInfo"] = Object{"kubeletVersion": v}
	status["conditions"] = []any{Object{"type": "Ready", "status": ready, "message": "as its kubelet says"}}
	o["status"] = status
	c.Put("nodes", "", m.Name(), o)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kubelets[m.Name()] = v
}

// report has the lease of each node be renewed whose kubelet runs.
func (c *Cluster) report() {
	c.mu.Lock()
	kubelets := maps.Clone(c.kubelets)
	c.mu.Unlock()
	now := time.Now().UTC().Format(metav1.RFC3339Micro)
	for node := range kubelets {
		c.Put("leases", "kube-node-lease", node, Object{"spec": Object{"renewTime": now}})
	}
}

// Kubelet has a node say its version when its kubelet is restarted. Systemd is not
// told: to it, no kubelet runs on these hosts.
func (c *Cluster) Kubelet() hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if !slices.Equal(argv, []string{"systemctl", "restart", "kubelet.service"}) {
			return hosttest.Reply{}, false
		}
		c.kubeletOf(m)
		return hosttest.Reply{}, true
	}
}

// Snapshot is kocli on a control plane, as far as it writes snapshots of etcd.
func Snapshot() hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if len(argv) != 5 || argv[1] != "node" || argv[2] != "snapshot" {
			return hosttest.Reply{}, false
		}
		m.Write(argv[4], 0o600, "the data of etcd")
		return hosttest.Reply{Stdout: "16\n"}, true
	}
}

// AddKubeProxy is kubeadm's add-on at a version, and gives CoreDNS an image.
func (c *Cluster) AddKubeProxy(version, coreDNS string) {
	image := func(name, ref string) Object {
		return Object{"metadata": Object{"labels": Object{"k8s-app": name}}, "spec": Object{"containers": []any{Object{"name": name, "image": ref}}}}
	}
	c.Put("daemonsets", "kube-system", "kube-proxy", Object{"spec": Object{"template": image("kube-proxy", "registry.k8s.io/kube-proxy:"+version)}})
	ds := c.Get("daemonsets", "kube-system", "kube-proxy")
	c.control("daemonsets", "kube-system", "kube-proxy", ds)
	if d := c.Get("deployments", "kube-system", "coredns"); d != nil {
		d["spec"].(Object)["template"] = image("coredns", "registry.k8s.io/coredns/coredns:"+coreDNS)
		c.Put("deployments", "kube-system", "coredns", d)
	}
}

// coreDNS is the CoreDNS that kubeadm of a version brings.
func coreDNS(version string) string {
	if strings.HasPrefix(version, "v1.37.") {
		return "v1.14.6"
	}
	return "v1.14.2"
}

// programOf is the version of a program of Kubernetes on a host: those of the sample
// bundle do not say it.
func programOf(m *hosttest.Machine, file string) string {
	text, ok := m.Read(file)
	if v := releasePattern.FindString(text); v != "" || !ok {
		return v
	}
	return "v1.36.3"
}

// upgrade is "kubeadm upgrade": apply, node, and their phases that kocli runs.
func (c *Cluster) upgrade(m *hosttest.Machine, args []string) hosttest.Reply {
	own := programOf(m, "/usr/bin/kubeadm")
	if args[1] == "plan" {
		if c.Plan != "" {
			return hosttest.Reply{Stderr: c.Plan, Code: 1}
		}
		if args[2] != own {
			return hosttest.Reply{Stderr: "error: it is " + own, Code: 1}
		}
		return hosttest.Reply{Stdout: "You can now apply the upgrade\n"}
	}
	config, ok := "", false
	if i := slices.Index(args, "--config"); i > 0 && i+1 < len(args) {
		config, ok = m.Read(args[i+1])
	}
	var u struct {
		Kind  string `json:"kind"`
		Apply struct {
			KubernetesVersion string `json:"kubernetesVersion"`
		} `json:"apply"`
	}
	if err := yaml.Unmarshal([]byte(config), &u); !ok || err != nil || u.Kind != "UpgradeConfiguration" {
		return hosttest.Reply{Stderr: "error: unable to read an UpgradeConfiguration", Code: 1}
	}
	cm := c.Get("configmaps", "kube-system", "kubeadm-config")
	text, _ := cm["data"].(Object)["ClusterConfiguration"].(string)
	v := parse1(text).KubernetesVersion
	if args[1] == "apply" {
		v = u.Apply.KubernetesVersion
	}
	if own != v {
		return hosttest.Reply{Stderr: fmt.Sprintf("error execution phase preflight: version %q does not go with kubeadm %q", v, own), Code: 1}
	}
	addons := func() {
		for _, p := range c.List("pods", "kube-system") {
			if l, _ := metadata(p)["labels"].(Object); l["component"] == "kube-apiserver" && !strings.Contains(fmt.Sprint(p["spec"]), "/kube-apiserver:"+v+" ") {
				return
			}
		}
		c.AddKubeProxy(v, coreDNS(v))
	}
	upload := func() {
		c.Put("configmaps", "kube-system", "kubeadm-config", Object{"data": Object{"ClusterConfiguration": strings.ReplaceAll(text, parse1(text).KubernetesVersion, v)}})
	}
	// What it uploads has the defaults of its own version; a comment stands for them.
	uploadKubelet := func() {
		if cm := c.Get("configmaps", "kube-system", "kubelet-config"); cm != nil {
			text, _ := cm["data"].(Object)["kubelet"].(string)
			if first, rest, _ := strings.Cut(text, "\n"); strings.HasPrefix(first, "# uploaded by kubeadm ") {
				text = rest
			}
			c.Put("configmaps", "kube-system", "kubelet-config", Object{"data": Object{"kubelet": "# uploaded by kubeadm " + v + "\n" + text}})
		}
	}
	if slices.Contains(args, "phase") {
		switch {
		case slices.Contains(args, "kubelet-config"):
			c.run(m, []effect{c.kubeletConfig(m)})
		case slices.Contains(args, "addon"):
			c.run(m, []effect{addons})
		default:
			return hosttest.Reply{Stderr: "error: unknown phase", Code: 1}
		}
		return hosttest.Reply{}
	}
	var effects []effect
	broken := ""
	if _, plane := m.Read(manifestPath("kube-apiserver")); plane {
		for _, name := range components() {
			effects = append(effects, func() { m.Write(manifestPath(name), 0o600, manifest(name, v)); c.mirror() })
			if c.broken(m.Name(), name, v) {
				broken = name
			}
		}
		if broken == "" && args[1] == "apply" {
			effects = append(effects, upload, uploadKubelet)
		}
	}
	if broken == "" {
		effects = append(effects, c.kubeletConfig(m), addons)
	}
	if c.run(m, effects) && broken != "" {
		return hosttest.Reply{Stderr: "error execution phase control-plane: couldn't complete the static pod upgrade: " + broken + ": timed out waiting for the condition", Code: 1}
	}
	return hosttest.Reply{}
}
