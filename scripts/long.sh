#!/usr/bin/env bash
# What does not fit into `make test`: journeys of upgrade and certificates; images come into a containerd that nothing
# is installed with (1.7) and the current one, real daemons in folders of their
# own; and what treats a bundle of 4 GiB stays below 200 MB of memory. Its last
# lines say what was found.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

limit=200 # MB
version() { sed -n "s/^$1=\([^ ]*\).*/\1/p" "$repo/scripts/upstream/versions.env"; }

"$repo/scripts/upstream/build.sh" containerd >&2
old=$(version CONTAINERD_OLD_VERSION) new=$(version CONTAINERD_VERSION)
say "images into containerd $old and $new"
cd "$repo"
tests=$(KOCLI_TEST_CONTAINERD=$cache/upstream/containerd/$old:$cache/upstream/containerd/$new \
	go test -tags daemon -count=1 -run '^TestDaemon' -json ./pkg/host/containerd | tee "$cache/long.json" |
	go run ./scripts/mustrun scripts/must-run-tests-long.txt) || { echo "$tests"; exit 1; }

say "memory for a bundle of 4 GiB"
memory=$(ROUNDS=1 ONLY='^bundle.rss$' BENCH_JSON=$cache/bench-long.json "$repo/scripts/bench/run.sh" | awk '$2 == "bundle.rss" {print $3 * 1.048576}')
[ -n "$memory" ] || { echo "the benchmark gave no figure"; exit 1; }

say "journeys of upgrade, over three minors too, and certificates"
"$repo/scripts/e2e/run.sh" upgrade hops certs

say "long tests"
printf 'containerd %s and %s: %s\n' "$old" "$new" "$(tail -1 <<<"$tests")"
printf 'memory for a bundle of 4 GiB: %.0f MB, at most %d MB\n' "$memory" "$limit"
awk -v m="$memory" -v l="$limit" 'BEGIN {exit m > l}' || { echo "that is too much"; exit 1; }
