#!/usr/bin/env bash
# What an experienced operator would type to get the same cluster by hand, with
# everything that can run in parallel in parallel: the baseline of `make bench`.
# usage: baseline.sh PAYLOAD-DIR (with control-plane/ and worker/); lab from the environment
# CONTROL_PLANES=N makes the first N hosts control planes; their endpoint leads to
# the first, and they join one after another.
set -euo pipefail
dir=$1
planes=${CONTROL_PLANES:-1}
here=$(cd "$(dirname "$0")" && pwd)
read -r -a hosts <<<"$KOCLI_LAB_ADDRESSES"
first=${hosts[0]}
opts=(-q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" -o IdentitiesOnly=yes)
on() { local h=$1; shift; ssh "${opts[@]}" "root@$h" "$@"; }
kubectl() { on "$first" kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }

# each COMMAND HOST... runs a command for each host at once, and fails where one does.
each() {
	local f=$1 h pids=()
	shift
	for h in "$@"; do "$f" "$h" & pids+=($!); done
	for h in "${pids[@]}"; do wait "$h"; done
}

prepare() {
	local h=$1 role=worker i
	for i in "${hosts[@]:0:planes}"; do [ "$h" != "$i" ] || role=control-plane; done
	scp "${opts[@]}" -r "$dir/$role" "root@$h:/var/lib/kocli/baseline"
	on "$h" sh -s <"$here/baseline-host.sh"
}
join_worker() { on "$1" "$join --ignore-preflight-errors=SystemVerification" >/dev/null; }
join_control_plane() {
	on "$1" "$join --ignore-preflight-errors=SystemVerification --control-plane --certificate-key $key --apiserver-advertise-address $1" >/dev/null
}

each prepare "${hosts[@]}"
key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
if [ "$planes" -gt 1 ]; then drop='/# single$/d'; upload=--upload-certs; else drop='/# several$/d'; upload=; fi
sed "$drop; s/@ADDRESS@/$first/; s/@VERSION@/$kubernetes/; s/@KEY@/$key/" "$here/baseline-init.yaml" | on "$first" "cat >/root/init.yaml"
on "$first" "kubeadm init --config /root/init.yaml $upload --ignore-preflight-errors=SystemVerification" >/dev/null
kubectl "-n kube-system get cm coredns -o yaml | sed '/forward \\. /,/}/d' | kubectl --kubeconfig /etc/kubernetes/admin.conf replace -f -" >/dev/null
kubectl apply -f - <"$dir/flannel.yaml" >/dev/null
join=$(on "$first" kubeadm token create --print-join-command)
for h in "${hosts[@]:1:planes-1}"; do join_control_plane "$h"; done
each join_worker "${hosts[@]:planes}"
kubectl "wait --for=condition=Ready nodes --all --timeout=300s && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system rollout status deployment coredns --timeout=300s && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-flannel rollout status daemonset flannel --timeout=300s" >/dev/null
