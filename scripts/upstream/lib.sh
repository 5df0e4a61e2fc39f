# Shared by the scripts in this folder: where the cache is, and how a thing is
# built into it once. Sourced, never run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # cache, mirror_root, built and cpu are for the scripts

upstream_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KOCLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kocli}
mirror_root=$cache/mirror

# shellcheck source=scripts/upstream/versions.env
. "$upstream_dir/versions.env"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# cpu_seconds: user and system time of the children so far, into $cpu. Not by
# command substitution: a subshell has no children yet.
cpu_seconds() {
	times >"$cache/.times.$$"
	cpu=$(awk 'NR == 2 { gsub(/[ms]/, " "); $0 = $0; print int($1 * 60 + $2 + $3 * 60 + $4) }' "$cache/.times.$$")
	rm -f "$cache/.times.$$"
}

# once NAME VERSION INPUT... -- FUNCTION ARG...
# Runs FUNCTION DIR ARG... to fill $cache/upstream/NAME/VERSION, unless that was
# done before with the same recipe (the function's text and the INPUT files).
# The folder appears by rename, so it is whole or absent. Prints nothing but
# progress; the folder's name is in $built.
once() {
	local name=$1 version=$2 inputs=() key dir tmp start
	shift 2
	while [ "$1" != -- ]; do inputs+=("$1"); shift; done
	shift
	dir=$cache/upstream/$name/$version
	mkdir -p "$(dirname "$dir")"
	exec 8>"$dir.lock"
	flock 8
	key=$({ declare -f "$1" go_build; printf '%s\n' "$@"; go env GOVERSION
		[ ${#inputs[@]} -eq 0 ] || sha256sum "${inputs[@]}" | cut -d' ' -f1; } | sha256sum | cut -c1-16)
	built=$dir
	if [ "$(cat "$dir/.recipe" 2>/dev/null)" = "$key" ]; then
		exec 8>&-
		return
	fi
	start=$SECONDS
	say "building $name $version"
	tmp=$(dirname "$dir")/.$version.tmp
	rm -rf "$tmp" && mkdir -p "$tmp"
	local body=$1
	shift
	"$body" "$tmp" "$@" 8>&-
	echo "$key" >"$tmp/.recipe"
	rm -rf "$dir.old"
	if [ -e "$dir" ]; then mv "$dir" "$dir.old"; fi
	mv "$tmp" "$dir"
	rm -rf "$dir.old"
	exec 8>&-
	say "built    $name $version in $((SECONDS - start)) s"
}

# go_build MODULE_DIR OUT_DIR LDFLAGS PACKAGE...: commands of a module, stripped
# and without traces of this machine. Honours CGO_ENABLED and GO_TAGS.
go_build() {
	local dir=$1 out=$2 ldflags=$3
	shift 3
	mkdir -p "$out"
	(cd "$dir" && GOWORK=off GOFLAGS='' CGO_ENABLED=${CGO_ENABLED:-0} GOOS=linux GOARCH=amd64 \
		go build -buildvcs=false -trimpath -tags "${GO_TAGS:-}" -ldflags "-s -w $ldflags" -o "$out/" "$@")
}

# complete_sums DIR: fills go.sum with what its commands need. Not `go mod tidy`,
# which also wants the modules that tests of dependencies use.
complete_sums() {
	(cd "$1" && GOFLAGS=-mod=mod GOWORK=off go list -deps tool ./... >/dev/null 2>"$cache/work/go-list.$$.log") ||
		{ tail -5 "$cache/work/go-list.$$.log" >&2; die "the modules of $1 do not resolve"; }
	rm -f "$cache/work/go-list.$$.log"
}

# module_at NAME VERSION MODULE...: prints a folder with NAME's go.mod in which
# the modules are at VERSION: the committed one where it pins just that, else a
# copy in the cache, with what that version itself requires: an older one does not
# build with what the pinned one needs.
module_at() {
	local name=$1 version=$2 work
	shift 2
	if awk -v m="$1" -v v="$version" '($1 == m && $2 == v) || ($2 == m && $3 == v) { f = 1 } END { exit !f }' "$upstream_dir/$name/go.mod"; then
		echo "$upstream_dir/$name"
		return
	fi
	work=$cache/work/$name-$version
	if [ ! -f "$work/.ready" ]; then
		rm -rf "$work" && mkdir -p "$work"
		cp "$upstream_dir/$name"/* "$work/"
		rm -f "$work/go.sum"
		awk '/^require \(/ { skip = 1 } !skip && !/^require / { print } /^\)/ { skip = 0 }' "$upstream_dir/$name/go.mod" >"$work/go.mod"
		(cd "$work" && GOFLAGS=-mod=mod GOWORK=off go get "${@/%/@$version}") >&2
		complete_sums "$work"
		touch "$work/.ready"
	fi
	echo "$work"
}
