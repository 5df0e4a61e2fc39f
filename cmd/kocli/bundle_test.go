package main

import (
	"bytes"
	"os"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
)

// bundle writes a small bundle, of this version of Kubernetes where one is
// given: bundle FILE [VERSION].
func bundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: bundle FILE [VERSION]")
	}
	m, c := archivetest.Sample()
	if len(args) == 2 {
		m, c = archivetest.Release(args[1])
	}
	var b bytes.Buffer
	_, _, err := archive.Write(&b, m, c.Open)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
}

// truncateTo copies the first bytes of a file: truncate FROM TO BYTES.
func truncateTo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: truncate FROM TO BYTES")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	data := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(data[:min(n, len(data))]), 0o600))
}
