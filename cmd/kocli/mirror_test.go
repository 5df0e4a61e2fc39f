package main

import (
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kocli/kocli/pkg/archive/archivetest"
)

// mirror writes a folder for --mirror with what the catalogue names for a version
// of Kubernetes: mirror FOLDER VERSION.
func mirror(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mirror FOLDER VERSION")
	}
	ts.Check(archivetest.Mirror(ts.MkAbs(args[0]), args[1]))
}

// chart writes a packed Helm chart: chart FILE NAME VERSION.
func chart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: chart FILE NAME VERSION")
	}
	data := archivetest.Tarball(args[1]+"/Chart.yaml", []byte("apiVersion: v2\nname: "+args[1]+"\nversion: "+args[2]+"\n"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}
