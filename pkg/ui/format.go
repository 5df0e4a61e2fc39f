package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Count shows a number of things: "1 change", "2 changes".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Duration shows a duration as people read it.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// Bytes shows a number of bytes in binary units.
func Bytes(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// Result writes v as the last line of JSON output: its fields behind
// "kind":"result" and the exit code. v has to become a JSON object.
func Result(w io.Writer, exitCode int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if len(body) < 2 || body[0] != '{' {
		return fmt.Errorf("write result: %T is not a JSON object", v)
	}
	head := fmt.Sprintf(`{"kind":"result","exitCode":%d`, exitCode)
	if len(body) > len("{}") {
		head += ","
	}
	_, err = fmt.Fprintf(w, "%s%s\n", head, body[1:])
	return err
}
