package main

import (
	"syscall"
	"testing"
	"time"
)

// Without the grace, the second signal would end this process.
func TestUntilSignal_oneCtrlCThatIsDeliveredTwiceIsOne(t *testing.T) {
	ctx, stop := untilSignal()
	defer stop()
	for range 2 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the signal did not end the context")
		}
		time.Sleep(50 * time.Millisecond) // for the handler to be taken away
	}
}
