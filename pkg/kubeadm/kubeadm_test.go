package kubeadm_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	testToken = "abcdef.0123456789abcdef"
)

func load(t *testing.T, path string) *inventory.Inventory {
	t.Helper()
	c, err := config.Load(path, kubeadm.ValidateOverrides)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func clusters(t *testing.T) []string {
	t.Helper()
	examples, _ := filepath.Glob("../../examples/cluster-*.yaml")
	profiles, _ := filepath.Glob("../../templates/init/*.yaml")
	if len(examples) == 0 || len(profiles) == 0 {
		t.Fatal("no clusters")
	}
	return append(examples, profiles...)
}

// parse decodes every document as its real consumer would, and strictly.
func parse(t *testing.T, data []byte) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		v1beta4.AddToScheme, kubeletv1beta1.AddToScheme, kubeproxyv1alpha1.AddToScheme, auditv1.AddToScheme, apiserverv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	dec := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	for _, doc := range bytes.Split(data, []byte("---\n")) {
		o, _, err := dec.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		out = append(out, o)
	}
	return out
}

func TestInitAndJoin_golden(t *testing.T) {
	for _, path := range clusters(t) {
		dir := filepath.Base(filepath.Dir(path))
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(dir+"-"+name, func(t *testing.T) {
			inv := load(t, path)
			got, err := kubeadm.Init(inv, inv.Seed(), kubeadm.InitOptions{Token: testToken})
			if err != nil {
				t.Fatal(err)
			}
			again, err := kubeadm.Init(load(t, path), inv.Seed(), kubeadm.InitOptions{Token: testToken})
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("not the same twice: %v", err)
			}
			if n := len(parse(t, got)); n != 4 {
				t.Errorf("%d documents", n)
			}
			golden(t, dir+"-"+name+"-init", got)
			for _, n := range inv.Nodes[1:] {
				join, err := kubeadm.Join(inv, n, kubeadm.JoinOptions{Token: testToken, CertificateKey: "k"})
				if err != nil {
					t.Fatal(err)
				}
				o := parse(t, join)[0].(*v1beta4.JoinConfiguration)
				if (o.ControlPlane != nil) != n.ControlPlane {
					t.Errorf("%s: control plane %v", n.Name, o.ControlPlane)
				}
				golden(t, dir+"-"+name+"-join-"+n.Name, join)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s", path, got)
	}
}

// The settings of /work/shared/lab/kubeadm-init.yaml come out of the lab's
// override fields, zeros included.
func TestInit_labOverridesReachTheirTypes(t *testing.T) {
	inv := load(t, "../../templates/init/lab.yaml")
	data, err := kubeadm.Init(inv, inv.Seed(), kubeadm.InitOptions{Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	docs := parse(t, data)
	ic, k, p := docs[0].(*v1beta4.InitConfiguration), docs[2].(*kubeletv1beta1.KubeletConfiguration), docs[3].(*kubeproxyv1alpha1.KubeProxyConfiguration)
	for what, ok := range map[string]bool{
		"failCgroupV1":          k.FailCgroupV1 != nil && !*k.FailCgroupV1,
		"failSwapOn":            k.FailSwapOn != nil && !*k.FailSwapOn,
		"feature gate":          k.FeatureGates["KubeletInUserNamespace"],
		"cgroup driver":         k.CgroupDriver == "cgroupfs",
		"null removes":          k.SystemReserved == nil && k.KubeReserved == nil,
		"proxy mode":            p.Mode == "nftables",
		"conntrack maxPerCore":  p.Conntrack.MaxPerCore != nil && *p.Conntrack.MaxPerCore == 0,
		"conntrack min":         p.Conntrack.Min == nil,
		"conntrack established": p.Conntrack.TCPEstablishedTimeout != nil && p.Conntrack.TCPEstablishedTimeout.Duration == 0,
		"conntrack close wait":  p.Conntrack.TCPCloseWaitTimeout != nil && p.Conntrack.TCPCloseWaitTimeout.Duration == 0,
		"no taint on a worker":  ic.NodeRegistration.Taints != nil && len(ic.NodeRegistration.Taints) == 0,
		"kubeadm's own checks":  len(ic.NodeRegistration.IgnorePreflightErrors) == 4,
	} {
		if !ok {
			t.Errorf("%s is not as the lab needs it", what)
		}
	}
	if strings.Contains(string(data), "imageRepository") {
		t.Error("images come under upstream's names")
	}
}

func TestInit_auditAndEncryption(t *testing.T) {
	inv := load(t, "../../examples/cluster-three-hosts.yaml")
	data, err := kubeadm.ClusterConfig(inv)
	if err != nil {
		t.Fatal(err)
	}
	api := parse(t, data)[0].(*v1beta4.ClusterConfiguration).APIServer
	got := map[string]string{}
	for _, a := range api.ExtraArgs {
		got[a.Name] = a.Value
	}
	for name, want := range map[string]string{
		"audit-policy-file": kubeadm.AuditPolicyPath, "audit-log-maxage": "90", "audit-log-maxbackup": "10",
		"encryption-provider-config": kubeadm.EncryptionConfigPath, "tls-min-version": "VersionTLS12",
	} {
		if got[name] != want {
			t.Errorf("--%s=%s, want %s", name, got[name], want)
		}
	}
	if len(api.ExtraVolumes) != 2 {
		t.Errorf("volumes: %+v", api.ExtraVolumes)
	}
	policy, err := kubeadm.AuditPolicy(inv)
	if err != nil {
		t.Fatal(err)
	}
	if p := parse(t, policy)[0].(*auditv1.Policy); len(p.Rules) == 0 {
		t.Error("no rules")
	}
	golden(t, "audit-policy", policy)
	enc, err := kubeadm.EncryptionConfig("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err != nil {
		t.Fatal(err)
	}
	if p := parse(t, enc)[0].(*apiserverv1.EncryptionConfiguration).Resources[0].Providers; len(p) != 2 || p[1].Identity == nil {
		t.Errorf("providers: %s", enc)
	}
	if _, err := kubeadm.EncryptionConfig("canary"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("a wrong key: %v", err)
	}
}

func TestCertSANs_nameEveryWayIn(t *testing.T) {
	got := strings.Join(kubeadm.CertSANs(load(t, "../../examples/cluster-external-lb.yaml")), " ")
	want := "localhost 127.0.0.1 k8s.dc1.example.com cp-1 10.10.0.11 cp-2 10.10.0.12 cp-3 10.10.0.13"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTaints_followRoles(t *testing.T) {
	own := []v1alpha1.Taint{{Key: "dedicated", Value: "db", Effect: "NoSchedule"}}
	for _, tt := range []struct {
		name string
		node inventory.Node
		want int
	}{
		{"a control plane keeps pods away", inventory.Node{ControlPlane: true}, 1},
		{"a control plane that works does not", inventory.Node{ControlPlane: true, Worker: true}, 0},
		{"a worker has its own", inventory.Node{Worker: true, Taints: own}, 1},
		{"a control plane has both", inventory.Node{ControlPlane: true, Taints: own}, 2},
		{"the role's taint written out is not there twice", inventory.Node{ControlPlane: true, Taints: []v1alpha1.Taint{
			{Key: "node-role.kubernetes.io/control-plane", Effect: string(corev1.TaintEffectNoSchedule)}}}, 1},
	} {
		if got := kubeadm.Taints(tt.node); len(got) != tt.want || got == nil {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestKubeletPatch_onlyWhereANodeDiffers(t *testing.T) {
	inv := load(t, "../../examples/cluster-three-hosts.yaml")
	worker, _ := inv.Node("worker-2")
	for _, tt := range []struct {
		name string
		node inventory.Node
		opt  kubeadm.NodeOptions
		want string
	}{
		{"nothing differs", inv.Seed(), kubeadm.NodeOptions{}, ""},
		{"an override", worker, kubeadm.NodeOptions{}, "maxPods: 60\n"},
		{"a resolver file", inv.Seed(), kubeadm.NodeOptions{ResolvConf: "/x"}, "resolvConf: /x\n"},
		{"both", worker, kubeadm.NodeOptions{ResolvConf: "/x"}, "maxPods: 60\nresolvConf: /x\n"},
	} {
		got, err := kubeadm.KubeletPatch(tt.node, tt.opt)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		join, err := kubeadm.Join(inv, tt.node, kubeadm.JoinOptions{NodeOptions: tt.opt, Token: testToken})
		if err != nil || strings.Contains(string(join), kubeadm.PatchesDir) != (tt.want != "") {
			t.Errorf("%s: join names the patches directory wrongly: %v\n%s", tt.name, err, join)
		}
	}
}

func TestOverrides_unknownFieldsAreRefusedWithPathAndLine(t *testing.T) {
	in := `apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: x}
spec:
  kubernetes:
    version: v1.36.3
    overrides:
      clusterConfiguration:
        apiServer:
          certSan: [x]
      kubelet:
        maxPods: many
      kubeProxy:
        conntrack:
          maxpercore: 0
  hosts:
    - {name: a, address: 10.0.0.1, roles: [control-plane], kubelet: {noSuchField: 1}}
`
	_, err := config.Read("x", strings.NewReader(in), kubeadm.ValidateOverrides)
	for _, want := range []string{
		"spec.kubernetes.overrides.clusterConfiguration.apiServer.certSan (line 10): Forbidden: ClusterConfiguration has no such field",
		"spec.kubernetes.overrides.kubelet.maxPods (line 12)",
		"spec.kubernetes.overrides.kubeProxy.conntrack.maxpercore (line 15)",
		"spec.hosts[0].kubelet.noSuchField (line 17)",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestInit_neverShowsAWrongToken(t *testing.T) {
	inv := load(t, "../../examples/cluster-single.yaml")
	_, err := kubeadm.Init(inv, inv.Seed(), kubeadm.InitOptions{Token: "canary"})
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
}

func TestDiscovery_pinsTheCA(t *testing.T) {
	inv := load(t, "../../examples/cluster-single.yaml")
	if _, err := kubeadm.Discovery(inv, nil); err == nil {
		t.Error("discovery without a CA")
	}
	conf, err := kubeadm.Discovery(inv, []byte("PEM"))
	if err != nil || !strings.Contains(string(conf), "https://"+inv.Endpoint()) || !strings.Contains(string(conf), "certificate-authority-data: UEVN") {
		t.Errorf("%s %v", conf, err)
	}
}

func TestSecrets_haveTheFormThatKubeadmWants(t *testing.T) {
	inv := load(t, "../../examples/cluster-single.yaml")
	a, b := kube.NewToken(), kube.NewToken()
	if _, err := kubeadm.Init(inv, inv.Seed(), kubeadm.InitOptions{Token: a}); err != nil || a == b {
		t.Errorf("%v", err)
	}
	if len(kubeadm.NewCertificateKey()) != 64 {
		t.Error("certificate key")
	}
	if _, err := kubeadm.EncryptionConfig(kubeadm.NewEncryptionKey()); err != nil {
		t.Error(err)
	}
}
