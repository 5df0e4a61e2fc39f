package templates

import "embed"

// Node holds the files that kocli writes on hosts, under node/.
//
//go:embed node
var Node embed.FS
