package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/ui"
)

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate -f CLUSTER.yaml",
		Short: "Report every fault of a cluster.yaml, with path and line",
		Long: `Reads the YAML and reports all faults at once: unknown fields with the name that was
probably meant, values that cannot be, address ranges that overlap, settings that
kubeadm would not take. It needs no host and no bundle, and reads no secret.

Exit code 0 when there is no fault, 2 otherwise.`,
		Example: `  kocli validate -f cluster.yaml
  kocli validate -f cluster.yaml -o json
  kocli init --profile ha | kocli validate -f -`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.validate() },
	}
}

// validation is the result of validate. Its JSON is stable.
type validation struct {
	File       string          `json:"file"`
	Valid      bool            `json:"valid"`
	Problems   config.Problems `json:"problems"`
	Cluster    string          `json:"cluster,omitempty"`
	Kubernetes string          `json:"kubernetes,omitempty"`
	Hosts      int             `json:"hosts,omitempty"`
}

func (a *app) validate() error {
	c, err := a.load()
	v := validation{File: a.file, Problems: config.Problems{}}
	if errors.As(err, &v.Problems) {
		if err := a.result(fault.Usage, v, func() error { return a.writeProblems(v) }); err != nil {
			return err
		}
		if a.json() {
			return shown(fault.Usage)
		}
		return fault.New(fault.Usage, "correct the file, then: kocli validate -f "+a.file, fmt.Errorf("%s has %s", a.file, ui.Count(len(v.Problems), "problem")))
	}
	if err != nil {
		return err
	}
	inv, err := inventory.New(c)
	if err != nil {
		return fault.New(fault.Usage, "", err)
	}
	v.Valid, v.Cluster, v.Kubernetes, v.Hosts = true, inv.Name, inv.Version(), len(inv.Nodes)
	return a.result(fault.OK, v, func() error {
		_, err := fmt.Fprintf(a.Out, "%s is valid: cluster %s, Kubernetes %s, %s (%d of them control planes)\n",
			a.file, v.Cluster, v.Kubernetes, ui.Count(v.Hosts, "host"), len(inv.ControlPlanes()))
		return err
	})
}

// writeProblems prints one problem a line, as compilers do: editors jump there.
func (a *app) writeProblems(v validation) error {
	for _, p := range v.Problems {
		at := v.File
		if p.Line > 0 {
			at = fmt.Sprintf("%s:%d", v.File, p.Line)
		}
		if p.Path != "" {
			at += ": " + p.Path
		}
		if _, err := fmt.Fprintf(a.Out, "%s: %s\n", at, p.Message); err != nil {
			return err
		}
	}
	return nil
}
