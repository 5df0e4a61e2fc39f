package etcd

import (
	"fmt"
	"strings"
)

// Quorum is how many of n voting members have to agree.
func Quorum(n int) int { return n/2 + 1 }

// Removable returns nil when etcd keeps its quorum without the members that leave
// is true for: enough of those that vote are healthy now, for the change to be
// agreed on, and enough of the others afterwards. The error has the numbers.
func Removable(all []Health, leaves func(Member) bool) error {
	var voters, healthy, left, leftHealthy int
	var sick []string
	for _, h := range all {
		if h.Learner {
			continue
		}
		voters++
		if h.Err == nil {
			healthy++
		}
		if leaves(h.Member) {
			continue
		}
		left++
		if h.Err == nil {
			leftHealthy++
		} else {
			sick = append(sick, fmt.Sprintf("%s (%v)", h.label(), h.Err))
		}
	}
	why := ""
	if len(sick) > 0 {
		why = "; not healthy: " + strings.Join(sick, ", ")
	}
	switch {
	case left == 0:
		return fmt.Errorf("it would leave etcd without a member: %d of %d would go", voters-left, voters)
	case healthy < Quorum(voters):
		return fmt.Errorf("etcd has no quorum: %d of %d members are healthy, %d are needed%s", healthy, voters, Quorum(voters), why)
	case leftHealthy < Quorum(left):
		return fmt.Errorf("etcd would lose its quorum: of the %d members that stay %d are healthy, and %d are needed%s", left, leftHealthy, Quorum(left), why)
	}
	return nil
}

// HasQuorum returns nil when enough of the members that vote are healthy.
func HasQuorum(all []Health) error {
	voters, healthy := 0, 0
	for _, h := range all {
		if h.Learner {
			continue
		}
		voters++
		if h.Err == nil {
			healthy++
		}
	}
	if healthy < Quorum(voters) {
		return fmt.Errorf("%d of %d members of etcd are healthy, and %d are needed", healthy, voters, Quorum(voters))
	}
	return nil
}
