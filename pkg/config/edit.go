package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
)

// AddHost returns text with a host at the end of spec.hosts, written as the last
// one there is written. Every other byte stays as it is.
//
// This and its two siblings edit the text of a cluster.yaml, guided by where the
// parser finds things. The result is decoded again, and where that is not exactly
// the cluster that was meant, nothing but an error is returned. Whether that
// cluster is valid is for Read to say.
func AddHost(text []byte, h v1alpha1.Host) ([]byte, error) {
	return edit(text, func(l *hostList, hosts []v1alpha1.Host) ([]byte, []v1alpha1.Host, error) {
		if i := index(hosts, h.Name); i >= 0 {
			return nil, nil, fmt.Errorf("spec.hosts has a host %s already (line %d)", h.Name, l.items[i].node.Line)
		}
		out, err := l.add(h)
		return out, append(slices.Clone(hosts), h), err
	})
}

// RemoveHost returns text without the host of that name, and without the comment
// lines that stand directly above it and are indented like it. See AddHost.
func RemoveHost(text []byte, name string) ([]byte, error) {
	return edit(text, func(l *hostList, hosts []v1alpha1.Host) ([]byte, []v1alpha1.Host, error) {
		i := index(hosts, name)
		if i < 0 {
			return nil, nil, fmt.Errorf("spec.hosts has no host %s", name)
		}
		if len(hosts) == 1 {
			return nil, nil, fmt.Errorf("%s is the only host: a cluster without one is none", name)
		}
		return l.remove(i), slices.Delete(slices.Clone(hosts), i, i+1), nil
	})
}

// ReplaceHost returns text with a host in the place of the one called old. The
// comments above it stay. See AddHost.
func ReplaceHost(text []byte, old string, h v1alpha1.Host) ([]byte, error) {
	return edit(text, func(l *hostList, hosts []v1alpha1.Host) ([]byte, []v1alpha1.Host, error) {
		i := index(hosts, old)
		if i < 0 {
			return nil, nil, fmt.Errorf("spec.hosts has no host %s", old)
		}
		if j := index(hosts, h.Name); j >= 0 && j != i {
			return nil, nil, fmt.Errorf("spec.hosts has a host %s already (line %d)", h.Name, l.items[j].node.Line)
		}
		out, err := l.replace(i, h)
		want := slices.Clone(hosts)
		want[i] = h
		return out, want, err
	})
}

func index(hosts []v1alpha1.Host, name string) int {
	return slices.IndexFunc(hosts, func(h v1alpha1.Host) bool { return h.Name == name })
}

// edit decodes text, has its list of hosts changed, and holds the result against
// the hosts that were meant.
func edit(text []byte, change func(*hostList, []v1alpha1.Host) ([]byte, []v1alpha1.Host, error)) ([]byte, error) {
	byHand := func(err error) error {
		return fault.New(fault.Usage, "edit spec.hosts by hand, then: kocli validate -f cluster.yaml", fmt.Errorf("edit spec.hosts: %w", err))
	}
	root, was, err := decoded(text)
	if err != nil {
		return nil, byHand(err)
	}
	l, err := newHostList(text, root)
	if err != nil {
		return nil, byHand(err)
	}
	out, hosts, err := change(l, was.Spec.Hosts)
	if err != nil {
		return nil, byHand(err)
	}
	was.Spec.Hosts = hosts
	_, is, err := decoded(out)
	if err != nil {
		return nil, byHand(fmt.Errorf("this list is written in a way that cannot be edited: %w", err))
	}
	if !equal(reflect.ValueOf(was), reflect.ValueOf(is)) {
		return nil, byHand(errors.New("this list is written in a way that cannot be edited: the result would be another cluster"))
	}
	return out, nil
}

// decoded returns the cluster as it is written, without defaults.
func decoded(text []byte) (*yaml.Node, *v1alpha1.Cluster, error) {
	if len(text) > maxSize {
		return nil, nil, fmt.Errorf("larger than %d MiB, which no cluster.yaml is", maxSize>>20)
	}
	root, err := clusterDocument(text)
	if err != nil {
		return nil, nil, err
	}
	c, d := &v1alpha1.Cluster{}, newDecoder()
	d.decode(root, c)
	if len(d.found) > 0 {
		return nil, nil, d.found
	}
	return root, c, nil
}

// equal is reflect.DeepEqual, but what is empty is equal to what is not there:
// both are written as nothing.
func equal(a, b reflect.Value) bool {
	if a.IsValid() != b.IsValid() || a.IsValid() && a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return equal(a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !equal(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for _, k := range a.MapKeys() {
			if v := b.MapIndex(k); !v.IsValid() || !equal(a.MapIndex(k), v) {
				return false
			}
		}
		return true
	}
	return !a.IsValid() || a.Equal(b)
}

// hostText writes a host: in one line in flow style, otherwise in lines.
func hostText(h v1alpha1.Host, flow bool) ([]string, error) {
	raw, err := json.Marshal(h) // the order of the fields is that of the type
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	style(doc.Content[0], flow)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc.Content[0]), enc.Close()); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if flow && len(lines) > 1 {
		return nil, fmt.Errorf("host %s does not fit in one line", h.Name)
	}
	return lines, nil
}

// style has lists, and all below them, stand in one line.
func style(n *yaml.Node, flow bool) {
	flow = flow || n.Kind == yaml.SequenceNode
	n.Style = 0
	if flow && n.Kind != yaml.ScalarNode {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		style(c, flow)
	}
}
