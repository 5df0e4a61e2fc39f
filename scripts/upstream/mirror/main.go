// Command mirror lays out upstream components as upstream's servers do and
// serves them on one local address: files under /HOST/PATH, images under
// /v2/HOST/NAME, and fetches the part of a Debian archive that goes with them.
//
//	mirror add -root DIR SPEC.json          put files and images into the tree
//	mirror debs -archive URL -suite S -out DIR PACKAGE...
//	mirror serve -root DIR -listen ADDRESS -url-file FILE
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: mirror add|debs|serve")
	}
	switch args[0] {
	case "add":
		return runAdd(args[1:])
	case "debs":
		return runDebs(ctx, args[1:], stdout)
	case "serve":
		return runServe(ctx, args[1:])
	}
	return fmt.Errorf("no command %q", args[0])
}
