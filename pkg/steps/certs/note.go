package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// readNote reads what a run left for the next one in a file on a host; the zero value
// where there is none.
func readNote[T any](ctx context.Context, r host.Reader, path string) (T, error) {
	var out, none T
	data, err := r.ReadFile(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return none, fault.New(fault.Failure, "remove the file, then run the same command again", fmt.Errorf("%s on %s is damaged: %w", path, r.Name(), err))
	}
	return out, nil
}

// writeNote writes such a file, for root alone.
func writeNote(ctx context.Context, h host.Host, path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = h.Put(ctx, host.Bytes(path, 0o600, append(data, '\n')))
	return err
}
