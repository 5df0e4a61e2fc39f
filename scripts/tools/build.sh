#!/usr/bin/env bash
# Builds development tools from pinned Go modules: build.sh NAME...
# (golangci-lint, govulncheck, goreleaser; versitygw, the S3 server of the journeys).
# Prints the path of each binary.
# The version is the one in NAME/go.mod; the result stays in
# $KOCLI_CACHE/tools/NAME-VERSION/.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KOCLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kocli}/tools

[ $# -gt 0 ] || { echo "usage: build.sh golangci-lint|govulncheck|goreleaser|versitygw ..." >&2; exit 2; }
for name in "$@"; do
	[ -f "$here/$name/go.mod" ] || { echo "error: no tool '$name'" >&2; exit 2; }
	package=$(awk '$1 == "tool" { print $2 }' "$here/$name/go.mod")
	# The module is the longest required path that the package begins with.
	version=$(awk -v p="$package" '{ sub(/^require /, ""); sub(/^\t/, "") }
		index(p "/", $1 "/") == 1 && $2 ~ /^v/ && length($1) > n { n = length($1); v = $2 } END { print v }' "$here/$name/go.mod")
	bin=$cache/$name-$version/$name
	mkdir -p "$cache"
	(
		flock 9
		[ ! -x "$bin" ] || exit 0
		start=$SECONDS
		echo "building $name $version" >&2
		tmp=$cache/.$name-$version.tmp
		rm -rf "$tmp" && mkdir -p "$tmp"
		cd "$here/$name"
		GOWORK=off GOFLAGS='' CGO_ENABLED=0 go build -buildvcs=false -trimpath \
			-ldflags "-s -w -X main.version=${version#v}" -o "$tmp/$name" "$package"
		rm -rf "$cache/$name-$version"
		mv "$tmp" "$cache/$name-$version"
		echo "built    $name $version in $((SECONDS - start)) s" >&2
	) 9>"$cache/$name.lock"
	echo "$bin"
done
