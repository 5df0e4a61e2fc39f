package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Holder returns who works on the cluster, or nil. It takes no lock itself, so
// that looking never keeps a run out. A holder on another machine is believed.
func (d *Dir) Holder() (*Holder, error) {
	data, err := os.ReadFile(d.lock() + ".holder")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var h Holder
	if json.Unmarshal(data, &h) != nil {
		return nil, nil // cut off by a crash
	}
	if here, err := os.Hostname(); err == nil && here == h.Host && !alive(h.PID) {
		return nil, nil // left by a process that was killed
	}
	return &h, nil
}

// alive reports whether a process of this machine exists.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// LastRun returns the ID of the newest run, or "".
func (d *Dir) LastRun() (string, error) {
	entries, err := os.ReadDir(filepath.Dir(d.RunDir("x")))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	if len(ids) == 0 {
		return "", err
	}
	return slices.Max(ids), err // IDs begin with the time
}
