package addons

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
)

// Namespace is where the proofs are kept, and made.
const Namespace = "kocli-system"

// evidence is the ConfigMap that says with which chart and values the volumes of a
// storage were last proved, by add-on.
const evidence = "addons-proved"

// proof tells a chart with its values from another.
func (o Options) proof() string { return o.Chart.Digest() + "-" + o.Addon.ValuesDigest() }

// checkHealth asks whether the add-on works. That of a volume is kept with what it was
// made of: it is not made again each time.
func (o Options) checkHealth(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	c, err := o.API.Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return []plan.Change{{Object: o.object(), To: "proved to work", After: "addon/" + o.Addon.Name}}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := o.find(ctx, c)
	if err != nil {
		return nil, err
	}
	if r == nil || r.Status != kube.StatusDeployed {
		return []plan.Change{{Object: o.object(), To: "proved to work", After: "addon/" + o.Addon.Name}}, nil
	}
	if err := o.works(ctx, c); err != nil {
		return []plan.Change{{Object: o.object(), From: err.Error(), To: "healthy"}}, nil
	}
	if o.Addon.Health.Volume {
		known, err := c.ConfigMap(ctx, Namespace, evidence)
		if err != nil {
			return nil, err
		}
		if known[o.Addon.Name] != o.proof() {
			return []plan.Change{{Object: "storage class " + o.Addon.Class, From: "not proved", To: "written and read"}}, nil
		}
	}
	return nil, nil
}

// works returns nil when the deployments are ready and the API answers.
func (o Options) works(ctx context.Context, c *kube.Client) error {
	h := o.Addon.Health
	for _, d := range h.Deployments {
		if err := c.DeploymentReady(ctx, o.Addon.Namespace, d); err != nil {
			return err
		}
	}
	if h.Answers == "" {
		return nil
	}
	have, err := c.Answers(ctx, h.Answers)
	if err != nil || !h.EachNode {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for i := range nodes {
		if kube.NodeReady(&nodes[i]) && !slices.Contains(have, nodes[i].Name) {
			missing = append(missing, nodes[i].Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s says nothing of %s", h.Answers, strings.Join(missing, ", "))
	}
	return nil
}

// settle is how long an add-on that is deployed has to answer: metrics come every 15 s.
const settle = 2 * time.Minute

func (o Options) prove(ctx context.Context, _ host.Host) error {
	if changes, err := o.checkHealth(ctx, nil); err != nil || len(changes) == 0 {
		return err
	}
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if err := kube.Poll(wait, time.Second, func(ctx context.Context) error { return o.works(ctx, c) }); err != nil {
		err = c.Explain(ctx, err, o.Addon.Namespace, map[string]string{"app.kubernetes.io/instance": o.Addon.Name})
		return o.advise("kubectl -n "+o.Addon.Namespace+" get pods", err)
	}
	if !o.Addon.Health.Volume {
		return nil
	}
	return o.proveVolume(ctx, c)
}

func (o Options) advise(look string, err error) error {
	if fault.CodeOf(err) == fault.Unreachable {
		return err
	}
	return fault.New(fault.Failure, "look at "+look+"; then type the same command again", fmt.Errorf("%s does not work: %w", o.object(), err))
}

// proveVolume writes a file through a claim with one pod and reads it with another.
// What a run that was cut off left is gone on with: the objects are the same.
func (o Options) proveVolume(ctx context.Context, c *kube.Client) error {
	text, err := VolumeCheck(o.Addon.Class, o.Addon.Helper, o.proof())
	if err != nil {
		return err
	}
	objs, err := kube.Decode(text)
	if err != nil {
		return err
	}
	if err := c.EnsureNamespace(ctx, Namespace); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	claim := objs[0]
	if err := clearProof(wait, c, claim, objs[1:]); err != nil {
		return err
	}
	for _, pod := range objs[1:] {
		if err := c.Apply(wait, []*unstructured.Unstructured{claim, pod}); err != nil {
			return err
		}
		if err := kube.Poll(wait, time.Second, func(ctx context.Context) error { return c.PodEnded(ctx, Namespace, pod.GetName()) }); err != nil {
			return o.advise("kubectl -n "+Namespace+" describe pvc,pod", err)
		}
		if err := c.Delete(wait, []*unstructured.Unstructured{pod}); err != nil {
			return err
		}
	}
	if err := c.DropClaim(wait, Namespace, claim.GetName()); err != nil {
		return err
	}
	return c.SetConfigMap(ctx, Namespace, evidence, o.Addon.Name, o.proof(), true)
}

// clearProof takes away what a run has left and this one cannot go on with: a pod that
// has failed, and objects of another proof, which could not be changed into these.
func clearProof(ctx context.Context, c *kube.Client, claim *unstructured.Unstructured, pods []*unstructured.Unstructured) error {
	other, err := c.Outdated(ctx, append([]*unstructured.Unstructured{claim}, pods...))
	if err != nil {
		return err
	}
	for _, pod := range pods {
		failed := errors.Is(c.PodEnded(ctx, Namespace, pod.GetName()), kube.ErrFinal)
		if failed || slices.Contains(other, pod) || slices.Contains(other, claim) {
			if err := c.DropPod(ctx, Namespace, pod.GetName()); err != nil {
				return err
			}
		}
	}
	if slices.Contains(other, claim) {
		return c.DropClaim(ctx, Namespace, claim.GetName())
	}
	return nil
}

// VolumeCheck renders what proves a storage class.
func VolumeCheck(class, image, proof string) ([]byte, error) {
	return render.File(manifests.FS, "volumecheck.yaml", map[string]string{"Namespace": Namespace, "Class": class, "Image": image, "Proof": proof})
}

// forget drops the proof of an add-on that is gone.
func forget(ctx context.Context, c *kube.Client, name string) error {
	known, err := c.ConfigMap(ctx, Namespace, evidence)
	if err != nil || known[name] == "" {
		return err
	}
	return c.SetConfigMap(ctx, Namespace, evidence, name, "", false)
}
