#!/usr/bin/env bash
# The journeys: kocli on real hosts, with real sshd, systemd, containerd and
# kubeadm. KOCLI_E2E_KEEP=1 leaves the lab up; KOCLI_E2E_LONG=1 adds those of upgrade,
# backup and certificates; -run REGEX narrows the journeys (with KOCLI_MUST_RUN=/dev/null).
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"

bundle=$cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar
addons_bundle=$cache/bundle-addons-$kubernetes/kocli-addons-$kubernetes-amd64.tar
next_bundle=$cache/bundle-$next_kubernetes/kocli-$next_kubernetes-amd64.tar
work=$cache/run/e2e
tags=e2e list=scripts/must-run-tests.txt json=$cache/e2e.json
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
say "bundle with add-ons"
bundle_build "$addons_bundle" addons
if [ -n "${KOCLI_E2E_LONG:-}" ]; then
	KOCLI_E2E_S3=$("$repo/scripts/tools/build.sh" versitygw)
	export KOCLI_E2E_S3
	say "bundle to upgrade to"
	kubernetes=$next_kubernetes bundle_build "$next_bundle"
	tags='e2e long' list=scripts/must-run-journeys-long.txt json=$cache/e2e-long.json
fi
"$lab" down e2e
rm -rf "$work"
mkdir -p "$work"
"$lab" up e2e --hosts 3
eval "$("$lab" env e2e)"
for user in root ops deploy; do cluster_yaml e2e "$user" >"$work/$user.yaml"; done

say "journeys"
KOCLI_E2E_ETCD=$("$repo/scripts/upstream/build.sh" etcd)/etcd
export KOCLI_E2E_ETCD KOCLI_E2E_KOCLI=$kocli KOCLI_E2E_BUNDLE=$bundle KOCLI_E2E_WORK=$work KOCLI_E2E_LAB=$lab
export KOCLI_E2E_ADDONS_BUNDLE=$addons_bundle KOCLI_E2E_NEXT_BUNDLE=$next_bundle KOCLI_E2E_KUBERNETES=$kubernetes KOCLI_E2E_NEXT=$next_kubernetes
export KOCLI_LAB_KEY KOCLI_LAB_KNOWN_HOSTS KOCLI_LAB_OPS_PASSWORD_FILE
cd "$repo"
go test -tags "$tags" -count=1 -v -failfast -timeout 60m -json ./scripts/e2e "$@" | tee "$json" |
	go run ./scripts/mustrun "${KOCLI_MUST_RUN:-$list}" -v || { failed; exit 1; }
