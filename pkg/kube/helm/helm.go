// Package helm installs, upgrades, removes and renders Helm charts through Helm's
// own SDK. Releases are those that `helm list` shows. It is the only importer of
// Helm; it knows nothing of hosts, bundles and add-ons.
package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	hkube "helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/kube"
)

// Release is a chart as it should run.
type Release struct {
	Name, Namespace string
	Chart           []byte            // packed
	Values          map[string]any    // over the chart's own
	Labels          map[string]string // of the release
}

// keep is how many revisions of a release stay, as with Helm's own command.
const keep = 10

// open unpacks the chart of a release. Values are copied: Helm writes into them.
func (r Release) open() (*chart.Chart, map[string]any, error) {
	c, err := loader.LoadArchive(bytes.NewReader(r.Chart))
	if err != nil {
		return nil, nil, fmt.Errorf("chart of %s: %w", r.Name, err)
	}
	values, err := clone(r.Values)
	return c, values, err
}

// getter hands Helm the connection of a client.
type getter struct {
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
	namespace string
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }
func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }
func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}

// configuration is Helm's, for a namespace. Not by its own Init, which reads the
// environment.
func configuration(c *kube.Client, namespace string) (*action.Configuration, error) {
	d, err := discovery.NewDiscoveryClientForConfig(c.Config())
	if err != nil {
		return nil, err
	}
	g := &getter{config: c.Config(), discovery: memory.NewMemCacheClient(d), namespace: namespace}
	g.mapper = restmapper.NewDeferredDiscoveryRESTMapper(g.discovery)
	quiet := slog.DiscardHandler
	cfg := action.NewConfiguration(action.ConfigurationSetLogger(quiet))
	client := hkube.New(g)
	client.Namespace = namespace
	client.SetLogger(quiet)
	secrets := driver.NewSecrets(c.Typed.CoreV1().Secrets(namespace))
	secrets.SetLogger(quiet)
	cfg.RESTClientGetter, cfg.KubeClient, cfg.Releases = g, client, storage.Init(secrets)
	cfg.Releases.SetLogger(quiet)
	return cfg, nil
}

// last returns the latest revision of a release; nil where there is none.
func last(cfg *action.Configuration, name string) (*release.Release, error) {
	r, err := cfg.Releases.Last(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for release %s: %w", name, err)
	}
	v1, ok := r.(*release.Release)
	if !ok {
		return nil, fmt.Errorf("release %s is of a newer Helm, which this kocli does not know", name)
	}
	return v1, nil
}

// Deploy makes a release be as described and waits until what it is made of is ready,
// for as long as timeout. Where that fails, the release is what it was before, or is
// not there. What a process that was killed left half done is gone on with. When ctx
// ends, Deploy returns at once, and leaves just that.
func Deploy(ctx context.Context, c *kube.Client, r Release, timeout time.Duration) error {
	ch, values, err := r.open()
	if err != nil {
		return err
	}
	if err := c.EnsureNamespace(ctx, r.Namespace); err != nil {
		return fmt.Errorf("namespace %s: %w", r.Namespace, err)
	}
	cfg, err := configuration(c, r.Namespace)
	if err != nil {
		return err
	}
	return whileWatched(ctx, c, r, func(ctx context.Context) error {
		was, err := last(cfg, r.Name)
		if err != nil {
			return err
		}
		if was, err = recovered(cfg, was, timeout); err != nil {
			return err
		}
		if was == nil {
			err = install(ctx, cfg, r, ch, values, timeout)
		} else {
			err = upgrade(ctx, cfg, r, ch, values, timeout)
		}
		if err != nil {
			return err
		}
		return recorded(cfg, r)
	})
}

// recorded returns nil when a release is deployed in its own words. Helm says nothing
// where it could not write that down.
func recorded(cfg *action.Configuration, r Release) error {
	now, err := last(cfg, r.Name)
	switch {
	case err != nil:
		return err
	case now == nil:
		return fmt.Errorf("release %s/%s was installed, and is gone", r.Namespace, r.Name)
	case now.Info.Status != common.StatusDeployed:
		return fmt.Errorf("release %s/%s was installed, and is recorded as %s", r.Namespace, r.Name, now.Info.Status)
	}
	return nil
}

// recovered brings a release that a killed process left into a state that Helm goes
// on from; nil where nothing is left of it. A release that somebody else's Helm works
// on is left alone.
func recovered(cfg *action.Configuration, r *release.Release, timeout time.Duration) (*release.Release, error) {
	switch {
	case r == nil:
		return nil, nil
	case r.Info.Status.IsPending():
		if r.Labels[kube.LabelAddon] == "" {
			return nil, fault.New(fault.Failure, fmt.Sprintf("wait for it; if nobody works on it: helm rollback %s -n %s, then run again", r.Name, r.Namespace),
				fmt.Errorf("release %s/%s is %s, and not by kocli", r.Namespace, r.Name, r.Info.Status))
		}
		r.SetStatus(common.StatusFailed, "its kocli was ended before it was done")
		if err := cfg.Releases.Update(r); err != nil {
			return nil, fmt.Errorf("release %s: %w", r.Name, err)
		}
	case r.Info.Status == common.StatusUninstalling, r.Info.Status == common.StatusUninstalled:
		return nil, uninstall(cfg, r.Name, timeout)
	}
	return r, nil
}

