// Package kubetest is a small Kubernetes API in memory, served over HTTPS and
// reached through a machine in memory: enough for the real client-go to
// discover, read, create, update, patch, apply and delete the kinds that kocli
// uses. Its writes count on the machine's wire, so that the connection can be
// cut before and after each of them. Only tests import it.
package kubetest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// Object is an object of the API, as JSON.
type Object = map[string]any

// API is a running API server.
type API struct {
	// Pod answers a request that goes to a pod through the API server.
	Pod func(pod Object, path, query string) (body string, status int)
	// React is called after every write, with the object as stored; nil when it
	// was deleted. It may write with Put.
	React func(resource, namespace, name string, o Object)
	// Budget reports whether a pod may be evicted; nil means that all may.
	Budget func(pod Object) bool
	// BeforeWrite is called when a write has arrived and nothing is done yet.
	BeforeWrite func()
	// Refresh is called before anything is read: what controllers and kubelets have
	// done meanwhile. It may write with Put.
	Refresh func()
	// Unready is why the API server is not ready; nil means that it is.
	Unready func() error
	// Metrics is what the API server says of itself.
	Metrics string
	// Present is the certificate that is shown instead of the server's own; nil, or false,
	// means that one.
	Present func() (tls.Certificate, bool)
	// Answer answers a path of an API that others than the API server serve; nil means
	// that there is none.
	Answer func(path string) (body string, ok bool)
	// BeforeRead is called when a path is read; nil where nobody counts.
	BeforeRead func(path string)

	wire   *hosttest.Wire
	server *httptest.Server

	mu      sync.Mutex
	objects map[key]Object
	version int
	silent  bool
	release string // of Kubernetes
}

type key struct{ resource, namespace, name string }

// kind is a kind that the API serves.
type kind struct {
	group, version, resource, kind string
	namespaced                     bool
}

func kinds() []kind {
	return []kind{
		{"", "v1", "namespaces", "Namespace", false},
		{"", "v1", "nodes", "Node", false},
		{"", "v1", "configmaps", "ConfigMap", true},
		{"", "v1", "secrets", "Secret", true},
		{"", "v1", "services", "Service", true},
		{"", "v1", "serviceaccounts", "ServiceAccount", true},
		{"", "v1", "pods", "Pod", true},
		{"apps", "v1", "daemonsets", "DaemonSet", true},
		{"apps", "v1", "deployments", "Deployment", true},
		{"rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false},
		{"rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false},
		{"rbac.authorization.k8s.io", "v1", "roles", "Role", true},
		{"rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true},
		{"coordination.k8s.io", "v1", "leases", "Lease", true},
		{"policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true},
		{"", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true},
		{"", "v1", "persistentvolumes", "PersistentVolume", false},
		{"apps", "v1", "replicasets", "ReplicaSet", true},
		{"storage.k8s.io", "v1", "storageclasses", "StorageClass", false},
		{"storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false},
		{"storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", false},
		{"storage.k8s.io", "v1beta1", "volumeattributesclasses", "VolumeAttributesClass", false}, // what an operator may switch on
		{"admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", false},
		{"admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false},
		{"apiregistration.k8s.io", "v1", "apiservices", "APIService", false},
	}
}

// New starts an API with the namespaces that every cluster has. Its writes
// count on wire.
func New(wire *hosttest.Wire) *API {
	a := &API{wire: wire, objects: map[key]Object{}, release: "v1.36.3"}
	for _, ns := range []string{"default", "kube-system", "kube-public"} {
		a.Put("namespaces", "", ns, Object{})
	}
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are cut
	a.server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: a.present}
	a.server.StartTLS()
	return a
}

// present answers a client with what Present has.
func (a *API) present(*tls.ClientHelloInfo) (*tls.Config, error) {
	if a.Present == nil {
		return nil, nil
	}
	pair, ok := a.Present()
	if !ok {
		return nil, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}, nil
}

// Close ends the server.
func (a *API) Close() {
	a.server.CloseClientConnections()
	a.server.Close()
}

// Kubeconfig is an administrator's, for the address that the server says it has.
func (a *API) Kubeconfig() string {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: %s}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, base64.StdEncoding.EncodeToString(ca))
}

// Dial leads to the server, whatever address is asked for.
func (a *API) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", a.server.Listener.Addr().String())
}

// Silence has the server refuse to answer, or answer again.
func (a *API) Silence(silent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silent = silent
}

// Release is the version of Kubernetes that the API server says it is.
func (a *API) Release() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.release
}

// SetRelease has the API server say that it is another version.
func (a *API) SetRelease(version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.release = version
}

// Put stores an object as a controller would, without counting it.
func (a *API) Put(resource, namespace, name string, o Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.store(find(resource), key{resource, namespace, name}, fromJSON(o))
}

// Drop removes an object as a controller would.
func (a *API) Drop(resource, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.objects, key{resource, namespace, name})
}

