#!/usr/bin/env bash
# Installs from Debian what the scripts need: deps.sh [build|lab|all|bench].
# Does nothing, quickly, where all is there.
set -euo pipefail

declare -A packages=(
	[build]='gcc libc6-dev libseccomp-dev pkg-config xz-utils gpgv curl ca-certificates systemd time openssl haproxy keepalived busybox'
	[lab]='debootstrap docker.io iptables iproute2 openssh-client util-linux skopeo'
)
packages[all]="${packages[build]} ${packages[lab]}"
packages[bench]="${packages[all]} rsync zstd" # the rivals
wanted=${packages[${1:-all}]:-}
[ -n "$wanted" ] || { echo "usage: deps.sh [build|lab|all|bench]" >&2; exit 2; }

missing=()
for p in $wanted; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "error: these Debian packages are missing and need root to install: ${missing[*]}" >&2
	exit 1
fi
echo "installing from Debian: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# A machine that runs no services must not get a system-wide Docker daemon from
# installing the package: the lab starts its own where none answers.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
log=$(mktemp)
install() { apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
if ! install; then
	apt-get update >"$log" 2>&1 || true
	install || { tail -20 "$log" >&2; echo "error: apt-get could not install ${missing[*]}" >&2; exit 1; }
fi
rm -f "$log"
