package kube_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// The checks of a large cluster ask for every node at the same time: that is one
// list, and each asker gets a node of its own.
func TestNode_manyQuestionsAtOnceAreOneList(t *testing.T) {
	_, c, look, _ := cluster(t)
	const n = 200
	for i := range n {
		c.AddNode(fmt.Sprintf("n-%d", i))
	}
	var lists, gets atomic.Int32
	c.BeforeRead = func(path string) {
		switch {
		case path == "/api/v1/nodes":
			lists.Add(1)
		case strings.HasPrefix(path, "/api/v1/nodes/"):
			gets.Add(1)
		}
	}
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n + 1 { // the last is not there
		wg.Go(func() {
			<-start
			name := fmt.Sprintf("n-%d", i)
			got, err := look.Node(t.Context(), name)
			switch {
			case err != nil:
				t.Error(err)
			case i == n && got != nil:
				t.Errorf("a node that is not there: %v", got.Name)
			case i < n && (got == nil || got.Name != name):
				t.Errorf("asked for %s, got %v", name, got)
			case i < n:
				got.Name = "mine"
			}
		})
	}
	close(start)
	wg.Wait()
	if lists.Load() == 0 || lists.Load()+gets.Load() > n/2 {
		t.Errorf("%d lists and %d single questions", lists.Load(), gets.Load())
	}
}

func TestNode_aFewQuestionsAreAskedOneByOne(t *testing.T) {
	_, c, look, _ := cluster(t)
	c.AddNode("n-1")
	c.BeforeRead = func(path string) {
		if path == "/api/v1/nodes" {
			t.Error("all nodes were listed for one")
		}
	}
	for name, there := range map[string]bool{"n-1": true, "n-2": false} {
		if n, err := look.Node(t.Context(), name); err != nil || (n != nil) != there {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := look.Node(ctx, "n-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
