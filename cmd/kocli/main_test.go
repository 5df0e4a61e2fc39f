package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
)

// canary is a secret that must never be seen anywhere.
const canary = "canary-7f3a9c51"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kocli": main})
}

func TestScripts(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{
		"root": {Password: canary},
		"ops":  {Password: canary, Sudo: sshtest.SudoPassword, SudoSecret: canary},
	}, Functions: "systemctl() { echo ActiveState=inactive; }\n"}) // where tests run there need not be one that answers
	registry := archivetest.Registry(t)
	other := sshtest.Signer(t).PublicKey() // a key that the server does not have
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CANARY", canary)
			e.Setenv("SSH_AUTH_SOCK", "")
			e.Setenv("REGISTRY", registry)
			e.Setenv("SSH_PORT", strconv.Itoa(server.Port))
			e.Setenv("OTHER_KEY", other.Type()+" "+base64.StdEncoding.EncodeToString(other.Marshal()))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bundle":   bundle,
			"chart":    chart,
			"code":     code,
			"jsonline": jsonLine,
			"mirror":   mirror,
			"nocanary": noCanary,
			"expand":   expand,
			"hold":     hold,
			"truncate": truncateTo,
		},
	})
}

// code runs kocli and wants an exit code: code 2 plan -f cluster.yaml.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: code N ARG...")
	}
	got := 0
	if err := ts.Exec("kocli", args[1:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("kocli: %v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// expand replaces $VARIABLES in a file.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// jsonLine wants every line of a file to be a JSON object, and in the last one
// a field of a value: jsonline stdout exitCode 2.
func jsonLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: jsonline FILE FIELD VALUE")
	}
	var last map[string]any
	for _, l := range strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n") {
		last = nil
		ts.Check(json.Unmarshal([]byte(l), &last))
	}
	if got := fmt.Sprint(last[args[1]]); got != args[2] {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[2])
	}
}

// noCanary wants the canary neither in the last output nor in a file below the
// folders.
func noCanary(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("nocanary cannot be negated")
	}
	for _, f := range []string{"stdout", "stderr"} {
		if strings.Contains(ts.ReadFile(f), canary) {
			ts.Fatalf("the secret is in %s", f)
		}
	}
	for _, dir := range args {
		ts.Check(filepath.WalkDir(ts.MkAbs(dir), func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			if err == nil && strings.Contains(string(data), canary) {
				err = fmt.Errorf("the secret is in %s", p)
			}
			return err
		}))
	}
}
