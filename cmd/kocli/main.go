// Command kocli installs and operates Kubernetes where there is no internet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kocli/kocli/pkg/cli"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "none"
	date    = "unknown"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := untilSignal()
	defer stop()
	code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
		cli.Build{Version: version, Commit: commit, Date: date}, time.Now)
	return int(code)
}

// untilSignal returns a context that the first signal ends, so that the run ends in
// order; a second signal ends the process at once. What comes within a second is
// still the first: timeout(1) and others that pass a signal on deliver one Ctrl-C
// several times.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	return ctx, stop
}
