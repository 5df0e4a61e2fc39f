#!/usr/bin/env bash
# What an operator types to upgrade a cluster by hand, as Kubernetes' own guide has it
# ("Upgrading kubeadm clusters"): one node after another, each with its programs and
# images brought first. The baseline of the benchmark of `kocli upgrade`.
# usage: baseline-upgrade.sh PAYLOAD-DIR VERSION, with control-plane/ and worker/ in
# the folder; the lab from the environment. The first three hosts are control planes.
set -euo pipefail
dir=$1
version=$2
read -r -a hosts <<<"$KOCLI_LAB_ADDRESSES"
first=${hosts[0]}
opts=(-q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" -o IdentitiesOnly=yes)
on() { local h=$1; shift; ssh "${opts[@]}" "root@$h" "$@"; }
# try COMMAND...: again where the API server is just being started anew.
try() { local _; for _ in $(seq 60); do "$@" && return; sleep 1; done; return 1; }
kubectl() { on "$first" kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }
step() { printf '%s %s\n' "$(date +%T)" "$*"; }

# patches: what the nodes of this cluster have of their own.
patches='p=; [ ! -d /etc/kubernetes/kocli/patches ] || p="--patches /etc/kubernetes/kocli/patches"'
ignore=--ignore-preflight-errors=SystemVerification

# bring HOST ROLE: programs beside those that run, and images.
bring() {
	step "$1: programs and images"
	on "$1" 'rm -rf /var/lib/kocli-upgrade && mkdir -p /var/lib/kocli-upgrade'
	scp "${opts[@]}" "$dir/$2/bin/kubeadm" "$dir/$2/bin/kubelet" "$dir/$2/images.tar" "root@$1:/var/lib/kocli-upgrade/"
	on "$1" 'ctr -n k8s.io images import /var/lib/kocli-upgrade/images.tar >/dev/null && install -m 755 /var/lib/kocli-upgrade/kubeadm /usr/bin/kubeadm.new && mv /usr/bin/kubeadm.new /usr/bin/kubeadm'
}

# kubelet HOST NAME: drained, replaced, and waited for.
kubelet() {
	step "$2: kubelet"
	try kubectl drain "$2" --ignore-daemonsets --delete-emptydir-data --timeout=600s
	on "$1" 'install -m 755 /var/lib/kocli-upgrade/kubelet /usr/bin/kubelet.new && mv /usr/bin/kubelet.new /usr/bin/kubelet && systemctl daemon-reload && systemctl restart kubelet'
	for _ in $(seq 600); do
		if [ "$(kubectl get node "$2" --no-headers 2>/dev/null | awk '{print $2 " " $5}')" = "Ready,SchedulingDisabled $version" ]; then break; fi
		sleep 0.5
	done
	try kubectl wait --for=condition=Ready "node/$2" --timeout=300s
	try kubectl uncordon "$2"
}

bring "$first" control-plane
step "host1: kubeadm upgrade apply"
try on "$first" "kubeadm upgrade plan $version $ignore"
try on "$first" "$patches; kubeadm upgrade apply $version --yes $ignore \$p"
kubelet "$first" host1
for i in 2 3; do
	bring "${hosts[i - 1]}" control-plane
	step "host$i: kubeadm upgrade node"
	try on "${hosts[i - 1]}" "$patches; kubeadm upgrade node $ignore \$p"
	kubelet "${hosts[i - 1]}" "host$i"
done
for i in 4 5; do
	bring "${hosts[i - 1]}" worker
	step "host$i: kubeadm upgrade node"
	try on "${hosts[i - 1]}" "$patches; kubeadm upgrade node $ignore \$p"
	kubelet "${hosts[i - 1]}" "host$i"
done
try kubectl wait --for=condition=Ready nodes --all --timeout=300s
for what in ds/kube-proxy deploy/coredns; do try kubectl -n kube-system rollout status $what --timeout=300s; done
step "done"
