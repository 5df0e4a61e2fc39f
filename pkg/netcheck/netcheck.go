// Package netcheck is what `kocli node netcheck` runs in a pod on every node:
// a small HTTP server that, when asked, tries cluster DNS, other pods and
// services from where it stands. It imports nothing of kocli.
package netcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Question is what to try.
type Question struct {
	Names []string `json:"names,omitempty"` // must resolve through the pod's resolver
	TCP   []string `json:"tcp,omitempty"`   // host:port, must accept a connection
	HTTP  []string `json:"http,omitempty"`  // URLs, must answer 200
}

// Answer is what came of it.
type Answer struct {
	Node    string   `json:"node"`
	Results []Result `json:"results"`
}

// Result is one try.
type Result struct {
	What  string `json:"what"` // "resolve kubernetes.default"
	Error string `json:"error,omitempty"`
}

// Failures lists what did not work.
func (a Answer) Failures() []Result {
	var out []Result
	for _, r := range a.Results {
		if r.Error != "" {
			out = append(out, r)
		}
	}
	return out
}

// perTry bounds one try.
const perTry = 5 * time.Second

// Handler answers GET /node with the node's name, and GET /check?q=QUESTION
// with an Answer.
func Handler(node string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /node", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, node) }) // the asker sees it
	mux.HandleFunc("GET /check", func(w http.ResponseWriter, r *http.Request) {
		var q Question
		if err := json.Unmarshal([]byte(r.URL.Query().Get("q")), &q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(Answer{Node: node, Results: Try(r.Context(), q)}) // the asker sees it
	})
	return mux
}

// Try tries everything at once.
func Try(ctx context.Context, q Question) []Result {
	type try struct {
		what string
		run  func(context.Context) error
	}
	var tries []try
	for _, n := range q.Names {
		tries = append(tries, try{"resolve " + n, func(ctx context.Context) error {
			_, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, n)
			return err
		}})
	}
	for _, a := range q.TCP {
		tries = append(tries, try{"connect to " + a, func(ctx context.Context) error {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a)
			if err != nil {
				return err
			}
			return c.Close()
		}})
	}
	for _, u := range q.HTTP {
		tries = append(tries, try{"get " + u, func(ctx context.Context) error { return get(ctx, u) }})
	}
	out := make([]Result, len(tries))
	var wg sync.WaitGroup
	for i, t := range tries {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, perTry)
			defer cancel()
			out[i].What = t.what
			if err := t.run(ctx); err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", res.Status)
	}
	return nil
}

// Serve serves until ctx ends.
func Serve(ctx context.Context, listen, node string) error {
	s := &http.Server{Addr: listen, Handler: Handler(node), ReadHeaderTimeout: perTry}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
