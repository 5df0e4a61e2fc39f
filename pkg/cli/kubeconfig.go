package cli

import (
	"fmt"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) kubeconfigCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "kubeconfig -f CLUSTER.yaml [--to FILE]",
		Short: "Print the administrator's kubeconfig",
		Long: `Fetches the kubeconfig from a control plane over SSH. Where none answers it prints the
copy that the last create kept, and says so. It gives full rights on the cluster:
--to writes it readable for you alone.`,
		Example: `  kocli kubeconfig -f cluster.yaml --to ~/.kube/prod
  KUBECONFIG=~/.kube/prod kubectl get nodes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.kubeconfig(cmd, to) },
	}
	cmd.Flags().StringVar(&to, "to", "", "`file` to write, with mode 0600, instead of stdout")
	cmd.Flags().Lookup("to").Annotations = map[string][]string{ownFlag: {"true"}}
	return cmd
}

func (a *app) kubeconfig(cmd *cobra.Command, to string) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	k, err := workflow.FetchKubeconfig(cmd.Context(), o)
	if err != nil {
		return err
	}
	if k.Unreached != nil {
		printf(a.Err, "note: no control plane answers (%s); this is the copy that was kept: %s\n", troubles(k.Unreached)[0].headline(), k.From)
	}
	doc := map[string]any{"from": k.From, "kept": k.Unreached != nil}
	if to == "" {
		doc["kubeconfig"] = string(k.Data)
		return a.result(fault.OK, doc, func() error {
			_, err := a.Out.Write(k.Data)
			return err
		})
	}
	if err := renameio.WriteFile(to, k.Data, 0o600); err != nil {
		return fault.New(fault.Usage, "name a file in a folder that exists with --to", fmt.Errorf("write kubeconfig: %w", err))
	}
	doc["file"] = to
	return a.result(fault.OK, doc, func() error {
		_, err := fmt.Fprintf(a.Out, "Kubeconfig of cluster %s, from %s: %s\n", o.Inventory.Name, k.From, to)
		return err
	})
}
