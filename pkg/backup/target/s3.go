package target

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kocli/kocli/pkg/fault"
)

// S3Options say how a server that speaks S3 is reached.
type S3Options struct {
	Endpoint  string // "https://HOST[:PORT]"; http:// only where it is written so
	Region    string
	AccessKey string
	SecretKey string
	CA        []byte // PEM, where the server's certificate is of a CA of one's own
}

// String hides the keys.
func (o S3Options) String() string { return o.Endpoint }

// GoString hides the keys.
func (o S3Options) GoString() string { return o.Endpoint }

// partSize is what is sent at once, in bytes, and kept in memory. A file may have
// ten thousand parts.
const partSize = 16 << 20

// bucket is a bucket, or what is below a prefix in it.
type bucket struct {
	url    string
	name   string
	prefix string
	c      *minio.Client
}

func openS3(u *url.URL, o S3Options) (Target, error) {
	at, err := url.Parse(o.Endpoint)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return nil, fault.New(fault.Usage, "set spec.backup.s3.endpoint to https://HOST[:PORT]", fmt.Errorf("%q is no endpoint of S3", o.Endpoint))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(o.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, fault.New(fault.Usage, "give a file with certificates in PEM: spec.backup.s3.caFile", errors.New("the file of the CA holds no certificate"))
		}
	}
	c, err := minio.New(at.Host, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Secure: at.Scheme == "https", Region: o.Region, MaxRetries: 3,
		Transport: &http.Transport{
			Proxy: nil, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSClientConfig: conf,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 2 * time.Minute, IdleConnTimeout: time.Minute,
		},
	})
	if err != nil {
		return nil, fault.New(fault.Usage, "see spec.backup.s3", err)
	}
	return &bucket{url: u.String(), name: u.Host, prefix: strings.Trim(u.Path, "/"), c: c}, nil
}

func (b *bucket) String() string { return b.url }
func (b *bucket) Close() error   { return nil }

func (b *bucket) key(name string) string { return path.Join(b.prefix, name) }

// inside is what all keys begin with.
func (b *bucket) inside() string {
	if b.prefix == "" {
		return ""
	}
	return b.prefix + "/"
}

// why says what to do about what a server answered.
func (b *bucket) why(op string, err error) error {
	hint := fmt.Sprintf("see that %s answers, then run the same command again; earlier backups are as they were", b.c.EndpointURL())
	switch r := minio.ToErrorResponse(err); r.Code {
	case "NoSuchBucket":
		hint = "make the bucket " + b.name + " first: kocli makes none"
	case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch":
		hint = "see the keys that spec.backup.s3 refers to, and what they allow"
	case "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge", "InsufficientStorage":
		hint = "make room there (kocli backup prune), then run the same command again; earlier backups are as they were"
	case "NoSuchKey":
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		hint = "kocli backup list shows what is there"
	}
	return failed(op, b, hint, err)
}

// bucketUpload feeds the library through a pipe.
type bucketUpload struct {
	b      *bucket
	pipe   *io.PipeWriter
	cancel context.CancelFunc
	ended  chan struct{} // of the transfer, and failed is how
	failed error
	done   bool
}

func (b *bucket) Create(ctx context.Context, name string) (Upload, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	b.clear(ctx)
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	u := &bucketUpload{b: b, pipe: w, cancel: cancel, ended: make(chan struct{})}
	go func() {
		// An object is there when its last part is, or not at all.
		_, err := b.c.PutObject(ctx, b.name, b.key(name), r, -1, minio.PutObjectOptions{PartSize: partSize, ContentType: "application/octet-stream"})
		r.CloseWithError(err)
		u.failed = err
		close(u.ended)
	}()
	return u, nil
}

// clear takes back the parts that uploads have left which could not end long ago: a
// server keeps them, and counts them, until somebody does.
func (b *bucket) clear(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx) // ends the listing
	defer cancel()
	for u := range b.c.ListIncompleteUploads(ctx, b.name, b.inside(), true) {
		if u.Err != nil {
			return // as where keys do not allow it
		}
		if name := strings.TrimPrefix(u.Key, b.inside()); !strings.Contains(name, "/") && time.Since(u.Initiated) > staleAfter {
			_ = b.c.RemoveIncompleteUpload(ctx, b.name, u.Key) // the next upload tries again
		}
	}
}

func (u *bucketUpload) Write(p []byte) (int, error) {
	n, err := u.pipe.Write(p)
	if err != nil {
		err = u.b.why("write into", err)
	}
	return n, err
}

func (u *bucketUpload) Commit() error {
	_ = u.pipe.Close() // never fails
	<-u.ended
	u.done = true
	u.cancel()
	if u.failed != nil {
		return u.b.why("write into", u.failed)
	}
	return nil
}

func (u *bucketUpload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	u.pipe.CloseWithError(errAborted) // the library takes back the parts that were sent
	<-u.ended
	u.cancel()
	return nil
}

var errAborted = errors.New("given up")

func (b *bucket) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	o, err := b.c.GetObject(ctx, b.name, b.key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, b.why("read from", err)
	}
	if _, err := o.Stat(); err != nil { // the library asks only when it is read
		return nil, errors.Join(b.why("read from", err), o.Close())
	}
	return o, nil
}

func (b *bucket) List(ctx context.Context) ([]Entry, error) {
	prefix := b.inside()
	var out []Entry
	for o := range b.c.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return nil, b.why("list", o.Err)
		}
		name := strings.TrimPrefix(o.Key, prefix)
		if name != "" && !strings.Contains(name, "/") {
			out = append(out, Entry{Name: name, Size: o.Size, Modified: o.LastModified})
		}
	}
	return out, nil
}

func (b *bucket) Remove(ctx context.Context, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	if err := b.c.RemoveObject(ctx, b.name, b.key(name), minio.RemoveObjectOptions{}); err != nil {
		return b.why("remove from", err)
	}
	return nil
}
