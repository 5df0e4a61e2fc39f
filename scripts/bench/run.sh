#!/usr/bin/env bash
# Benchmarks, each against its baseline in the same run. Prints one line a
# figure, `bench AREA.NAME VALUE UNIT bar=BAR`, and writes them to a JSON file.
# ONLY=regex runs those that match (ONLY='^create$' create alone): build.binary,
# create.facts-of-100-hosts, scale.plan-of-500-hosts, scale.add-worker, verify,
# build.bundle, bundle.rss, delta, import, create, backup, backup.restore, ha.create,
# upgrade, push.full, push.shaped, push.bytes-out.16. ROUNDS sets the rounds of those
# with a baseline (default 3; of upgrade 1).
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/../common.sh"
# shellcheck source=scripts/bench/push.sh
. "$(dirname "$0")/push.sh"
# shellcheck source=scripts/bench/ha.sh
. "$(dirname "$0")/ha.sh"
# shellcheck source=scripts/bench/bundle.sh
. "$(dirname "$0")/bundle.sh"
# shellcheck source=scripts/bench/import.sh
. "$(dirname "$0")/import.sh"
# shellcheck source=scripts/bench/backup.sh
. "$(dirname "$0")/backup.sh"
# shellcheck source=scripts/bench/restore.sh
. "$(dirname "$0")/restore.sh"
# shellcheck source=scripts/bench/upgrade.sh
. "$(dirname "$0")/upgrade.sh"
# shellcheck source=scripts/bench/delta.sh
. "$(dirname "$0")/delta.sh"
export kubernetes

bundle=$cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar
work=$cache/run/bench
json=${BENCH_JSON:-$cache/bench.json}
rounds=${ROUNDS:-3}
lines=$(mktemp)
trap '"$lab" down bench; rm -rf "$work" "$lines"' EXIT
trap 'exit 130' INT TERM