// Get returns a copy of an object; nil where there is none.
func (a *API) Get(resource, namespace, name string) Object {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.objects[key{resource, namespace, name}]
	if !ok {
		return nil
	}
	return clone(o)
}

// List returns copies of the objects of a resource, by name; an empty namespace
// means all.
func (a *API) List(resource, namespace string) []Object {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list(resource, namespace)
}

func (a *API) list(resource, namespace string) []Object {
	var keys []key
	for k := range a.objects {
		if k.resource == resource && (namespace == "" || k.namespace == namespace) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y key) int { return strings.Compare(x.namespace+"/"+x.name, y.namespace+"/"+y.name) })
	out := make([]Object, 0, len(keys))
	for _, k := range keys {
		out = append(out, clone(a.objects[k]))
	}
	return out
}

// State describes every object in a line, without what differs from run to run.
func (a *API) State() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for k, o := range a.objects {
		if strings.HasPrefix(k.name, "bootstrap-token-") || k.namespace == "kube-node-lease" { // they differ by the clock
			continue
		}
		o = clone(o)
		meta := metadata(o)
		for _, f := range []string{"resourceVersion", "uid", "generation", "managedFields"} {
			delete(meta, f)
		}
		delete(o, "status")
		raw, err := json.Marshal(o)
		if err != nil {
			raw = []byte(err.Error())
		}
		lines = append(lines, fmt.Sprintf("%s %s/%s %s", k.resource, k.namespace, k.name, raw))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func find(resource string) kind {
	for _, k := range kinds() {
		if k.resource == resource {
			return k
		}
	}
	return kind{resource: resource}
}

// clone copies what came from JSON.
func clone(o Object) Object { return runtime.DeepCopyJSON(o) }

// fromJSON is the object as it would arrive over the wire: without types of Go's own.
func fromJSON(o Object) Object {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var out Object
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

func metadata(o Object) Object {
	m, ok := o["metadata"].(Object)
	if !ok {
		m = Object{}
		o["metadata"] = m
	}
	return m
}

// store keeps an object and fills in what a server fills in. The lock is held.
func (a *API) store(k kind, at key, o Object) Object {
	a.version++
	o["kind"], o["apiVersion"] = k.kind, strings.TrimPrefix(k.group+"/"+k.version, "/")
	m := metadata(o)
	m["name"] = at.name
	if at.namespace != "" {
		m["namespace"] = at.namespace
	}
	old := a.objects[at]
	generation := 1.0
	if old != nil {
		om := metadata(old)
		m["uid"] = om["uid"]
		generation, _ = om["generation"].(float64)
		if fmt.Sprint(old["spec"]) != fmt.Sprint(o["spec"]) {
			generation++
		}
	} else if m["uid"] == nil {
		m["uid"] = "uid-" + at.resource + "-" + at.name
	}
	m["generation"] = generation
	m["resourceVersion"] = strconv.Itoa(a.version)
	if at.resource == "secrets" {
		data, _ := o["data"].(Object)
		if data == nil {
			data = Object{}
		}
		if sd, ok := o["stringData"].(Object); ok {
			for n, v := range sd {
				data[n] = base64.StdEncoding.EncodeToString([]byte(fmt.Sprint(v)))
			}
		}
		delete(o, "stringData")
		o["data"] = data
	}
	a.objects[at] = o
	return clone(o)
}

// fail writes a Status as the API does.
func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	respond(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Reason: reason, Message: message, Code: int32(code),
	})
}

func respond(w http.ResponseWriter, code int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(raw)
}

func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	silent := a.silent
	a.mu.Unlock()
	if a.wire.Lost() || silent {
		panic(http.ErrAbortHandler)
	}
	if r.Method == http.MethodGet {
		if a.Refresh != nil {
			a.Refresh()
		}
		if a.BeforeRead != nil {
			a.BeforeRead(r.URL.Path)
		}
		a.answer(w, r)
		return
	}
	err := a.wire.Do(r.Method+" "+r.URL.Path, func() error {
		a.answer(w, r)
		return nil
	})
	if err != nil {
		panic(http.ErrAbortHandler) // nobody hears of it
	}
}

