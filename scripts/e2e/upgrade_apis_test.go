//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// own asks the API server of host1 itself, not through the virtual IP.
func own(args string) string {
	return "kubectl --kubeconfig /etc/kubernetes/admin.conf --server https://127.0.0.1:6443 " + args
}

// becomes waits on host1, for three minutes, until a line of shell succeeds.
func becomes(t *testing.T, line string) {
	t.Helper()
	sh(t, "host1", "for i in $(seq 180); do if "+line+"; then exit 0; fi; sleep 1; done >/dev/null 2>&1; echo "+quoted("still not: "+line)+"; exit 1")
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// serves has the API server of host1 be told of flags that stand in its manifest, beside
// those that kubeadm gave it. It is back, and settled, when it returns.
func serves(t *testing.T, flags, until string) {
	t.Helper()
	const manifest, kept = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/root/kube-apiserver.yaml"
	sh(t, "host1", "[ -e "+kept+" ] || cp -p "+manifest+" "+kept+"; cp -p "+kept+" /root/next.yaml")
	if flags != "" {
		sh(t, "host1", `sed -i 's|^    - kube-apiserver$|    - kube-apiserver\n    - `+flags+`|' /root/next.yaml && grep -q -- `+flags+` /root/next.yaml`)
	}
	sh(t, "host1", "mv /root/next.yaml "+manifest)
	settled(t, until)
}

// settled waits until the API server of host1 is ready, the cluster says so too, and until holds.
func settled(t *testing.T, until string) {
	t.Helper()
	becomes(t, own("get --raw /readyz")+" && "+until)
	becomes(t, own("-n kube-system wait --for=condition=Ready pod/kube-apiserver-host1 --timeout=5s")+" && "+own("wait --for=condition=Ready node --all --timeout=5s"))
}

// helmRelease is a Secret as Helm keeps a release in: base64 of gzip of JSON.
func helmRelease(t *testing.T, name, manifest string) string {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"name": name, "namespace": "default", "version": 1, "manifest": manifest, "info": map[string]string{"status": "deployed"}})
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if err == nil {
		_, err = z.Write(doc)
	}
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: sh.helm.release.v1.%[1]s.v1, labels: {owner: helm, status: deployed, name: %[1]s, version: "1"}}
type: helm.sh/release.v1
stringData: {release: %[2]s}
`, name, base64.StdEncoding.EncodeToString(packed.Bytes()))
}