wanted() { [[ -z ${ONLY:-} || $1 =~ $ONLY ]]; }
bench() { printf 'bench %s %s %s bar=%s\n' "$1" "$2" "$3" "$4" | tee -a "$lines"; }
median() { sort -n | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
range() { sort -n | awk 'NR==1{a=$1} {b=$1} END {print a " to " b}'; }
now() { date +%s.%N; }
# field FILE NAME: a number out of the last line of -o json
field() { tail -1 "$1" | grep -o "\"$2\":[0-9]*" | head -1 | cut -d: -f2; }

# fresh [HOSTS] starts new hosts, and writes a cluster YAML for them.
fresh() { "$lab" down bench >/dev/null 2>&1; "$lab" up bench --hosts "${1:-3}" >/dev/null 2>&1; eval "$("$lab" env bench)"
	export KOCLI_LAB_KEY KOCLI_LAB_KNOWN_HOSTS KOCLI_LAB_ADDRESSES
	rm -rf "$work/home"; mkdir -p "$work/home"; cp "$KOCLI_LAB_KNOWN_HOSTS" "$work/home/known_hosts"; cluster_yaml bench root >"$work/cluster.yaml"; }
create() { /usr/bin/time -f '%M' -o "$work/rss" "$kocli" create -f "$work/cluster.yaml" --home "$work/home" --bundle "$bundle" -o json >"$work/out" 2>"$work/err" || { cat "$work/err" "$work/out" >&2; exit 1; }; }

# by_hand DIR makes the cluster of the lab with the baseline's commands.
by_hand() { "$repo/scripts/bench/baseline.sh" "$1" >"$work/baseline.log" 2>&1 || { cat "$work/baseline.log" >&2; exit 1; }; }
# network_yaml prints the objects of the pod network, for who applies them by hand.
network_yaml() {
	"$lab" exec bench host1 -- sh -c 'for k in ns/kube-flannel -n\ kube-flannel\ sa/flannel clusterrole/flannel clusterrolebinding/flannel -n\ kube-flannel\ cm/flannel -n\ kube-flannel\ ds/flannel; do kubectl --kubeconfig /etc/kubernetes/admin.conf get $k -o json | grep -vE "\"(uid|resourceVersion|creationTimestamp)\"" ; done' |
		awk '/^{/{print "---"} {print}'
}

bench_create() {
	local i s a b
	"$repo/bin/payload" "$bundle" control-plane "$work/payload/control-plane" none
	"$repo/bin/payload" "$bundle" worker "$work/payload/worker" none
	: >"$work/ratios"; : >"$work/ours"; : >"$work/theirs"
	for i in $(seq "$rounds"); do
		fresh
		s=$(now); create; a=$(now)
		awk -v a="$a" -v s="$s" 'BEGIN{print a-s}' >>"$work/ours"
		[ -s "$work/payload/flannel.yaml" ] || network_yaml >"$work/payload/flannel.yaml"
		if [ "$i" = 1 ]; then bench_converged; fi
		fresh
		s=$(now); by_hand "$work/payload"; b=$(now)
		awk -v a="$b" -v s="$s" 'BEGIN{print a-s}' >>"$work/theirs"
		paste "$work/ours" "$work/theirs" | awk '{print $1/$2}' >"$work/ratios"
		echo "round $i: kocli $(tail -1 "$work/ours") s, by hand $(tail -1 "$work/theirs") s" >&2
	done
	bench create.ratio "$(median <"$work/ratios")" "x-of-by-hand($(range <"$work/ratios"))" 1.15
	bench create.seconds "$(median <"$work/ours")" s none
	bench create.by-hand "$(median <"$work/theirs")" s none
}

bench_converged() {
	bench create.rss "$(awk '{print $1/1024}' "$work/rss")" MiB 200
	create
	bench create.converged.seconds "$(field "$work/out" durationNs | awk '{print $1/1e9}')" s 3
	bench create.converged.roundtrips "$(grep -o '"roundTrips":[0-9]*' "$work/out" | tail -3 | cut -d: -f2 | sort -n | tail -1)" per-host 6
	bench push.unchanged "$(grep -o '"bytesSent":[0-9]*' "$work/out" | tail -3 | cut -d: -f2 | sort -n | tail -1)" bytes-per-host 102400
}

# metric FILE UNIT: a figure of a Go benchmark
metric() { awk -v unit="$2" '/^Benchmark/{for (i = 2; i <= NF; i++) if ($i == unit) print $(i-1)}' "$1"; }

bench_hosts() {
	local v
	v=$(cd "$repo" && go test -run '^$' -bench '^BenchmarkFactsOf100Hosts$' -benchtime 3x ./pkg/workflow | awk '/^BenchmarkFactsOf100Hosts/{print $3/1e9}')
	bench create.facts-of-100-hosts "$v" s 5
}

bench_plan() {
	# One more host for 500; SSH servers and API are in another process. Each plan is a
	# process of its own, as it is for who types it.
	local out=$work/plan.out i
	(cd "$repo" && go test -c -o "$work/workflow.test" ./pkg/workflow)
	for i in $(seq "$rounds"); do
		(cd "$repo/pkg/workflow" && "$work/workflow.test" -test.run '^$' -test.bench '^BenchmarkPlanOf500Hosts$' -test.benchtime 1x) >"$out.$i"
	done
	cat "$out".* >"$out"
	bench scale.plan-of-500-hosts "$(metric "$out" ns/op | median | awk '{print $1/1e9}')" s 10
	bench scale.plan-of-500-hosts.cpu "$(metric "$out" cpu-s/op | median)" s 10
	bench scale.plan-of-500-hosts.memory "$(metric "$out" MiB-peak | sort -n | tail -1)" MiB 300
}

bench_add_worker() {
	local out=$work/add.out n
	(cd "$repo" && go test -run '^$' -bench '^BenchmarkAddWorker$' -benchtime 1x ./pkg/workflow) >"$out"
	for n in 5 100; do
		grep "to-$n-nodes" "$out" >"$out.$n"
		bench "scale.add-worker.writes-on-existing.$n-nodes" "$(metric "$out.$n" writes-on-existing)" writes 0
		bench "scale.add-worker.api-writes.$n-nodes" "$(metric "$out.$n" api-writes)" writes none
	done
}

# A round trip of 50 ms, made by a proxy in the same process: several connections
# against one for the same bytes.
bench_push_far() {
	(cd "$repo" && go test -run '^$' -bench '^BenchmarkPushLongRoundTrip$' -benchtime 1x -count "$rounds" ./pkg/host/fanout) |
		awk '/^BenchmarkPushLongRoundTrip/{for (i = 2; i <= NF; i++) if ($i == "x-of-one-connection") print $(i-1)}' >"$work/r"
	bench push.long-round-trip "$(median <"$work/r")" "x-of-one-connection($(range <"$work/r"))" 0.5
}

make -C "$repo" --no-print-directory build >&2
(cd "$repo" && go build -o bin/payload ./scripts/bench/payload && go build -o bin/fill ./scripts/bench/fill && CGO_ENABLED=0 go build -o bin/images ./scripts/bench/images)
"$repo/scripts/lab/deps.sh" bench >&2
mkdir -p "$work"
if wanted build.binary; then bench build.binary "$(stat -c %s "$kocli" | awk '{print $1/1e6}')" MB 90; fi
if wanted create.facts-of-100-hosts; then bench_hosts; fi
if wanted push.long-round-trip; then bench_push_far; fi
if wanted scale.plan-of-500-hosts; then bench_plan; fi
if wanted scale.add-worker; then bench_add_worker; fi
bundle_build "$bundle" >&2
if wanted verify; then bench_verify; fi
if wanted build.bundle; then bench_build; fi
if wanted bundle.rss; then bench_memory; fi
if wanted delta; then bench_deltas; fi
if wanted import; then bench_import; fi
if wanted create; then bench_create; fi
if wanted backup; then bench_backup; fi
if wanted backup.restore; then bench_restore; fi
if wanted ha.create; then bench_ha_create; fi
if wanted upgrade; then bench_upgrade; fi
if wanted push.full; then bench_push_full; fi
if wanted push.shaped; then bench_push_shaped; fi
if wanted push.bytes-out.16; then bench_push_many; fi
awk 'BEGIN{print "["} {split($5,b,"="); printf "%s{\"name\":\"%s\",\"value\":%s,\"unit\":\"%s\",\"bar\":\"%s\"}", (NR>1?",\n":""), $2, $3, $4, b[2]} END{print "\n]"}' <(sed 's/ to /-/' "$lines") >"$json"
echo "written to $json" >&2
