package netcheck_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/netcheck"
)

func get(t *testing.T, u string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestHandler_answersWhatWorksAndWhatDoesNot(t *testing.T) {
	s := httptest.NewServer(netcheck.Handler("node-1"))
	defer s.Close()
	if code, body := get(t, s.URL+"/node"); code != http.StatusOK || body != "node-1" {
		t.Errorf("%d %q", code, body)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	q, err := json.Marshal(netcheck.Question{
		Names: []string{"127.0.0.1", "no-such-name.invalid"},
		TCP:   []string{strings.TrimPrefix(s.URL, "http://"), closed},
		HTTP:  []string{s.URL + "/node", s.URL + "/absent", "http://" + closed + "/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	code, body := get(t, s.URL+"/check?q="+url.QueryEscape(string(q)))
	var a netcheck.Answer
	if err := json.Unmarshal([]byte(body), &a); err != nil || code != http.StatusOK {
		t.Fatalf("%d %q, %v", code, body, err)
	}
	if a.Node != "node-1" || len(a.Results) != 7 {
		t.Fatalf("got %+v", a)
	}
	want := []string{"resolve no-such-name.invalid", "connect to " + closed, "get " + s.URL + "/absent", "get http://" + closed + "/"}
	failures := a.Failures()
	if len(failures) != len(want) {
		t.Fatalf("failures %+v", failures)
	}
	for i, f := range failures {
		if f.What != want[i] || f.Error == "" {
			t.Errorf("failure %+v, want %s", f, want[i])
		}
	}
	if code, _ := get(t, s.URL+"/check?q=nonsense"); code != http.StatusBadRequest {
		t.Errorf("nonsense: %d", code)
	}
}

func TestServe_endsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := netcheck.Serve(ctx, "127.0.0.1:0", "n"); err != nil {
		t.Error(err)
	}
	if err := netcheck.Serve(t.Context(), "256.0.0.1:0", "n"); err == nil {
		t.Error("an address that cannot be listened on is no error")
	}
}
