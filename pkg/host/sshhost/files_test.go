package sshhost_test

import (
	"fmt"
	"testing"

	"github.com/pkg/sftp"

	"github.com/kocli/kocli/pkg/host/sshhost"
)

func TestFiles_tellWhyAServerRefuses(t *testing.T) {
	for code, want := range map[uint32][2]bool{14: {true, false}, 15: {true, false}, 8: {false, true}, 4: {false, false}} {
		err := fmt.Errorf("write: %w", &sftp.StatusError{Code: code})
		if sshhost.NoSpace(err) != want[0] || sshhost.Unsupported(err) != want[1] {
			t.Errorf("status %d: no space %t, unsupported %t", code, sshhost.NoSpace(err), sshhost.Unsupported(err))
		}
	}
}
