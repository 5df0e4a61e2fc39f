#!/usr/bin/env bash
# What an experienced operator would type to get the same cluster by hand, with
# everything that can run in parallel in parallel: the baseline of `make bench`.
# usage: baseline.sh PAYLOAD-DIR (with control-plane/ and worker/); lab from the environment
set -euo pipefail
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
read -r -a hosts <<<"$KOCLI_LAB_ADDRESSES"
opts=(-q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" -o IdentitiesOnly=yes)
on() { local h=$1; shift; ssh "${opts[@]}" "root@$h" "$@"; }
role() { if [ "$1" = "${hosts[0]}" ]; then echo control-plane; else echo worker; fi; }

prepare() {
	local h=$1
	scp "${opts[@]}" -r "$dir/$(role "$h")" "root@$h:/var/lib/kocli/baseline"
	on "$h" sh -s <"$here/baseline-host.sh"
}
for h in "${hosts[@]}"; do prepare "$h" & done
wait
sed "s/@ADDRESS@/${hosts[0]}/; s/@VERSION@/$kubernetes/" "$here/baseline-init.yaml" | on "${hosts[0]}" "cat >/root/init.yaml"
on "${hosts[0]}" kubeadm init --config /root/init.yaml --ignore-preflight-errors=SystemVerification >/dev/null
on "${hosts[0]}" "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system get cm coredns -o yaml | sed '/forward \\. /,/}/d' | kubectl --kubeconfig /etc/kubernetes/admin.conf replace -f -" >/dev/null
on "${hosts[0]}" "kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -" <"$dir/flannel.yaml" >/dev/null
join=$(on "${hosts[0]}" kubeadm token create --print-join-command)
for h in "${hosts[@]:1}"; do on "$h" "$join --ignore-preflight-errors=SystemVerification" >/dev/null & done
wait
on "${hosts[0]}" "kubectl --kubeconfig /etc/kubernetes/admin.conf wait --for=condition=Ready nodes --all --timeout=300s && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system rollout status deployment coredns --timeout=300s && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-flannel rollout status daemonset flannel --timeout=300s" >/dev/null
