// Command mustrun reads `go test -json` on stdin, prints what matters of it, and
// fails when a test that must run did not run and pass. The list has a package
// and a test name a line; only packages that were tested are compared, and with
// -run only tests that match, as with go test.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	verbose := flag.Bool("v", false, "print what the tests print")
	only := flag.String("run", "", "the tests that were asked for, a regular expression")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: go test -json ... | mustrun [-v] [-run REGEX] LIST") }
	flag.Parse()
	asked, err := regexp.Compile(*only)
	if err != nil || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	list, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	passed, failed, skipped, broken := 0, 0, 0, 0
	ran := map[string]bool{} // "package test" that passed
	tested := map[string]bool{}
	output := map[string]string{}
	s := bufio.NewScanner(os.Stdin)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			fmt.Println(s.Text()) // a compiler's complaint
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output":
			output[key] += e.Output
			if *verbose {
				fmt.Print(e.Output)
			}
		case "build-output":
			fmt.Print(e.Output)
		case "build-fail":
			broken++
		case "pass", "fail", "skip":
			if e.Test == "" {
				tested[e.Package] = true
				if e.Action == "fail" {
					broken++
					fmt.Print(output[key])
				}
				if e.Action != "skip" && !*verbose {
					fmt.Printf("%-5s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
				}
				continue
			}
			switch e.Action {
			case "pass":
				passed++
				ran[key] = true
			case "skip":
				skipped++
				fmt.Printf("skip  %s\n", key)
			case "fail":
				failed++
				if !*verbose {
					fmt.Print(output[key])
				}
			}
		}
	}
	missing := 0
	for _, l := range strings.Split(string(list), "\n") {
		f := strings.Fields(l)
		if len(f) == 2 && !strings.HasPrefix(l, "#") && tested[f[0]] && asked.MatchString(f[1]) && !ran[f[0]+" "+f[1]] {
			missing++
			fmt.Printf("must run, and did not pass: %s %s\n", f[0], f[1])
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed+broken+missing > 0 || passed == 0 {
		os.Exit(1)
	}
}
