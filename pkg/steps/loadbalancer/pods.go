package loadbalancer

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// configAnnotation carries a digest of the configuration: the kubelet starts a
// static pod anew when its manifest changes.
const configAnnotation = "kocli.io/configuration"

// HAProxyManifest renders the static pod of haproxy.
//
// It runs as root without any capability. It listens on no low port, and reads
// one file, of root's.
func HAProxyManifest(inv *inventory.Inventory, images Images) ([]byte, error) {
	image, err := images.Image("haproxy")
	if err != nil {
		return nil, err
	}
	config := path.Join("/usr/local/etc/haproxy", path.Base(kubeadm.HAProxyConfigPath))
	c := corev1.Container{
		Name: kubeadm.HAProxyPod, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		// With a master process, which loads the configuration again on SIGUSR2.
		Command:   []string{"haproxy", "-W", "-db", "-f", config},
		Resources: requests("25m", "48Mi"),
		LivenessProbe: &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
				Host: "127.0.0.1", Path: "/healthz", Port: intstr.FromInt(inv.HealthPort()), Scheme: corev1.URISchemeHTTP,
			}},
			InitialDelaySeconds: 10, PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 6,
		},
		SecurityContext: confined(),
		VolumeMounts:    []corev1.VolumeMount{{Name: "config", MountPath: path.Dir(config), ReadOnly: true}},
	}
	return manifest(staticPod(c, folder("config", kubeadm.HAProxyDir)))
}

// KeepalivedManifest renders the static pod of keepalived. digest tells
// configurations apart.
//
// Before each of its scripts keepalived sets the groups of root. Where it may not
// (SETGID), it takes the script for one that succeeded, and keeps an address with
// nothing behind it.
func KeepalivedManifest(images Images, digest string) ([]byte, error) {
	image, err := images.Image("keepalived")
	if err != nil {
		return nil, err
	}
	config := path.Join("/etc/keepalived", path.Base(kubeadm.KeepalivedConfigPath))
	c := corev1.Container{
		Name: kubeadm.KeepalivedPod, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		// The VRRP part alone: the other one balances load in the kernel.
		Command:         []string{"keepalived", "--dont-fork", "--vrrp", "--log-console", "--use-file=" + config, "--pid=/run/keepalived.pid", "--vrrp_pid=/run/vrrp.pid"},
		Resources:       requests("10m", "16Mi"),
		SecurityContext: confined("NET_ADMIN", "NET_BROADCAST", "NET_RAW", "SETGID"),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: path.Dir(config), ReadOnly: true}, {Name: "run", MountPath: "/run"}, {Name: "tmp", MountPath: "/tmp"},
		},
	}
	p := staticPod(c, folder("config", kubeadm.KeepalivedDir), memory("run"), memory("tmp"))
	p.Annotations = map[string]string{configAnnotation: digest}
	return manifest(p)
}

func staticPod(c corev1.Container, volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: c.Name, Namespace: metav1.NamespaceSystem, Labels: map[string]string{"app.kubernetes.io/name": c.Name, "app.kubernetes.io/managed-by": "kocli"}},
		Spec: corev1.PodSpec{
			HostNetwork: true, PriorityClassName: "system-node-critical", DNSPolicy: corev1.DNSDefault,
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers:      []corev1.Container{c}, Volumes: volumes,
		},
	}
}

// confined is root with the named capabilities alone.
func confined(capabilities ...corev1.Capability) *corev1.SecurityContext {
	no, yes, root := false, true, int64(0)
	return &corev1.SecurityContext{
		RunAsUser: &root, RunAsGroup: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities},
	}
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}}
}

func folder(name, dir string) corev1.Volume {
	kind := corev1.HostPathDirectory
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}}
}

func memory(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}
}

// manifest writes a pod as a file, without what only a server fills in.
func manifest(p *corev1.Pod) ([]byte, error) {
	data, err := yaml.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("render static pod %s: %w", p.Name, err)
	}
	var fields map[string]any
	if err := yaml.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("render static pod %s: %w", p.Name, err)
	}
	delete(fields, "status")
	if meta, ok := fields["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	return yaml.Marshal(fields)
}
