package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Questions about single nodes that come together are answered by one list.
const (
	nodesTogether = 2 * time.Millisecond // within which questions are together
	nodesFew      = 16                   // that are asked one by one
	nodesTimeout  = 30 * time.Second     // for the answer to all
)

// nodeQuestions are questions about single nodes that wait to be asked together:
// the checks of a plan ask for every node at the same time.
type nodeQuestions struct {
	mu   sync.Mutex
	open *nodeAnswers // takes further questions; nil where nobody asks
}

// nodeAnswers are the answers to questions that were asked together.
type nodeAnswers struct {
	names map[string]bool
	done  chan struct{} // closed when what follows is there
	nodes map[string]*corev1.Node
	all   bool // nodes holds all that there are
	err   error
}

// Node returns a node, or nil where the cluster does not know it. Questions that
// come at the same time are answered together.
func (c *Client) Node(ctx context.Context, name string) (*corev1.Node, error) {
	q := &c.asked
	q.mu.Lock()
	a := q.open
	if a == nil {
		a = &nodeAnswers{names: map[string]bool{}, done: make(chan struct{}), nodes: map[string]*corev1.Node{}}
		q.open = a
		go c.answerNodes(context.WithoutCancel(ctx), a) // for others too, who have not given up
	}
	a.names[name] = true
	q.mu.Unlock()
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("get node %s: %w", name, ctx.Err())
	}
	if a.err != nil {
		return nil, fmt.Errorf("get node %s: %w", name, a.err)
	}
	if n, ok := a.nodes[name]; ok || a.all {
		return n.DeepCopy(), nil
	}
	return c.oneNode(ctx, name)
}

// answerNodes waits for further questions and asks for all nodes, where they are
// many.
func (c *Client) answerNodes(ctx context.Context, a *nodeAnswers) {
	defer close(a.done)
	time.Sleep(nodesTogether)
	c.asked.mu.Lock()
	c.asked.open = nil
	many := len(a.names) > nodesFew
	c.asked.mu.Unlock()
	if !many {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nodesTimeout)
	defer cancel()
	l, err := c.Typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		a.err = err
		return
	}
	a.all = true
	for i := range l.Items {
		a.nodes[l.Items[i].Name] = &l.Items[i]
	}
}

// oneNode asks for one node.
func (c *Client) oneNode(ctx context.Context, name string) (*corev1.Node, error) {
	n, err := c.Typed.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", name, err)
	}
	return n, nil
}
