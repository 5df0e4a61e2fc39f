# Benchmarks of deltas between bundles. Sourced by run.sh, whose variables and
# functions it uses.
# shellcheck shell=bash

# bundle_of VERSION builds the bundle of another version of Kubernetes, and
# prints its path.
bundle_of() {
	local dir=$work/delta/$1 mirror
	mkdir -p "$dir"
	cp "$repo/examples/bundle-$1-amd64.yaml" "$dir/bundle.yaml"
	"$repo/scripts/upstream/build.sh" kubernetes "$1" >&2
	mirror=$("$repo/scripts/upstream/serve.sh" start | tail -1)
	"$kocli" bundle build -f "$dir/bundle.yaml" --to "$dir/bundle.tar" --cache "$cache/bundle" --mirror "$mirror" >&2
	echo "$dir/bundle.tar"
}

# bench_delta NAME BASE TARGET BAR: the size of a delta, against what is new in
# the target, whole, through zstd -19; and the time that it takes to apply.
bench_delta() {
	local delta=$work/delta/$1.tar new
	seconds "$kocli" bundle delta --base "$2" "$3" --to "$delta" >"$work/delta.make"
	seconds "$kocli" bundle apply --base "$2" "$delta" --to "$work/delta/$1.applied" >"$work/delta.apply"
	cmp "$3" "$work/delta/$1.applied"
	rm -rf "$work/delta/new" && mkdir -p "$work/delta/new"
	"$repo/bin/payload" new "$2" "$3" "$work/delta/new"
	new=$(tar -C "$work/delta/new" -cf - . | zstd -q -19 -T2 | wc -c)
	bench "delta.$1" "$(awk -v d="$(stat -c %s "$delta")" -v n="$new" 'BEGIN{print d/n}')" x-of-zstd-19 "$4"
	bench "delta.$1.make" "$(cat "$work/delta.make")" s none
	bench "delta.$1.apply" "$(cat "$work/delta.apply")" s none
	rm -f "$work/delta/$1.applied"
}

bench_deltas() {
	local patch minor
	rm -rf "$work/delta" && mkdir -p "$work/delta"
	patch=$(bundle_of v1.36.1)
	bench_delta patch "$patch" "$bundle" 0.35
	minor=$(bundle_of v1.37.2)
	bench_delta minor "$bundle" "$minor" 0.8
	rm -rf "$work/delta"
}
