package target_test

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// s3 is as much of a bucket as kocli uses, behind TLS: objects in parts, and faults.
// It does not check signatures.
type s3 struct {
	*httptest.Server
	bucket string

	mu      sync.Mutex
	objects map[string][]byte
	parts   map[string]map[int][]byte // by upload
	left    map[string]string         // uploads of the past that never ended, and their keys
	next    int
	down    bool // answers 503, as a server that is being stopped
	full    bool // takes no part any more
	after   int  // parts until it is down; zero means never
	aborted []string
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	s := &s3{bucket: "backups", objects: map[string][]byte{}, parts: map[string]map[int][]byte{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *s3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := payload(r)
	if err != nil {
		s.fail(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	id := q.Get("uploadId")
	switch {
	case s.down:
		s.fail(w, http.StatusBadRequest, "ServerNotInitialized")
	case bucket != s.bucket:
		s.fail(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodGet && key == "" && q.Has("uploads"):
		s.uploads(w, q.Get("prefix"))
	case r.Method == http.MethodGet && key == "":
		s.list(w, q.Get("prefix"))
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.next++
		id = strconv.Itoa(s.next)
		s.parts[id] = map[int][]byte{}
		s.answer(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPut && id != "":
		s.part(w, id, q.Get("partNumber"), body)
	case r.Method == http.MethodPost && id != "":
		s.objects[key] = nil
		for i := 1; i <= len(s.parts[id]); i++ {
			s.objects[key] = append(s.objects[key], s.parts[id][i]...)
		}
		delete(s.parts, id)
		s.answer(w, "<CompleteMultipartUploadResult><Bucket>backups</Bucket><ETag>x</ETag></CompleteMultipartUploadResult>")
	case r.Method == http.MethodDelete && id != "":
		delete(s.parts, id)
		delete(s.left, id)
		s.aborted = append(s.aborted, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[key] = body
		w.Header().Set("ETag", `"x"`)
	default:
		s.get(w, r, key)
	}
}

func (s *s3) part(w http.ResponseWriter, id, number string, body []byte) {
	n, err := strconv.Atoi(number)
	if err != nil || s.full {
		s.fail(w, http.StatusForbidden, "QuotaExceeded")
		return
	}
	s.parts[id][n] = body
	if s.after == n {
		s.down = true
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", number))
}

func (s *s3) get(w http.ResponseWriter, r *http.Request, key string) {
	data, ok := s.objects[key]
	if !ok {
		s.fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("ETag", `"x"`)
	w.Header().Set("Last-Modified", "Wed, 25 Nov 2026 02:30:00 GMT")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(data)
	}
}

func (s *s3) list(w http.ResponseWriter, prefix string) {
	out := "<ListBucketResult>"
	for k, v := range s.objects {
		if strings.HasPrefix(k, prefix) {
			out += fmt.Sprintf("<Contents><Key>%s</Key><Size>%d</Size><LastModified>2026-11-25T02:30:00.000Z</LastModified></Contents>", k, len(v))
		}
	}
	s.answer(w, "%s</ListBucketResult>", out)
}

func (s *s3) uploads(w http.ResponseWriter, prefix string) {
	out := "<ListMultipartUploadsResult>"
	for id, k := range s.left {
		if strings.HasPrefix(k, prefix) {
			out += fmt.Sprintf("<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>2020-11-25T02:30:00.000Z</Initiated></Upload>", k, id)
		}
	}
	s.answer(w, "%s</ListMultipartUploadsResult>", out)
}

func (s *s3) answer(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "application/xml")
	_, _ = fmt.Fprintf(w, xml.Header+format, args...)
}

func (s *s3) fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "%s<Error><Code>%s</Code><Message>%[2]s</Message></Error>", xml.Header, code)
}

// payload is a body without the chunks that carry checksums.
func payload(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return data, err
	}
	b := bufio.NewReader(bytes.NewReader(data))
	var out []byte
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n == 0 {
			return out, err
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(b, chunk); err != nil {
			return nil, err
		}
		out = append(out, chunk[:n]...)
	}
}
