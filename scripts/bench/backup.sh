# Benchmarks of backups, of an etcd that holds 600 MB: against a bare `etcdctl
# snapshot save` on the control plane, and against who brings the data home by hand:
# snapshot, gzip and scp, one after another. Sourced by run.sh, whose variables and
# functions it uses, and those of import.sh.
# shellcheck shell=bash

# backup_fill writes values of 1 MB, of which half is chance, until etcd has 600 MB.
backup_fill() {
	on_bench sh -c 'cat >/usr/local/bin/etcdctl && chmod 755 /usr/local/bin/etcdctl' <"$("$repo/scripts/upstream/build.sh" etcd)/etcdctl"
	on_bench sh -ec "cat >/usr/local/bin/bench-etcdctl && chmod 755 /usr/local/bin/bench-etcdctl" <<'X'
#!/bin/sh
p=/etc/kubernetes/pki/etcd
exec etcdctl --endpoints https://127.0.0.1:2379 --cacert $p/ca.crt --cert $p/healthcheck-client.crt --key $p/healthcheck-client.key "$@"
X
	on_bench sh -ec 'for i in $(seq 600); do od -An -v -tx1 -N 333333 /dev/urandom | tr -d "\n" | bench-etcdctl put /kocli-bench/$i >/dev/null; done'
}

# What is measured, in seconds each.
backup_bare() { import_timed 'rm -f /var/lib/etcd/bench.db; bench-etcdctl snapshot save /var/lib/etcd/bench.db'; }
backup_ours() {
	local s
	rm -rf "$work/backups"
	s=$(now)
	"$kocli" backup create -f "$work/cluster.yaml" --home "$work/home" --to "$work/backups" --recipients-file "$work/backup-key.pub" >"$work/out" 2>"$work/err" || { cat "$work/err" "$work/out" >&2; exit 1; }
	awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}'
}
backup_by_hand() {
	local s
	on_bench rm -f /var/lib/etcd/bench.db /var/lib/etcd/bench.db.gz
	s=$(now)
	on_bench sh -ec 'bench-etcdctl snapshot save /var/lib/etcd/bench.db >/dev/null 2>&1; gzip /var/lib/etcd/bench.db'
	scp -q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" "root@$("$lab" address bench host1):/var/lib/etcd/bench.db.gz" "$work/by-hand.gz"
	awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}'
}

bench_backup() {
	local i
	fresh 1
	create
	backup_fill
	rm -f "$work/backup-key".*
	"$kocli" backup keygen --out "$work/backup-key" >/dev/null
	: >"$work/backup.ours"; : >"$work/backup.bare"; : >"$work/backup.hand"
	backup_ours >/dev/null # brings kocli to the host, once
	for i in $(seq "$rounds"); do
		backup_bare >>"$work/backup.bare"
		backup_ours >>"$work/backup.ours"
		backup_by_hand >>"$work/backup.hand"
		echo "round $i: kocli $(tail -1 "$work/backup.ours") s, snapshot $(tail -1 "$work/backup.bare") s, by hand $(tail -1 "$work/backup.hand") s" >&2
	done
	bench backup.create "$(median_ratio "$work/backup.ours" "$work/backup.bare")" "x-of-etcdctl-snapshot-save($(range <"$work/r"))" 1.4
	bench backup.create.home "$(median_ratio "$work/backup.ours" "$work/backup.hand")" "x-of-snapshot-gzip-scp($(range <"$work/r"))" 0.4
	bench backup.create.seconds "$(median <"$work/backup.ours")" s none
}