// request is a path taken apart.
type request struct {
	kind      kind
	namespace string
	name      string
	rest      []string // subresource and what follows
}

func (a *API) answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/readyz", "/livez", "/healthz":
		if a.Unready != nil {
			if err := a.Unready(); err != nil {
				fail(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
				return
			}
		}
		_, _ = io.WriteString(w, "ok")
		return
	case "/metrics":
		_, _ = io.WriteString(w, a.Metrics)
		return
	case "/version":
		respond(w, http.StatusOK, map[string]string{"major": "1", "gitVersion": a.Release()})
		return
	}
	if discovery(w, r.URL.Path) {
		return
	}
	if a.Answer != nil {
		if body, ok := a.Answer(r.URL.Path); ok {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
			return
		}
	}
	q, ok := parse(r.URL.Path)
	if !ok {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	switch {
	case len(q.rest) > 1 && q.rest[0] == "proxy":
		a.proxy(w, r, q)
	case q.name == "" && r.Method == http.MethodGet:
		a.serveList(w, r, q)
	case r.Method == http.MethodGet:
		o := a.Get(q.kind.resource, q.namespace, q.name)
		if o == nil {
			missing(w, q)
			return
		}
		respond(w, http.StatusOK, o)
	default:
		a.write(w, r, q)
	}
}

func missing(w http.ResponseWriter, q request) {
	fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("%s %q not found", q.kind.resource, q.name))
}

// parse reads /api/v1/... and /apis/GROUP/VERSION/....
func parse(path string) (request, bool) {
	p := strings.Split(strings.Trim(path, "/"), "/")
	group, version := "", ""
	switch {
	case len(p) > 2 && p[0] == "api":
		version, p = p[1], p[2:]
	case len(p) > 3 && p[0] == "apis":
		group, version, p = p[1], p[2], p[3:]
	default:
		return request{}, false
	}
	var q request
	if p[0] == "namespaces" && len(p) > 2 {
		q.namespace, p = p[1], p[2:]
	}
	for _, k := range kinds() {
		if k.group == group && k.version == version && k.resource == p[0] {
			q.kind = k
		}
	}
	if len(p) > 1 {
		q.name, q.rest = p[1], p[2:]
	}
	return q, q.kind.resource != ""
}

func (a *API) serveList(w http.ResponseWriter, r *http.Request, q request) {
	sel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	fields, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	items := slices.DeleteFunc(a.List(q.kind.resource, q.namespace), func(o Object) bool {
		set := labels.Set{}
		have, _ := metadata(o)["labels"].(Object)
		for n, v := range have {
			set[n] = fmt.Sprint(v)
		}
		return !sel.Matches(set) || !fields.Matches(fieldsOf(o))
	})
	respond(w, http.StatusOK, Object{
		"kind": q.kind.kind + "List", "apiVersion": strings.TrimPrefix(q.kind.group+"/"+q.kind.version, "/"),
		"metadata": Object{"resourceVersion": "1"}, "items": items,
	})
}

// fieldsOf are the fields that a list can be narrowed down by.
func fieldsOf(o Object) fields.Set {
	spec, _ := o["spec"].(Object)
	node, _ := spec["nodeName"].(string)
	return fields.Set{"spec.nodeName": node, "metadata.name": fmt.Sprint(metadata(o)["name"]), "type": fmt.Sprint(o["type"])}
}

