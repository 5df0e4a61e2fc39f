// Package render turns embedded templates into bytes. A key that is missing is
// an error, never an empty string.
package render

import (
	"bytes"
	"fmt"
	"io/fs"
	"text/template"
)

// File renders one template of a file system.
func File(fsys fs.FS, name string, data any) ([]byte, error) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("parse template %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("render template %s: %w", name, err)
	}
	return out.Bytes(), nil
}
