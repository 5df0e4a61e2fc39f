// Package kubernetes installs kubeadm, the kubelet and kubectl, and the
// kubelet's service as kubeadm expects it.
package kubernetes

import (
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// Unit is the kubelet's systemd unit.
const Unit = "kubelet.service"

// BinDir is where kubeadm, kubelet and kubectl are.
const BinDir = "/usr/bin"

// Steps returns the steps of the kubernetes phase. The kubelet is enabled, and
// started by kubeadm, which writes its configuration.
func Steps(p payload.Payload) ([]plan.Step, error) {
	binaries, err := p.Binaries("kubernetes", BinDir)
	if err != nil {
		return nil, err
	}
	var units []host.File
	for _, u := range [][2]string{
		{"node/kubelet.service", "/etc/systemd/system/" + Unit},
		{"node/10-kubeadm.conf", "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"},
	} {
		data, err := render.File(templates.Node, u[0], nil)
		if err != nil {
			return nil, err
		}
		units = append(units, host.Bytes(u[1], 0o644, data))
	}
	return []plan.Step{
		converge.Files{Name: "kubernetes/binaries", List: converge.Fixed(binaries), Width: 4},
		converge.Files{Name: "kubernetes/units", List: converge.Fixed(units)},
		converge.Service{Name: "kubernetes/service", Unit: Unit, OnlyEnable: true, After: "kubernetes/units"},
	}, nil
}
