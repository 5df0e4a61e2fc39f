# Benchmarks of bringing images into containerd: twenty of them, against a loop
# of `ctr images import`, from files in memory on the host itself. Sourced by
# run.sh, whose variables and functions it uses.
# shellcheck shell=bash

on_bench() { "$lab" exec bench host1 -- "$@"; }

# bench_import_host VERSION starts containerd on a fresh host, with all that the
# rounds need.
bench_import_host() {
	local f
	"$lab" down bench >/dev/null 2>&1
	"$lab" up bench --hosts 1 >/dev/null 2>&1
	tar -C "$work/import" -cf - . | on_bench sh -c 'mkdir -p /tmp/import && tar -C /tmp/import -xf -'
	for f in "$kocli" "$repo/bin/images" "$1/containerd" "$1/ctr"; do on_bench sh -c "cat >/usr/local/bin/${f##*/} && chmod 755 /usr/local/bin/${f##*/}" <"$f"; done
	on_bench systemd-run --quiet --unit bench-containerd --property Type=notify /usr/local/bin/containerd
}

# import_ours NAME and import_theirs NAME print the seconds that bringing all
# images of a set takes.
import_timed() { on_bench sh -ec 'a=$(date +%s%N); eval "$1" >/tmp/import.log 2>&1 || { cat /tmp/import.log >&2; exit 1; }; echo $((($(date +%s%N)-a)/1000000)) | sed "s/...\$/.&/; s/^\./0./"' sh "$1"; }
import_ours() { import_timed "images send /tmp/import/$1.tar kocli node images --protocol 1"; }
import_theirs() { import_timed "for f in /tmp/import/$1/*.tar; do ctr -n k8s.io images import \$f; done"; }
import_none() { on_bench sh -c 'ctr -n k8s.io images ls -q | xargs -r ctr -n k8s.io images rm --sync >/dev/null'; }

# bench_import_rounds VERSION SUFFIX measures one containerd.
bench_import_rounds() {
	local i w
	bench_import_host "$cache/upstream/containerd/$1"
	for w in cold changed none; do : >"$work/import.$w" >"$work/ctr.$w"; done
	for i in $(seq "$rounds"); do
		import_none
		import_ours a >>"$work/import.cold"
		import_ours b >>"$work/import.changed"
		import_ours b >>"$work/import.none"
		import_none
		import_theirs a >>"$work/ctr.cold"
		import_theirs b >>"$work/ctr.changed"
		import_theirs b >>"$work/ctr.none"
		echo "round $i, $1: kocli $(for w in cold changed none; do tail -1 "$work/import.$w"; done | xargs) s, ctr $(for w in cold changed none; do tail -1 "$work/ctr.$w"; done | xargs) s" >&2
	done
	bench "import.cold$2" "$(median_ratio "$work/import.cold" "$work/ctr.cold")" "x-of-ctr-loop($(range <"$work/r"))" 0.7
	bench "import.changed$2" "$(median_ratio "$work/import.changed" "$work/ctr.changed")" "x-of-ctr-loop($(range <"$work/r"))" 0.3
	bench "import.nothing$2" "$(median_ratio "$work/import.none" "$work/ctr.none")" "x-of-ctr-loop($(range <"$work/r"))" 0.1
}

bench_import() {
	rm -rf "$work/import" && mkdir -p "$work/import"
	"$repo/bin/images" make "$bundle" "$work/import"
	"$repo/scripts/upstream/build.sh" containerd >&2
	bench_import_rounds "$(containerd_version CONTAINERD_VERSION)" ''
	bench_import_rounds "$(containerd_version CONTAINERD_OLD_VERSION)" .containerd-1.7
}

containerd_version() { sed -n "s/^$1=\\([^ ]*\\).*/\\1/p" "$repo/scripts/upstream/versions.env"; }
