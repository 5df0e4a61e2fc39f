# The benchmark of an upgrade: three control planes and two workers from one minor to
# the next, against kubeadm's own commands in the order of its documentation. Both
# start from a cluster that kocli has made. One upgrade each, unless ROUNDS says more:
# it takes minutes. Sourced by run.sh, whose variables and functions it uses, and those
# of ha.sh.
# shellcheck shell=bash

# What runs in the cluster, and has to move when a node is drained.
upgrade_load() {
	on_bench sh -c 'kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f - && kubectl --kubeconfig /etc/kubernetes/admin.conf rollout status deployment/load --timeout=120s' >/dev/null <<'Y'
apiVersion: apps/v1
kind: Deployment
metadata: {name: load}
spec:
  replicas: 6
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec: {containers: [{name: p, image: registry.k8s.io/pause:3.10.2}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: load}
spec: {maxUnavailable: 2, selector: {matchLabels: {app: load}}}
Y
}

# upgrade_start makes the cluster that is upgraded.
upgrade_start() {
	fresh 5
	ha_yaml 3
	create
	upgrade_load
}

# upgrade_done fails where a node, or what kubeadm installs beside it, is not there yet.
upgrade_done() {
	on_bench sh -ec 'k="kubectl --kubeconfig /etc/kubernetes/admin.conf"
		[ "$($k get nodes --no-headers | awk -v v="$1" "\$2 == \"Ready\" && \$5 == v" | wc -l)" = 5 ] || { $k get nodes; exit 1; }
		$k -n kube-system get ds kube-proxy -o jsonpath="{.spec.template.spec.containers[0].image}" | grep -q ":$1\$"
		for what in ds/kube-proxy deploy/coredns; do $k -n kube-system rollout status $what --timeout=10s; done' sh "$next_kubernetes" >&2
}

bench_upgrade() {
	local i n=${ROUNDS:-1} s bytes next=$cache/bundle-$next_kubernetes/kocli-$next_kubernetes-amd64.tar
	kubernetes=$next_kubernetes bundle_build "$next" >&2
	rm -rf "$work/up" && mkdir -p "$work/up"
	"$repo/bin/payload" "$next" control-plane "$work/up/control-plane" external
	"$repo/bin/payload" "$next" worker "$work/up/worker" external
	: >"$work/upgrade.ours"; : >"$work/upgrade.hand"
	for i in $(seq "$n"); do
		upgrade_start
		s=$(now)
		"$kocli" upgrade -f "$work/cluster.yaml" --home "$work/home" --to "$next_kubernetes" --bundle "$next" --yes -o json >"$work/upgrade.out" 2>"$work/err" || { cat "$work/err" "$work/upgrade.out" >&2; exit 1; }
		awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}' >>"$work/upgrade.ours"
		upgrade_done
		echo "round $i: kocli $(tail -1 "$work/upgrade.ours") s" >&2
		upgrade_start
		s=$(now)
		"$repo/scripts/bench/baseline-upgrade.sh" "$work/up" "$next_kubernetes" >"$work/baseline.log" 2>&1 || { cat "$work/baseline.log" >&2; exit 1; }
		awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}' >>"$work/upgrade.hand"
		upgrade_done
		echo "round $i: by hand $(tail -1 "$work/upgrade.hand") s" >&2
	done
	bench upgrade.ratio "$(median_ratio "$work/upgrade.ours" "$work/upgrade.hand")" "x-of-kubeadm-by-hand($(range <"$work/r"))" 1.2
	bench upgrade.seconds "$(median <"$work/upgrade.ours")" s none
	bench upgrade.by-hand "$(median <"$work/upgrade.hand")" s none
	if bytes=$(field "$work/upgrade.out" sentBytes); then bench upgrade.bytes-out "$bytes" bytes none; fi
}
