package main

import (
	"context"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kocli/kocli/pkg/state"
)

// hold takes the lock of a cluster below a home, as another run of kocli would,
// until the script ends: hold HOME CLUSTER.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hold HOME CLUSTER")
	}
	release, err := state.Open(ts.MkAbs(args[0]), args[1]).Lock(context.Background(), state.Holder{
		PID: os.Getpid(), User: "wang", Host: "jump-1", Command: "kocli upgrade -f prod.yaml", Since: time.Now(),
	})
	ts.Check(err)
	ts.Defer(func() { _ = release() })
}
