# The benchmark of a restore: the data of an etcd of 600 MB onto three control planes
# at once, against who copies the snapshot to one host after another and restores it
# there with etcdutl. And how long it takes until an API server answers again. Sourced
# by run.sh, whose variables and functions it uses, and those of backup.sh and ha.sh.
# shellcheck shell=bash

# restore_event KIND prints when events of that kind came from the step that restores
# data, in seconds, in their order.
restore_event() {
	grep -F "\"kind\":\"$1\"" "$work/out" | grep -F '"step":"restore/data"' | sed 's/.*"time":"\([^"]*\)".*/\1/' | while read -r t; do date -d "$t" +%s.%N; done | sort -n
}

# restore_probe FILE waits until no API server answers, then until one does, and writes when.
restore_probe() {
	local a answers down=
	while :; do
		answers=
		for a in $KOCLI_LAB_ADDRESSES; do
			if curl -kfsS --max-time 1 -o /dev/null "https://$a:6443/readyz" 2>/dev/null; then answers=1; break; fi
		done
		if [ -z "$answers" ]; then down=1; elif [ -n "$down" ]; then now >"$1"; return; fi
		sleep 0.1
	done
}

restore_ours() {
	local s a b h probe
	rm -f "$work/answered"
	restore_probe "$work/answered" &
	probe=$!
	s=$(now)
	"$kocli" backup restore "$1" -f "$work/cluster.yaml" --home "$work/home" --identity "$work/backup-key.key" --i-know --yes -o json >"$work/out" 2>"$work/err" || { kill "$probe"; cat "$work/err" "$work/out" >&2; exit 1; }
	wait "$probe"
	awk -v a="$(cat "$work/answered")" -v s="$s" 'BEGIN{print a-s}' >>"$work/restore.answer"
	a=$(restore_event step-started | head -1) b=$(restore_event step-changed | tail -1)
	if [ -z "$a" ] || [ -z "$b" ]; then echo "the restore does not say when it restored data" >&2; exit 1; fi
	awk -v a="$a" -v b="$b" 'BEGIN{print b-a}' >>"$work/restore.ours"
	on_bench sh -c 'for i in $(seq 60); do kubectl --kubeconfig /etc/kubernetes/admin.conf wait --for=condition=Ready node --all --timeout=300s && exit 0; sleep 2; done; exit 1' >/dev/null 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
	for h in host1 host2 host3; do "$lab" exec bench "$h" -- sh -c 'rm -rf /var/lib/etcd/member.before-*'; done
}

# restore_stop takes the control planes down, as they are when kocli restores data.
restore_stop() {
	local h
	for h in host1 host2 host3; do
		"$lab" exec bench "$h" -- sh -ec 'mkdir /root/stopped; mv /etc/kubernetes/manifests/*.yaml /root/stopped/; for i in $(seq 120); do pgrep -x "etcd|kube-apiserver" >/dev/null || exit 0; sleep 1; done; echo "static pods do not end" >&2; exit 1'
	done
}

restore_by_hand() {
	local s i=0 a all=
	for a in $KOCLI_LAB_ADDRESSES; do i=$((i + 1)); all+="${all:+,}host$i=https://$a:2380"; done
	s=$(now) i=0
	for a in $KOCLI_LAB_ADDRESSES; do
		i=$((i + 1))
		scp -q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" "$work/by-hand.db" "root@$a:/var/lib/etcd/bench.db"
		ssh -q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" "root@$a" "etcdutl snapshot restore /var/lib/etcd/bench.db --data-dir /var/lib/etcd/bench --bump-revision 1000000000 --mark-compacted --name host$i --initial-cluster $all --initial-advertise-peer-urls https://$a:2380 2>&1 && rm /var/lib/etcd/bench.db" >"$work/by-hand.log" || { cat "$work/by-hand.log" >&2; exit 1; }
	done
	awk -v a="$(now)" -v s="$s" 'BEGIN{print a-s}' >>"$work/restore.hand"
	for i in 1 2 3; do "$lab" exec bench "host$i" -- rm -rf /var/lib/etcd/bench; done
}

bench_restore() {
	local i h file
	fresh 3
	ha_yaml 3
	sed -i 's/roles: \[control-plane\]/roles: [control-plane, worker]/' "$work/cluster.yaml"
	create
	backup_fill
	rm -rf "$work/backup-key".* "$work/backups"
	"$kocli" backup keygen --out "$work/backup-key" >/dev/null
	: >"$work/restore.ours"; : >"$work/restore.hand"; : >"$work/restore.answer"
	backup_ours >/dev/null
	file=$(find "$work/backups" -name '*.tar.zst.age' | head -1)
	[ -n "$file" ] || { echo "there is no backup in $work/backups" >&2; exit 1; }
	backup_bare >/dev/null
	scp -q -i "$KOCLI_LAB_KEY" -o UserKnownHostsFile="$KOCLI_LAB_KNOWN_HOSTS" "root@${KOCLI_LAB_ADDRESSES%% *}:/var/lib/etcd/bench.db" "$work/by-hand.db"
	on_bench rm -f /var/lib/etcd/bench.db
	for i in $(seq "$rounds"); do
		restore_ours "$file"
		echo "round $i: kocli $(tail -1 "$work/restore.ours") s, an API server answers after $(tail -1 "$work/restore.answer") s" >&2
	done
	for h in host1 host2 host3; do "$lab" exec bench "$h" -- sh -c 'cat >/usr/local/bin/etcdutl && chmod 755 /usr/local/bin/etcdutl' <"$("$repo/scripts/upstream/build.sh" etcd)/etcdutl"; done
	restore_stop
	for i in $(seq "$rounds"); do
		restore_by_hand
		echo "round $i: by hand, one host after another, $(tail -1 "$work/restore.hand") s" >&2
	done
	bench backup.restore.ratio "$(median_ratio "$work/restore.ours" "$work/restore.hand")" "x-of-scp-and-etcdutl-host-after-host($(range <"$work/r"))" 0.4
	bench backup.restore.data "$(median <"$work/restore.ours")" s none
	bench backup.restore.by-hand "$(median <"$work/restore.hand")" s none
	bench backup.restore.first-answer "$(median <"$work/restore.answer")" s none
	bench backup.restore.snapshot "$(stat -c %s "$work/by-hand.db")" bytes none
	rm -f "$work/by-hand.db"
}
