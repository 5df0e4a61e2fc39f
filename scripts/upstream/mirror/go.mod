module github.com/kocli/kocli/scripts/upstream/mirror

go 1.26.0

require (
	github.com/google/go-containerregistry v0.22.1
	github.com/klauspost/compress v1.19.2
)