func (a *API) proxy(w http.ResponseWriter, r *http.Request, q request) {
	name, _, _ := strings.Cut(q.name, ":")
	pod := a.Get("pods", q.namespace, name)
	if pod == nil || a.Pod == nil {
		missing(w, q)
		return
	}
	body, status := a.Pod(pod, "/"+strings.Join(q.rest[1:], "/"), r.URL.RawQuery)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

var errBody = errors.New("the body cannot be read")

// write creates, updates, patches or deletes.
func (a *API) write(w http.ResponseWriter, r *http.Request, q request) {
	body, err := decode(r)
	if err != nil {
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, errors.Join(errBody, err).Error())
		return
	}
	if q.name == "" {
		q.name, _ = metadata(body)["name"].(string)
	}
	if a.BeforeWrite != nil {
		a.BeforeWrite()
	}
	method := r.Method
	if len(q.rest) == 1 && q.rest[0] == "eviction" {
		if pod := a.Get("pods", q.namespace, q.name); pod != nil && a.Budget != nil && !a.Budget(pod) {
			fail(w, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
			return
		}
		method = http.MethodDelete
	}
	at := key{q.kind.resource, q.namespace, q.name}
	a.mu.Lock()
	old := a.objects[at]
	_, home := a.objects[key{"namespaces", "", q.namespace}]
	apply := method == http.MethodPatch && strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply-patch")
	unlock := sync.OnceFunc(a.mu.Unlock)
	defer unlock()
	switch {
	case q.kind.namespaced && !home:
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("namespaces %q not found", q.namespace))
		return
	case method == http.MethodPost && old != nil:
		fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, fmt.Sprintf("%s %q already exists", at.resource, at.name))
		return
	case method != http.MethodPost && old == nil && !apply:
		missing(w, q)
		return
	case old != nil && method != http.MethodDelete && conflicting(old, body):
		fail(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified; please apply your changes to the latest version and try again")
		return
	}
	var stored Object
	switch method {
	case http.MethodDelete:
		delete(a.objects, at)
		maps.DeleteFunc(a.objects, func(k key, _ Object) bool { return at.resource == "namespaces" && k.namespace == at.name })
	case http.MethodPatch:
		next := Object{}
		if old != nil {
			next = clone(old)
		}
		merge(next, body)
		stored = a.store(q.kind, at, next)
	default:
		stored = a.store(q.kind, at, body)
	}
	unlock()
	if a.React != nil {
		a.React(at.resource, at.namespace, at.name, stored)
	}
	switch {
	case stored == nil:
		respond(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	case old == nil:
		respond(w, http.StatusCreated, stored)
	default:
		respond(w, http.StatusOK, stored)
	}
}

// decode reads a body in any of the forms that clients send: JSON, YAML of an
// apply patch, protobuf.
func decode(r *http.Request) (Object, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil || len(raw) == 0 || r.Method == http.MethodDelete {
		return Object{}, err
	}
	if r.Header.Get("Content-Type") == "application/vnd.kubernetes.protobuf" {
		typed, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
		if err != nil {
			return nil, err
		}
		if raw, err = json.Marshal(typed); err != nil {
			return nil, err
		}
	}
	body := Object{}
	return body, yaml.Unmarshal(raw, &body)
}

// conflicting reports whether a write was made from an older version.
func conflicting(old, body Object) bool {
	want, ok := metadata(body)["resourceVersion"].(string)
	return ok && want != "" && want != metadata(old)["resourceVersion"]
}

// merge is a JSON merge patch (RFC 7386).
func merge(into, patch Object) {
	for k, v := range patch {
		sub, isObject := v.(Object)
		have, haveObject := into[k].(Object)
		switch {
		case v == nil:
			delete(into, k)
		case isObject && haveObject:
			merge(have, sub)
		case isObject:
			fresh := Object{}
			merge(fresh, sub)
			into[k] = fresh
		default:
			into[k] = v
		}
	}
}

// discovery answers what the API serves.
func discovery(w http.ResponseWriter, path string) bool {
	groups := map[string][]string{} // versions, in their order
	served := map[string][]kind{}   // by path
	var names []string
	for _, k := range kinds() {
		at := "/apis/" + k.group + "/" + k.version
		if k.group == "" {
			at = "/api/v1"
		} else if groups[k.group] == nil {
			names = append(names, k.group)
		}
		if served[at] == nil {
			groups[k.group] = append(groups[k.group], k.version)
		}
		served[at] = append(served[at], k)
	}
	switch path {
	case "/api":
		respond(w, http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		return true
	case "/apis":
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for _, n := range names {
			g := metav1.APIGroup{Name: n}
			for _, v := range groups[n] {
				g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: n + "/" + v, Version: v})
			}
			g.PreferredVersion = g.Versions[0]
			list.Groups = append(list.Groups, g)
		}
		respond(w, http.StatusOK, list)
		return true
	}
	ks := served[path]
	if ks == nil {
		return false
	}
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.TrimPrefix(ks[0].group+"/"+ks[0].version, "/")}
	for _, k := range ks {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: k.resource, Kind: k.kind, Namespaced: k.namespaced, Verbs: metav1.Verbs{"get", "list", "create", "update", "patch", "delete"},
		})
	}
	if ks[0].group == "" {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1", Namespaced: true, Verbs: metav1.Verbs{"create"},
		})
	}
	respond(w, http.StatusOK, list)
	return true
}
