#!/usr/bin/env bash
# The journeys: kocli on real hosts, with real sshd, systemd, containerd and
# kubeadm.   run.sh [SUITE ...] [-run REGEX]
# Each suite has hosts of its own and goes through its journeys in order; -run
# narrows them. KOCLI_E2E_KEEP=1 leaves the hosts of the last suite up.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

# Which journeys a suite has: the tests whose names match.
declare -A journeys=([core]='^Test[012]' [upgrade]='^Test3[0-4]' [hops]='^Test35' [backup]='^Test4' [certs]='^Test5' [addons]='^Test6' [registry]='^Test7')
suites=() regex=
while [ $# -gt 0 ]; do
	case $1 in
	-run) regex=$2 && shift ;;
	*) [ -n "${journeys[$1]:-}" ] || { echo "run.sh: no suite \"$1\": there are ${!journeys[*]}" >&2; exit 2; }; suites+=("$1") ;;
	esac
	shift
done
[ ${#suites[@]} -gt 0 ] || suites=(core)

bundle_of() { echo "$cache/bundle-$1/kocli-$1-amd64.tar"; }
bundle=$(bundle_of "$kubernetes")
default=$kubernetes
hops=(v1.34.4 v1.35.4) # from the oldest minor that kocli installs
next_bundle=$(bundle_of "$next_kubernetes")
work=$cache/run/e2e
down() { [ -n "${KOCLI_E2E_KEEP:-}" ] || { "$lab" down e2e; rm -rf "$work"; }; }
failed() {
	say "a journey failed: logs of all hosts are in $cache/logs/e2e"
	rm -rf "$cache/logs/e2e"
	"$lab" logs e2e "$cache/logs/e2e" || true
	cp -r "$work" "$cache/logs/e2e/kocli" 2>/dev/null || true
}
trap 'down' EXIT
trap 'exit 130' INT TERM

"$repo/scripts/lab/deps.sh" all >&2
make -C "$repo" --no-print-directory build >&2
say "bundle"
bundle_build "$bundle"
KOCLI_E2E_ETCD=$("$repo/scripts/upstream/build.sh" etcd)/etcd
export KOCLI_E2E_ETCD KOCLI_E2E_KOCLI=$kocli KOCLI_E2E_WORK=$work KOCLI_E2E_LAB=$lab
export KOCLI_E2E_NEXT_BUNDLE=$next_bundle KOCLI_E2E_NEXT=$next_kubernetes

for suite in "${suites[@]}"; do
	kubernetes=$default hosts=3
	case $suite in
	upgrade)
		say "bundle to upgrade to"
		kubernetes=$next_kubernetes bundle_build "$next_bundle"
		;;
	hops)
		KOCLI_E2E_HOPS=
		for v in "${hops[@]}" "$kubernetes" "$next_kubernetes"; do
			say "bundle of $v"
			kubernetes=$v bundle_build "$(bundle_of "$v")"
			KOCLI_E2E_HOPS+=" $v=$(bundle_of "$v")"
		done
		export KOCLI_E2E_HOPS
		kubernetes=${hops[0]} hosts=2
		;;
	addons)
		KOCLI_E2E_ADDONS_BUNDLE=$cache/bundle-addons-$kubernetes/kocli-addons-$kubernetes-amd64.tar
		say "bundle with add-ons"
		bundle_build "$KOCLI_E2E_ADDONS_BUNDLE" addons
		export KOCLI_E2E_ADDONS_BUNDLE
		;;
	backup)
		KOCLI_E2E_S3=$("$repo/scripts/tools/build.sh" versitygw)
		export KOCLI_E2E_S3
		;;
	esac
	"$lab" down e2e
	rm -rf "$work"
	mkdir -p "$work"
	"$lab" up e2e --hosts "$hosts"
	eval "$("$lab" env e2e)"
	bundle=$(bundle_of "$kubernetes")
	export KOCLI_LAB_KEY KOCLI_LAB_KNOWN_HOSTS KOCLI_LAB_OPS_PASSWORD_FILE KOCLI_E2E_BUNDLE=$bundle KOCLI_E2E_KUBERNETES=$kubernetes
	for user in root ops deploy; do cluster_yaml e2e "$user" >"$work/$user.yaml"; done

	say "journeys: $suite"
	run=${regex:-${journeys[$suite]}} json=$cache/e2e-$suite.json
	[ -z "$regex" ] || json=$cache/run/e2e-part.json # the README's table is of whole suites
	cd "$repo"
	go test -tags e2e -count=1 -v -failfast -timeout 60m -run "$run" -json ./scripts/e2e | tee "$json" |
		go run ./scripts/mustrun -v -run "$run" scripts/must-run-tests.txt || { failed; exit 1; }
done
