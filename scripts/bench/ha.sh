# The benchmark of a highly available cluster. Sourced by run.sh, whose variables
# and functions it uses.
# shellcheck shell=bash

# ha_yaml [PLANES] makes the first hosts of the lab's YAML control planes behind an
# address that leads to the first of them, as it does for who works by hand: what
# both do is the same.
ha_yaml() {
	local planes=$1 first=${KOCLI_LAB_ADDRESSES%% *} i
	sed -i "s|^  preflight:|  controlPlane: {endpoint: {mode: external, address: $first, port: 6443}}\n  preflight:|" "$work/cluster.yaml"
	for i in $(seq "$planes"); do
		sed -i "s|{name: host$i, \(.*\), roles: .*}|{name: host$i, \1, roles: [control-plane]}|" "$work/cluster.yaml"
	done
}

# Three control planes and two workers, against kubeadm by hand: control planes
# join one after another, as its documentation has it, workers all at once.
bench_ha_create() {
	local i s a b
	rm -rf "$work/ha" && mkdir -p "$work/ha"
	"$repo/bin/payload" "$bundle" control-plane "$work/ha/control-plane" external
	"$repo/bin/payload" "$bundle" worker "$work/ha/worker" external
	: >"$work/ha.ours" >"$work/ha.theirs"
	for i in $(seq "$rounds"); do
		fresh 5
		ha_yaml 3
		s=$(now)
		create
		a=$(now)
		awk -v a="$a" -v s="$s" 'BEGIN{print a-s}' >>"$work/ha.ours"
		[ -s "$work/ha/flannel.yaml" ] || network_yaml >"$work/ha/flannel.yaml"
		fresh 5
		s=$(now)
		CONTROL_PLANES=3 by_hand "$work/ha"
		b=$(now)
		awk -v a="$b" -v s="$s" 'BEGIN{print a-s}' >>"$work/ha.theirs"
		echo "round $i: kocli $(tail -1 "$work/ha.ours") s, by hand $(tail -1 "$work/ha.theirs") s" >&2
	done
	bench ha.create.ratio "$(median_ratio "$work/ha.ours" "$work/ha.theirs")" "x-of-by-hand($(range <"$work/r"))" 1.3
	bench ha.create.seconds "$(median <"$work/ha.ours")" s none
	bench ha.create.by-hand "$(median <"$work/ha.theirs")" s none
}
