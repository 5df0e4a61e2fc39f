#!/usr/bin/env bash
# From a bare Debian machine to a running cluster on three lab hosts without
# internet: what `make demo` runs. `demo.sh down` removes all of it.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

home=$cache/run/demo
yaml=$home/cluster.yaml

up() {
	local start=$SECONDS
	"$repo/scripts/lab/deps.sh" all >&2
	make -C "$repo" --no-print-directory build >&2
	say "bundle"
	bundle_build "$cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar"
	say "three hosts without internet"
	"$lab" up demo --hosts 3
	mkdir -p "$home"
	eval "$("$lab" env demo)"
	cp "$KOCLI_LAB_KNOWN_HOSTS" "$home/known_hosts"
	cluster_yaml demo root >"$yaml"
	say "kocli create -f $yaml --bundle $cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar"
	local create=("$kocli" create -f "$yaml" --home "$home" --bundle "$cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar")
	if [ -t 2 ]; then # with the bar; nothing is kept for the READMEs
		"${create[@]}"
	else
		"${create[@]}" 2>&1 | tee "$cache/demo.create"
	fi
	say "kocli status --wait 2m"
	"$kocli" status -f "$yaml" --home "$home" --wait 2m
	"$lab" exec demo host1 -- kubectl --kubeconfig /etc/kubernetes/admin.conf -n kocli-system wait --for=delete pod --all --timeout=60s >/dev/null 2>&1 || : # the last of kocli's checks
	say "kubectl get nodes,pods -A"
	"$lab" exec demo host1 -- kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes,pods -A | tee "$cache/demo.kubectl"
	[ -t 2 ] || { echo '$ kocli create -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar'; grep -v '^note' "$cache/demo.create"; echo; echo '$ kubectl get nodes,pods -A'; cat "$cache/demo.kubectl"; } |
		sed "s#$home#~/.kocli#" >"$cache/demo.txt" # for the READMEs
	say "done in $((SECONDS - start)) s. Look around: bin/kocli status -f $yaml --home $home; make demo-down removes it"
}

down() {
	"$lab" down demo
	"$repo/scripts/upstream/serve.sh" stop
	rm -rf "$home"
}

case ${1:-up} in
up) up ;;
down) down ;;
*) echo "usage: demo.sh [up|down]" >&2; exit 2 ;;
esac
