// Package kubeedit changes a cluster that runs where kubeadm has no command for it:
// objects that kubeadm keeps in the API, and what a kubelet has to be restarted for.
package kubeedit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

// Edit is one object that is not as it should be, and what changes it.
type Edit struct {
	plan.Change
	Apply func(context.Context, *kube.Client) error
}

// Step makes the edits that list returns, in their order. Where there is no cluster
// yet there is nothing to do: init writes what it is told.
func Step(name string, api kube.API, list func(context.Context, *kube.Client) ([]Edit, error)) plan.Step {
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := api.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			edits, err := list(ctx, c)
			if err != nil {
				return nil, err
			}
			var out []plan.Change
			for _, e := range edits {
				out = append(out, e.Change)
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := api.Dial(ctx)
			if err != nil {
				return err
			}
			edits, err := list(ctx, c)
			if err != nil {
				return err
			}
			for _, e := range edits {
				if err := e.Apply(ctx, c); err != nil {
					return fmt.Errorf("%s: %w", e.Object, err)
				}
			}
			return nil
		},
	}
}

const system, proxy = "kube-system", "kube-proxy"

// Proxy is a part of kube-proxy's ConfigMap that its pods read when they start, and
// only then. What its pods have been told last is the annotation Mark of their
// template; what they should be told stands under the same name beside that part,
// and is written before it, so that a run that is cut off is made up for.
type Proxy struct {
	Mark string
	data map[string]string
	want string
	told string
}

// ReadProxy asks for the ConfigMap and for what the pods were told.
func ReadProxy(ctx context.Context, c *kube.Client, mark string) (*Proxy, error) {
	data, err1 := c.ConfigMap(ctx, system, proxy)
	told, err2 := c.TemplateAnnotation(ctx, system, proxy, mark)
	return &Proxy{Mark: mark, data: data, want: data[mark], told: told}, errors.Join(err1, err2)
}

// Text is a part of the ConfigMap; "" where kubeadm has not made it yet.
func (p *Proxy) Text(key string) string { return p.data[key] }

// Set is the edit that changes a part: value is what the mark says of it then.
func (p *Proxy) Set(ch plan.Change, key, value string, next func() (string, error)) Edit {
	p.want = value
	return Edit{ch, func(ctx context.Context, c *kube.Client) error {
		text, err := next()
		if err != nil {
			return err
		}
		if err := c.SetConfigMap(ctx, system, proxy, p.Mark, value, false); err != nil {
			return err
		}
		return c.SetConfigMap(ctx, system, proxy, key, text, false)
	}}
}

// Rollout is the edit that replaces the pods where they were told something older;
// none where they were not.
func (p *Proxy) Rollout(older string) []Edit {
	if p.want == "" || p.told == p.want {
		return nil
	}
	want := p.want
	return []Edit{{plan.Change{Object: proxy, From: "runs with " + older, To: "its pods are replaced, one after another"}, func(ctx context.Context, c *kube.Client) error {
		return c.AnnotateTemplate(ctx, system, proxy, p.Mark, want)
	}}}
}

// Restart is a file on a host which says that its kubelet has not been restarted
// since something changed that it reads when it starts. It is there before the
// change, and goes after the restart. A restart does not touch pods.
// It is a name below kubeadm.ConfigDir.
type Restart string

func (x Restart) path() string { return kubeadm.ConfigDir + "/" + string(x) }

// Due returns the change where a restart is due; older is what the kubelet runs with,
// such as "an older kubeconfig".
func (x Restart) Due(ctx context.Context, r host.Reader, older string) ([]plan.Change, error) {
	_, err := r.Stat(ctx, x.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return []plan.Change{{Object: "service kubelet.service", From: "runs with " + older, To: "restart"}}, err
}

// Ask says that a restart will be due.
func (x Restart) Ask(ctx context.Context, h host.Host) error {
	_, err := h.Put(ctx, host.Bytes(x.path(), 0o600, nil))
	return err
}

// Do restarts the kubelet where it is due.
func (x Restart) Do(ctx context.Context, h host.Host) error {
	if _, err := h.Stat(ctx, x.path()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("systemctl", "restart", "kubelet.service")); err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager", h.Name()), err)
	}
	return h.Remove(ctx, x.path())
}
