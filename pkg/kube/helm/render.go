package helm

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"helm.sh/helm/v4/pkg/action"
	commonchart "helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/release"
	v1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/kube"
)

// Render renders a release as an install would, for a version of Kubernetes and
// without a cluster: the manifests of its objects, CRDs and hooks among them. Values
// that the chart's schema refuses are an error.
func Render(r Release, kubernetes string) ([]byte, error) {
	ch, values, err := r.open()
	if err != nil {
		return nil, err
	}
	version, err := commonchart.ParseKubeVersion(kubernetes)
	if err != nil {
		return nil, fmt.Errorf("version of Kubernetes %q: %w", kubernetes, err)
	}
	in := action.NewInstall(action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)))
	in.ReleaseName, in.Namespace, in.KubeVersion, in.IncludeCRDs, in.DryRunStrategy = r.Name, r.Namespace, version, true, action.DryRunClient
	made, err := in.Run(ch, values)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", r.Name, err)
	}
	rel, err := asV1(made)
	if err != nil {
		return nil, err
	}
	out := []byte(rel.Manifest)
	for _, h := range rel.Hooks {
		out = fmt.Appendf(out, "---\n# Source: %s\n%s\n", h.Path, h.Manifest)
	}
	return out, nil
}

func asV1(r release.Releaser) (*v1.Release, error) {
	rel, ok := r.(*v1.Release)
	if !ok {
		return nil, errors.New("Helm made a release of a kind that this kocli does not know") //nolint:staticcheck // a name
	}
	return rel, nil
}

// Values returns all values that a release is rendered with: the chart's own, and those
// set over them.
func Values(r Release) (map[string]any, error) {
	ch, values, err := r.open()
	if err != nil {
		return nil, err
	}
	all, err := util.CoalesceValues(ch, values)
	if err != nil {
		return nil, fmt.Errorf("values of %s: %w", r.Name, err)
	}
	return all, nil
}

// Diff shows what Deploy would change in the manifests of a release that is there, as
// a unified diff; empty where nothing. It changes nothing. What is in Secrets is not
// shown, but whether it changes is.
func Diff(ctx context.Context, c *kube.Client, r Release) (string, error) {
	ch, values, err := r.open()
	if err != nil {
		return "", err
	}
	cfg, err := configuration(c, r.Namespace)
	if err != nil {
		return "", err
	}
	was, err := cfg.Releases.Deployed(r.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) || errors.Is(err, driver.ErrNoDeployedReleases) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for release %s: %w", r.Name, err)
	}
	old, err := asV1(was)
	if err != nil {
		return "", err
	}
	up := upgrading(cfg, r)
	up.DryRunStrategy = action.DryRunServer
	made, err := up.RunWithContext(ctx, r.Name, ch, values)
	if err != nil {
		return "", fmt.Errorf("render %s: %w", r.Name, err)
	}
	next, err := asV1(made)
	if err != nil {
		return "", err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(masked(old.Manifest, key)), B: difflib.SplitLines(masked(next.Manifest, key)),
		FromFile: fmt.Sprintf("%s (%s)", r.Name, old.Chart.Metadata.Version), ToFile: fmt.Sprintf("%s (%s)", r.Name, ch.Metadata.Version), Context: 3,
	})
}

// masked has, in the place of every value of a Secret, what tells two values apart for
// as long as the key is known, and not what they are.
func masked(manifest string, key []byte) string {
	docs := strings.Split(manifest, "\n---\n")
	for i, d := range docs {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(d), &o); err != nil || o["kind"] != "Secret" {
			continue
		}
		for _, field := range []string{"data", "stringData"} {
			m, _ := o[field].(map[string]any)
			for k, v := range m {
				h := hmac.New(sha256.New, key)
				_, _ = fmt.Fprint(h, v) // a hash takes everything
				m[k] = "(hidden " + hex.EncodeToString(h.Sum(nil)[:4]) + ")"
			}
		}
		if out, err := yaml.Marshal(o); err == nil {
			docs[i] = string(out)
		}
	}
	return strings.Join(docs, "\n---\n")
}

// clone copies values by way of JSON, which is what they come from.
func clone(values map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if err := yaml.Unmarshal(raw, &out); err != nil {
		return nil, err
	}
	if out == nil {
		out = map[string]any{}
	}
	return out, nil
}
