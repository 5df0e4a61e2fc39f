package workflow

import (
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
)

// RestorePhases are the phases of a restore of a cluster onto its hosts.
func RestorePhases(c *Cluster, id string, files []host.File, snapshot host.File) ([]plan.Phase, error) {
	c.Bundle = &archive.Bundle{}
	s := &Session{inv: c.Inventory, bundle: c.Bundle, o: Options{Inventory: c.Inventory, Clock: c.Clock}}
	return (&restoring{Session: s, cluster: c, id: id, files: files, snapshot: &snapshot, members: c.Inventory}).phases()
}