func install(ctx context.Context, cfg *action.Configuration, r Release, ch *chart.Chart, values map[string]any, timeout time.Duration) error {
	in := action.NewInstall(cfg)
	in.ReleaseName, in.Namespace, in.Labels, in.Timeout = r.Name, r.Namespace, r.Labels, timeout
	in.WaitStrategy, in.WaitForJobs, in.RollbackOnFailure = waiting, true, true
	in.DisableOpenAPIValidation = true // the API server holds each object against its schema itself
	_, err := in.RunWithContext(ctx, ch, values)
	return err
}

// waiting polls: a watch that is lost in a tunnel is noticed late.
const waiting = hkube.LegacyStrategy

func upgrade(ctx context.Context, cfg *action.Configuration, r Release, ch *chart.Chart, values map[string]any, timeout time.Duration) error {
	_, err := cfg.Releases.Deployed(r.Name)
	once := err == nil // it was whole once: there is something to go back to
	up := upgrading(cfg, r)
	up.Timeout, up.WaitForJobs, up.RollbackOnFailure = timeout, true, once
	if _, err = up.RunWithContext(ctx, r.Name, ch, values); err == nil || once {
		return err
	}
	if uerr := uninstall(cfg, r.Name, timeout); uerr != nil {
		return errors.Join(err, uerr)
	}
	return fmt.Errorf("release %s failed, and has been uninstalled: %w", r.Name, err)
}

func upgrading(cfg *action.Configuration, r Release) *action.Upgrade {
	up := action.NewUpgrade(cfg)
	up.Namespace, up.Labels, up.MaxHistory = r.Namespace, r.Labels, keep
	up.WaitStrategy = waiting
	up.ResetValues = true // what is not in the YAML any more is not set any more
	up.ServerSideApply, up.ForceConflicts = "true", true
	up.DisableOpenAPIValidation = true
	return up
}

// Remove takes a release out of the cluster and waits until its objects are gone. One
// that is not there is no error. CRDs and what was made of them stay, as Helm has it.
func Remove(ctx context.Context, c *kube.Client, namespace, name string, timeout time.Duration) error {
	cfg, err := configuration(c, namespace)
	if err != nil {
		return err
	}
	return ended(ctx, func() error { return uninstall(cfg, name, timeout) })
}

func uninstall(cfg *action.Configuration, name string, timeout time.Duration) error {
	un := action.NewUninstall(cfg)
	un.IgnoreNotFound, un.WaitStrategy, un.Timeout, un.DeletionPropagation = true, waiting, timeout, "foreground"
	if _, err := un.Run(name); err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return fmt.Errorf("uninstall %s: %w", name, err)
	}
	return nil
}

// ended runs f, and does not wait for it any longer than ctx lasts.
func ended(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whileWatched runs f and adds to its error what pods of the release lacked: when f
// returns, they are gone. A host that is lost ends the wait: Helm would go on asking.
func whileWatched(ctx context.Context, c *kube.Client, r Release, f func(context.Context) error) error {
	watched, stop := context.WithCancel(ctx)
	lost, said := make(chan error, 1), make(chan string, 1)
	go func() { said <- lacking(watched, c, r, lost) }()
	done := make(chan error, 1)
	go func() { done <- f(context.WithoutCancel(ctx)) }()
	var err error
	select {
	case err = <-done:
	case err = <-lost:
	case <-ctx.Done():
		err = ctx.Err()
	}
	stop()
	why := <-said
	if err != nil && why != "" && ctx.Err() == nil {
		err = fmt.Errorf("%w (%s)", err, why)
	}
	return err
}

// lacking asks until ctx ends, and returns what pods last lacked. It says when the host
// is lost through which it asks.
func lacking(ctx context.Context, c *kube.Client, r Release, lost chan<- error) string {
	why := ""
	for {
		select {
		case <-ctx.Done():
			return why
		case <-time.After(time.Second):
		}
		pods, err := c.Pods(ctx, r.Namespace, map[string]string{"app.kubernetes.io/instance": r.Name})
		if fault.CodeOf(err) == fault.Unreachable {
			lost <- err
			return why
		}
		var lacks []string
		for i := range pods {
			if ok, what := kube.PodReady(&pods[i]); !ok && pods[i].DeletionTimestamp == nil {
				lacks = append(lacks, fmt.Sprintf("pod %s/%s: %s", r.Namespace, pods[i].Name, what))
			}
		}
		if len(lacks) > 0 {
			why = strings.Join(lacks, "; ")
		}
	}
}
