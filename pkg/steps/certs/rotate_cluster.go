package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeedit"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// CAMark is the annotation of pods that says which CAs they found when they started.
const CAMark = "kocli.io/ca"

// publishTime is how long the controller manager is given to hand the CAs out to all
// namespaces, and pods to be replaced; replaceTime is what each node adds, where a
// DaemonSet goes from one to the next.
const (
	publishTime = 8 * time.Minute
	replaceTime = 30 * time.Second
)

// ClusterOptions are what the steps in the API need.
type ClusterOptions struct {
	API       kube.API
	Rotations []pki.Rotation
	// Namespaces have the pods that belong to the cluster itself.
	Namespaces []string
	Nodes      int // of the cluster
}

// ClusterTrust has what the API keeps of the CAs have both of them, and replaces the
// cluster's own pods, which read them when they start.
func ClusterTrust(o ClusterOptions) plan.Step { return o.step("certs/trust-cluster", pki.Trusted) }

// ClusterRemove has the API forget the old CAs.
func ClusterRemove(o ClusterOptions) plan.Step { return o.step("certs/remove-cluster", pki.After) }

func (o ClusterOptions) step(name string, to pki.Stage) plan.Step {
	todo := func(ctx context.Context, c *kube.Client) ([]kubeedit.Edit, error) {
		var out []kubeedit.Edit
		for _, list := range []func(context.Context, *kube.Client, pki.Stage) ([]kubeedit.Edit, error){o.clusterInfo, o.authentication, o.published, o.workloads} {
			edits, err := list(ctx, c, to)
			if err != nil {
				return nil, err
			}
			out = append(out, edits...)
		}
		return out, nil
	}
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := o.API.Look(ctx)
			if err != nil {
				return nil, err
			}
			edits, err := todo(ctx, c)
			var out []plan.Change
			for _, e := range edits {
				out = append(out, e.Change)
			}
			return out, err
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			wait, cancel := context.WithTimeout(ctx, publishTime+time.Duration(o.Nodes)*replaceTime)
			defer cancel()
			err = kube.Poll(wait, time.Second, func(ctx context.Context) error {
				edits, err := todo(ctx, c)
				if err == nil {
					err = makeEdits(ctx, c, edits)
				}
				if err != nil || len(edits) == 0 {
					return err
				}
				if edits, err = todo(ctx, c); err == nil && len(edits) > 0 {
					err = fmt.Errorf("%s: %s", edits[0].Object, edits[0].From)
				}
				return err
			})
			if err != nil {
				return fault.New(fault.Unhealthy, "see why: kocli status; then run the same command again: it goes on from here", err)
			}
			return nil
		},
	}
}

// makeEdits makes them in their order. One that somebody else has to make is waited for
// before what follows it.
func makeEdits(ctx context.Context, c *kube.Client, edits []kubeedit.Edit) error {
	for _, e := range edits {
		if e.Apply == nil {
			return fmt.Errorf("%s: %s", e.Object, e.From)
		}
		if err := e.Apply(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", e.Object, err)
		}
	}
	return nil
}

func (o ClusterOptions) main() (pki.Rotation, bool) {
	return RotateOptions{Rotations: o.Rotations}.main()
}

// behind says what PEM text trusts where that is less, or more, than a stage asks for;
// "" where it is not. CAs of others are none of the rotation's business.
func behind(text []byte, x pki.Rotation, to pki.Stage) string {
	all, err := pki.All(text)
	if err != nil {
		return err.Error()
	}
	older, newer := slices.ContainsFunc(all, x.Old.Equal), slices.ContainsFunc(all, x.New.Equal)
	switch {
	case !newer:
		return "lacks the new CA"
	case to == pki.After && older:
		return "has the old CA"
	}
	return ""
}

// clusterInfo is what nodes that join by a token alone are told.
func (o ClusterOptions) clusterInfo(ctx context.Context, c *kube.Client, to pki.Stage) ([]kubeedit.Edit, error) {
	const namespace, name, key = "kube-public", "cluster-info", "kubeconfig"
	x, ok := o.main()
	if !ok {
		return nil, nil
	}
	data, err := c.ConfigMap(ctx, namespace, name)
	if err != nil || data[key] == "" {
		return nil, err
	}
	was, _, err := kubeadm.AuthorityOf([]byte(data[key]))
	if err != nil {
		return nil, fmt.Errorf("configmap %s/%s: %w", namespace, name, err)
	}
	why := behind(was, x, to)
	if why == "" {
		return nil, nil
	}
	return []kubeedit.Edit{{Change: plan.Change{Object: "configmap " + namespace + "/" + name, From: why, To: to.String()}, Apply: func(ctx context.Context, c *kube.Client) error {
		next, err := kubeadm.WithAuthority([]byte(data[key]), x.Bundle(to))
		if err != nil {
			return err
		}
		return c.SetConfigMap(ctx, namespace, name, key, string(next), false)
	}}}, nil
}

