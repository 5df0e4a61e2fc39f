package kubeadm

import (
	"encoding/base64"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kocli/kocli/pkg/inventory"
)

func newAuditPolicy() *auditv1.Policy { return &auditv1.Policy{} }

// AuditPolicy returns the content of AuditPolicyPath: the user's policy, or
// one that records who changed what, without contents, and leaves out the
// noise of the cluster's own components.
func AuditPolicy(inv *inventory.Inventory) ([]byte, error) {
	ours := &auditv1.Policy{
		TypeMeta:   metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "Policy"},
		OmitStages: []auditv1.Stage{auditv1.StageRequestReceived},
	}
	user := inv.Spec.Kubernetes.Audit.Policy
	if _, rules := user["rules"]; !rules {
		ours.Rules = auditRules()
	}
	return render(document{newAuditPolicy(), ours, user, field.NewPath("spec", "kubernetes", "audit", "policy")})
}

// auditRules are tried in this order; the first that fits decides.
func auditRules() []auditv1.PolicyRule {
	none, metadata := auditv1.LevelNone, auditv1.LevelMetadata
	return []auditv1.PolicyRule{
		{Level: none, NonResourceURLs: []string{"/healthz*", "/livez*", "/readyz*", "/version", "/metrics", "/openapi/*"}},
		{Level: none, Resources: []auditv1.GroupResources{
			{Group: "", Resources: []string{"events"}}, {Group: "events.k8s.io", Resources: []string{"events"}},
			{Group: "coordination.k8s.io", Resources: []string{"leases"}},
		}},
		// The cluster's own components read all the time. Reading Secrets is
		// recorded whoever does it.
		{Level: metadata, Resources: []auditv1.GroupResources{{Group: "", Resources: []string{"secrets"}}}},
		{Level: none, UserGroups: []string{"system:nodes"}, Verbs: []string{"get", "list", "watch"}},
		{Level: none, Users: []string{"system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"},
			Verbs: []string{"get", "list", "watch"}},
		{Level: metadata},
	}
}

// EncryptionConfig returns the content of EncryptionConfigPath: Secrets are
// written with the key (NewEncryptionKey), and those from before are still
// read. It contains the key.
func EncryptionConfig(key string) ([]byte, error) {
	const keySize = 32
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != keySize {
		return nil, errors.New("the encryption key has the wrong form") // never shown
	}
	cfg := &apiserverv1.EncryptionConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{
			Resources: []string{"secrets"},
			Providers: []apiserverv1.ProviderConfiguration{
				{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: []apiserverv1.Key{{Name: "key1", Secret: key}}}},
				{Identity: &apiserverv1.IdentityConfiguration{}},
			},
		}},
	}
	return render(document{into: &apiserverv1.EncryptionConfiguration{}, ours: cfg, path: field.NewPath("encryption")})
}
