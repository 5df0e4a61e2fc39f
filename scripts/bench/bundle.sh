# Benchmarks of building and verifying bundles. Sourced by run.sh, whose
# variables and functions it uses.
# shellcheck shell=bash

seconds() { # seconds CMD...
	local s
	s=$(now)
	"$@" >"$work/last.out" 2>"$work/last.err" || { cat "$work/last.err" >&2; exit 1; }
	awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}'
}

# Verify, against hashing the same bytes on one core: of a bundle of 4 GiB, as those
# with all images are.
bench_verify() {
	local i
	: >"$work/verify" >"$work/sha"
	"$repo/bin/fill" "$bundle" 3800 "$work/big.tar"
	for i in $(seq "$((rounds * 3))"); do
		seconds "$kocli" bundle verify "$work/big.tar" >>"$work/verify"
		seconds env GOMAXPROCS=1 "$repo/bin/fill" sha256 "$work/big.tar" >>"$work/sha"
	done
	bench verify.ratio "$(median_ratio "$work/verify" "$work/sha")" "x-of-sha256-on-one-core($(range <"$work/r"))" 0.6
}

bundle_yaml() { sed "s/^  cni:/  cni: $1/; /^    - flannel/d" "$repo/examples/bundle-$kubernetes-amd64.yaml"; }

pack() { tar -C "$work/all" -cf - . | zstd -q -f -3 -T2 -o "$work/rival.tar.zst"; }

# Build: from a warm cache against tar and zstd of the same content, and with
# images that are new against the first time.
bench_build() {
	local i mirror
	mirror=$("$repo/scripts/upstream/serve.sh" start | tail -1)
	rm -rf "$work/all" "$work/build" && mkdir -p "$work/all" "$work/build"
	"$repo/bin/payload" "$bundle" control-plane "$work/all" ''
	: >"$work/first" >"$work/second" >"$work/warm" >"$work/tar"
	for i in $(seq "$rounds"); do
		rm -rf "$work/build/cache" "$work/build"/*.lock
		bundle_yaml '[]' >"$work/build/bundle.yaml"
		seconds "$kocli" bundle build -f "$work/build/bundle.yaml" --to "$work/build/a.tar" --cache "$work/build/cache" --mirror "$mirror" >>"$work/first"
		bundle_yaml '[flannel]' >"$work/build/bundle.yaml"
		seconds "$kocli" bundle build -f "$work/build/bundle.yaml" --to "$work/build/b.tar" --cache "$work/build/cache" --mirror "$mirror" >>"$work/second"
		seconds "$kocli" bundle build -f "$work/build/bundle.yaml" --to "$work/build/b.tar" --cache "$work/build/cache" --mirror "$mirror" >>"$work/warm"
		seconds pack >>"$work/tar"
	done
	bench build.warm "$(median_ratio "$work/warm" "$work/tar")" "x-of-tar-zstd($(range <"$work/r"))" 0.6
	bench build.second "$(median_ratio "$work/second" "$work/first")" "x-of-first-build($(range <"$work/r"))" 0.15
}

# Peak memory of what treats a bundle of 4 GiB: each of its commands, and a push
# to one host over SSH.
bench_memory() {
	local dir=$work/memory peak=0
	rm -rf "$dir" && mkdir -p "$dir"
	"$repo/bin/fill" "$bundle" 4096 "$dir/big.tar"
	memory() { /usr/bin/time -f '%M' -a -o "$dir/rss" "$kocli" bundle "$@" >"$dir/out" 2>&1 || { cat "$dir/out" >&2; exit 1; }; }
	memory verify "$dir/big.tar"
	memory inspect "$dir/big.tar"
	memory split "$dir/big.tar" --size 1G --out "$dir/parts"
	memory join "$dir/parts" --out "$dir/joined.tar"
	rm -rf "$dir/parts"
	memory delta --base "$bundle" "$dir/big.tar" --to "$dir/delta.tar"
	rm -f "$dir/joined.tar"
	memory apply --base "$bundle" "$dir/delta.tar" --to "$dir/applied.tar"
	rm -f "$dir/applied.tar" "$dir/delta.tar"
	push_lab 1 "$bundle"
	push "$dir/big.tar" ssh
	awk 'END{print $2}' "$work/push.time" >>"$dir/rss"
	peak=$(sort -n "$dir/rss" | tail -1)
	bench bundle.rss "$(awk -v p="$peak" 'BEGIN{print p/1024}')" MiB 200
	rm -rf "$dir"
}