// authentication is what API servers tell aggregated ones and the other components of
// the control plane. They add their CAs by themselves, and never take one away.
func (o ClusterOptions) authentication(ctx context.Context, c *kube.Client, to pki.Stage) ([]kubeedit.Edit, error) {
	const namespace, name = "kube-system", "extension-apiserver-authentication"
	data, err := c.ConfigMap(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	var out []kubeedit.Edit
	for _, x := range o.Rotations {
		key, ok := map[string]string{"ca": "client-ca-file", "front-proxy-ca": "requestheader-client-ca-file"}[x.CA.Name]
		if !ok || data[key] == "" {
			continue
		}
		why := behind([]byte(data[key]), x, to)
		if why == "" {
			continue
		}
		e := kubeedit.Edit{Change: plan.Change{Object: "configmap " + namespace + "/" + name + ": " + key, From: why, To: to.String()}}
		if to == pki.After {
			next, err := without([]byte(data[key]), x)
			if err != nil {
				return nil, err
			}
			e.Apply = func(ctx context.Context, c *kube.Client) error {
				return c.SetConfigMap(ctx, namespace, name, key, string(next), false)
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// without returns CAs with the new one in the place of the old one.
func without(text []byte, x pki.Rotation) ([]byte, error) {
	all, err := pki.All(text)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c *x509.Certificate) bool { return c.Equal(x.Old) || c.Equal(x.New) })
	return append(x.Bundle(pki.After), pki.Encode(all...)...), nil
}

// published is what pods of all namespaces trust. The controller manager keeps it.
func (o ClusterOptions) published(ctx context.Context, c *kube.Client, to pki.Stage) ([]kubeedit.Edit, error) {
	x, ok := o.main()
	if !ok {
		return nil, nil
	}
	all, err := c.RootCAs(ctx)
	if err != nil {
		return nil, err
	}
	var some []string
	why := ""
	for _, ns := range slices.Sorted(maps.Keys(all)) {
		if w := behind([]byte(all[ns].PEM), x, to); w != "" {
			some, why = append(some, ns), w
		}
	}
	if len(some) == 0 {
		return nil, nil
	}
	return []kubeedit.Edit{{Change: plan.Change{Object: fmt.Sprintf("configmap kube-root-ca.crt of %d namespaces", len(some)), From: why + " in " + some[0], To: to.String() + ", by the controller manager"}}}, nil
}

// told is the value of CAMark at a stage.
func (o ClusterOptions) told(to pki.Stage) string {
	x, _ := o.main()
	sum := sha256.Sum256(x.Bundle(to))
	return hex.EncodeToString(sum[:8])
}

// workloads are the cluster's own: kube-proxy, CoreDNS, the pod network and what else is
// beside them.
func (o ClusterOptions) workloads(ctx context.Context, c *kube.Client, to pki.Stage) ([]kubeedit.Edit, error) {
	if _, ok := o.main(); !ok {
		return nil, nil
	}
	all, err := c.Templates(ctx, CAMark, o.Namespaces...)
	if err != nil {
		return nil, err
	}
	want := o.told(to)
	var out, waits []kubeedit.Edit
	for _, t := range all {
		object := t.Kind + " " + t.Namespace + "/" + t.Name
		switch {
		case t.Value != want && t.Value != o.told(pki.After):
			out = append(out, kubeedit.Edit{Change: plan.Change{Object: object, From: "its pods may have other CAs", To: "they are replaced, one after another"}, Apply: func(ctx context.Context, c *kube.Client) error {
				return c.Annotate(ctx, t, CAMark, want)
			}})
		case t.Unready != nil:
			waits = append(waits, kubeedit.Edit{Change: plan.Change{Object: object, From: t.Unready.Error(), To: "ready"}})
		}
	}
	return append(out, waits...), nil
}
