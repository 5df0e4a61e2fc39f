# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty --match 'v*' 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo none)
# The time of the commit, not of the build: the same commit gives the same binary.
DATE    ?= $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
BIN     ?= bin/kocli

.PHONY: build check fmt vet lint vuln unit demo demo-down test test-long bench readme release-check clean help

build: ## bin/kocli, static
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/kocli

check: fmt vet lint vuln unit ## all that needs no host

fmt:
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these:"; echo "$$out"; exit 1; fi

vet:
	go vet ./...

lint: ## golangci-lint, with the layers of the house
	"$$(scripts/tools/build.sh golangci-lint)" run ./...

# Where the database cannot be reached (GOVULNDB names a mirror), it says so and goes on.
vuln: ## known vulnerabilities in what is called
	@tool=$$(scripts/tools/build.sh govulncheck); out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	if "$$tool" ./... >"$$out" 2>&1; then cat "$$out"; \
	elif grep -q 'fetching vulnerabilities' "$$out"; then echo "WARNING: govulncheck did not run: $$(cat "$$out")" >&2; \
	else cat "$$out"; exit 1; fi

unit: ## unit tests, with the race detector (needs a C compiler)
	scripts/lab/deps.sh build
	CGO_ENABLED=1 go test -race -shuffle=on -parallel 6 -timeout 15m -json ./... | go run ./scripts/mustrun scripts/must-run-tests.txt

demo: ## three lab hosts, a bundle, kocli create, and what runs then
	scripts/demo.sh

demo-down: ## removes what demo started
	scripts/demo.sh down

test: check ## all of it: check, and the journeys on real hosts
	scripts/e2e/run.sh core backup addons registry

test-long: test ## test, images into containerd 1.7 and 2.x, and the memory that 4 GiB take
	scripts/long.sh

bench: ## measures kocli against hand-written scripts and its own limits
	scripts/bench/run.sh

readme: ## fills the READMEs from the last demo, journeys and benchmark
	go run ./scripts/readme "$${KOCLI_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/kocli}" .

release-check: ## is .goreleaser.yaml valid
	"$$(scripts/tools/build.sh goreleaser)" check

clean:
	rm -rf bin dist

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
