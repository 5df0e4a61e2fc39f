package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func runServe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	root := flags.String("root", "", "the mirror's `folder`")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on; port 0 picks a free one")
	urlFile := flags.String("url-file", "", "`file` that gets the server's URL once it answers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *root == "" {
		return errors.New("usage: mirror serve -root DIR")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: store{root: *root}.handler(), ReadHeaderTimeout: 10 * time.Second}
	if *urlFile != "" {
		tmp := *urlFile + ".tmp"
		if err := errors.Join(os.WriteFile(tmp, []byte("http://"+l.Addr().String()+"\n"), 0o644), os.Rename(tmp, *urlFile)); err != nil {
			return err
		}
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler serves files under /HOST/PATH and a read-only registry under /v2/.
// Everything is looked up on disk, so what is added while it runs is there.
func (s store) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/", s.registry)
	mux.HandleFunc("/lab-catalogue.json", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, s.catalogue()) })
	files := http.FileServer(http.Dir(filepath.Join(s.root, "files")))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if filepath.Ext(r.URL.Path) != "" || !strings.HasSuffix(r.URL.Path, "/") {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		files.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "this mirror is read-only", http.StatusMethodNotAllowed)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// registry answers the pull half of the OCI distribution API.
func (s store) registry(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	rest := strings.TrimPrefix(r.URL.Path, "/v2/")
	if rest == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		refuse(w, "NAME_UNKNOWN", rest)
		return
	}
	name, kind, what := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	switch {
	case kind == "blobs":
		s.serveBlob(w, r, what, "application/octet-stream")
	case kind == "manifests" && strings.Contains(what, ":"):
		s.serveBlob(w, r, what, "")
	case kind == "manifests":
		refs := map[string]v1.Descriptor{}
		if err := readJSON(s.index(), &refs); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		d, ok := refs[name+":"+what]
		if !ok {
			refuse(w, "MANIFEST_UNKNOWN", name+":"+what)
			return
		}
		s.serveBlob(w, r, d.Digest.String(), string(d.MediaType))
	case kind == "tags" && what == "list":
		s.serveTags(w, name)
	default:
		refuse(w, "NAME_UNKNOWN", rest)
	}
}

func (s store) serveBlob(w http.ResponseWriter, r *http.Request, digest, mediaType string) {
	h, err := v1.NewHash(digest)
	if err != nil {
		refuse(w, "DIGEST_INVALID", digest)
		return
	}
	f, err := os.Open(s.blob(h))
	if err != nil {
		refuse(w, "BLOB_UNKNOWN", digest)
		return
	}
	defer f.Close()
	if mediaType == "" { // a manifest asked for by digest says itself what it is
		var m struct {
			MediaType string `json:"mediaType"`
		}
		if err := readJSON(f.Name(), &m); err != nil || m.MediaType == "" {
			refuse(w, "MANIFEST_UNKNOWN", digest)
			return
		}
		mediaType = m.MediaType
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", h.String())
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (s store) serveTags(w http.ResponseWriter, name string) {
	refs := map[string]v1.Descriptor{}
	if err := readJSON(s.index(), &refs); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	tags := []string{}
	for ref := range refs {
		if tag, ok := strings.CutPrefix(ref, name+":"); ok {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": tags})
}

func refuse(w http.ResponseWriter, code, detail string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, detail)
}
