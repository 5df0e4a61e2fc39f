# Benchmarks of bringing content to hosts. Sourced by run.sh, whose variables
# and functions it uses.
# shellcheck shell=bash

# push_lab N BUNDLE starts N hosts that have kocli already, and nothing else.
push_lab() {
	"$lab" down bench >/dev/null 2>&1
	"$lab" up bench --hosts "$1" >/dev/null 2>&1
	eval "$("$lab" env bench)"
	export KOCLI_LAB_KEY KOCLI_LAB_KNOWN_HOSTS KOCLI_LAB_ADDRESSES
	rm -rf "$work/home" && mkdir -p "$work/home"
	cp "$KOCLI_LAB_KNOWN_HOSTS" "$work/home/known_hosts"
	cluster_yaml bench root >"$work/cluster.yaml"
	push "$2" auto
	push_clean "$1"
}

# push BUNDLE MODE: the result is in $work/push.json, seconds and peak memory in
# $work/push.time.
push() {
	/usr/bin/time -f '%e %M' -o "$work/push.time" "$kocli" bundle push "$1" -f "$work/cluster.yaml" --home "$work/home" --fan-out "$2" -o json >"$work/push.json" 2>"$work/push.err" ||
		{ local rc=$?; [ -n "${MAY_FAIL:-}" ] || { cat "$work/push.err" "$work/push.json" >&2; exit 1; }; return $rc; }
}

push_seconds() { awk 'END{print $1}' "$work/push.time"; }

# push_clean N empties the content stores. They are in memory, as is what the
# rivals write: the machine's one disk is none of the question.
push_clean() {
	local i
	for i in $(seq "$1"); do
		"$lab" exec bench "host$i" -- sh -c 'for d in /var/lib/kocli/content /var/tmp; do
			mountpoint -q $d || { mkdir -p $d; mount -t tmpfs tmpfs $d; }; rm -rf ${d:?}/*; done'
	done
}

# push_result NAME: a number of the last result
push_result() { tail -1 "$work/push.json" | grep -o "\"$1\":[0-9]*" | head -1 | cut -d: -f2; }
push_missing() { tail -1 "$work/push.json" | grep -o '"missingBytes":{[^}]*}' | grep -o '[0-9]*[,}]' | tr -d ',}'; }

sshto() { printf '%s' "-q -i $KOCLI_LAB_KEY -o UserKnownHostsFile=$KOCLI_LAB_KNOWN_HOSTS -o IdentitiesOnly=yes"; }

# scp_all SIZES [OPTIONS]: copies as many bytes to each host, all at once.
scp_all() {
	local i=0 a n pids=() sizes=$1
	shift
	for a in $KOCLI_LAB_ADDRESSES; do
		i=$((i + 1))
		n=$(sed -n "${i}p" <<<"$sizes")
		[ -f "$work/blob.$i" ] && [ "$(stat -c %s "$work/blob.$i")" = "$n" ] || head -c "$n" "$work/big.tar" >"$work/blob.$i"
	done
	i=0
	SECONDS_START=$(now)
	for a in $KOCLI_LAB_ADDRESSES; do
		i=$((i + 1))
		# shellcheck disable=SC2046
		scp $(sshto) "$@" "$work/blob.$i" "root@$a:/var/tmp/bench" &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i"; done
	awk -v a="$(now)" -v s="$SECONDS_START" 'BEGIN{print a-s}'
}

median_ratio() { paste "$1" "$2" | awk '{print $1/$2}' | tee "$work/r" | median; }

# Full speed: four hosts, everything to send.
bench_push_full() {
	local i sizes peak=0
	"$repo/bin/fill" "$bundle" 928 "$work/big.tar" # with what any host needs of the bundle itself, 1 GiB
	push_lab 4 "$bundle"
	: >"$work/ssh" >"$work/chain" >"$work/scp" >"$work/scpbest"
	for i in $(seq "$rounds"); do
		push "$work/big.tar" ssh && push_seconds >>"$work/ssh"
		sizes=$(push_missing)
		peak=$(awk -v p="$peak" 'END{print ($2>p)?$2:p}' "$work/push.time")
		push_clean 4
		scp_all "$sizes" >>"$work/scp" && push_clean 4
		push "$work/big.tar" chain && push_seconds >>"$work/chain"
		sent=$(push_result sentBytes)
		peak=$(awk -v p="$peak" 'END{print ($2>p)?$2:p}' "$work/push.time")
		push_clean 4
		scp_all "$sizes" -c aes128-gcm@openssh.com >>"$work/scpbest" && push_clean 4
		echo "round $i: ssh $(tail -1 "$work/ssh") s, chain $(tail -1 "$work/chain") s, scp $(tail -1 "$work/scp") s, scp with gcm $(tail -1 "$work/scpbest") s" >&2
	done
	bench push.ssh "$(median_ratio "$work/ssh" "$work/scp")" "x-of-scp($(range <"$work/r"))" 0.60
	bench push.ssh.of-scp-gcm "$(median_ratio "$work/ssh" "$work/scpbest")" "x-of-scp-gcm($(range <"$work/r"))" none
	bench push.chain "$(median_ratio "$work/chain" "$work/scp")" "x-of-scp($(range <"$work/r"))" 0.40
	bench push.chain.of-scp-gcm "$(median_ratio "$work/chain" "$work/scpbest")" "x-of-scp-gcm($(range <"$work/r"))" none
	bench push.bytes-out.4-hosts "$(awk -v s="$sent" -v m="$(sort -n <<<"$sizes" | tail -1)" 'BEGIN{print s/m}')" copies 1.1
	bench push.rss "$(awk -v p="$peak" 'BEGIN{print p/1024}')" MiB 200
	bench_push_resume "$sizes"
	bench_push_unchanged
}

# Killed at half, and run again.
bench_push_resume() {
	local i pid total=0 n missing
	for n in $1; do total=$((total + n)); done
	: >"$work/resume" >"$work/bytes"
	for i in $(seq "$rounds"); do
		push_clean 4
		"$kocli" bundle push "$work/big.tar" -f "$work/cluster.yaml" --home "$work/home" --fan-out ssh >/dev/null 2>&1 &
		pid=$!
		while [ "$(push_arrived)" -lt $((total / 2)) ]; do sleep 0.2; done
		kill -9 $pid
		wait $pid 2>/dev/null || true
		push "$work/big.tar" ssh
		push_seconds >>"$work/resume"
		missing=0
		for n in $(push_missing); do missing=$((missing + n)); done
		awk -v m="$missing" -v t="$total" 'BEGIN{print 100*m/t}' >>"$work/bytes"
	done
	bench push.resume.time "$(median_ratio "$work/resume" "$work/ssh")" "x-of-full-push($(range <"$work/r"))" 0.6
	bench push.resume.bytes "$(median <"$work/bytes")" percent 52
}

push_arrived() {
	local i n sum=0
	for i in 1 2 3 4; do
		n=$("$lab" exec bench "host$i" -- sh -c 'du -sB1 --apparent-size /var/lib/kocli/content 2>/dev/null | cut -f1')
		sum=$((sum + ${n:-0}))
	done
	echo "$sum"
}

# Nothing changed, against rsync of as many bytes in files.
bench_push_unchanged() {
	local i a most
	push "$work/big.tar" ssh
	rm -rf "$work/tree" && mkdir -p "$work/tree"
	split -n 60 "$work/blob.1" "$work/tree/f."
	for i in 1 2 3 4; do rsync_on "host$i"; done
	for a in $KOCLI_LAB_ADDRESSES; do rsync -a -e "ssh $(sshto)" "$work/tree/" "root@$a:/var/tmp/tree/"; done
	: >"$work/none" >"$work/rsync"
	for i in $(seq "$rounds"); do
		push "$work/big.tar" ssh && tail -1 "$work/push.json" | grep -o '"durationNs":[0-9]*' | cut -d: -f2 | awk '{print $1/1e9}' >>"$work/none"
		a=$(now)
		rsync_all
		awk -v b="$(now)" -v a="$a" 'BEGIN{print b-a}' >>"$work/rsync"
	done
	most=$(tail -1 "$work/push.json" | grep -o '"bytesSent":[0-9]*' | cut -d: -f2 | sort -n | tail -1)
	bench push.nothing-changed "$(median_ratio "$work/none" "$work/rsync")" "x-of-rsync($(range <"$work/r"))" 0.5
	bench push.nothing-changed.bytes "$most" bytes-per-host 102400
}

rsync_all() {
	local a pids=()
	for a in $KOCLI_LAB_ADDRESSES; do
		rsync -a -e "ssh $(sshto)" "$work/tree/" "root@$a:/var/tmp/tree/" &
		pids+=($!)
	done
	for a in "${pids[@]}"; do wait "$a"; done
}

# rsync_on HOST puts rsync there with its libraries: the hosts have no packages.
rsync_on() {
	local a f
	a=$("$lab" address bench "$1")
	for f in $(ldd /usr/bin/rsync | grep -o '/[^ ]*') /usr/bin/rsync; do
		# shellcheck disable=SC2046
		ssh $(sshto) "root@$a" "[ -e $f ] || { mkdir -p ${f%/*}; cat >$f; chmod 755 $f; }" <"$f"
	done
}

# Shaped links of 200 Mbit/s both ways: N hosts against one copy to one host.
bench_push_shaped() {
	local n i one
	"$repo/bin/fill" "$bundle" 1 "$work/big.tar"
	for n in 4 8; do
		push_lab "$n" "$bundle"
		for i in $(seq "$n"); do shape "host$i"; done
		: >"$work/shaped" >"$work/one" >"$work/killed"
		for i in $(seq "$rounds"); do
			push "$work/big.tar" chain && push_seconds >>"$work/shaped"
			one=$(push_missing | sort -n | tail -1)
			head -c "$one" "$work/big.tar" >"$work/blob.one"
			push_clean "$n"
			SECONDS_START=$(now)
			# shellcheck disable=SC2046
			scp $(sshto) -c aes128-gcm@openssh.com "$work/blob.one" "root@${KOCLI_LAB_ADDRESSES%% *}:/var/tmp/bench"
			awk -v a="$(now)" -v s="$SECONDS_START" 'BEGIN{print a-s}' >>"$work/one"
			push_clean "$n"
			echo "round $i: $n hosts $(tail -1 "$work/shaped") s, one copy $(tail -1 "$work/one") s" >&2
		done
		bench "push.shaped.$n-hosts" "$(median_ratio "$work/shaped" "$work/one")" "x-of-one-copy($(range <"$work/r"))" 1.20
		if [ "$n" = 4 ]; then bench_push_killed; fi
	done
	bench push.bytes-out.8-hosts "$(awk -v s="$(push_result sentBytes)" -v m="$one" 'BEGIN{print s/m}')" copies 1.1
}

# What leaves this machine for sixteen hosts.
bench_push_many() {
	local most
	"$repo/bin/fill" "$bundle" 1 "$work/big.tar"
	push_lab 16 "$bundle"
	push "$work/big.tar" chain
	most=$(push_missing | sort -n | tail -1)
	bench push.bytes-out.16-hosts "$(awk -v s="$(push_result sentBytes)" -v m="$most" 'BEGIN{print s/m}')" copies 1.1
}

# One host of the chain loses its power in the middle.
bench_push_killed() {
	local i half
	half=$(awk '{print $1/2}' "$work/shaped" | median)
	for i in $(seq "$rounds"); do
		push_clean 4
		(sleep "$half"; "$lab" kill bench host2) >/dev/null 2>&1 &
		MAY_FAIL=1 push "$work/big.tar" chain || true
		push_seconds >>"$work/killed"
		wait
		"$lab" start bench host2 >/dev/null 2>&1
		sleep 3
		shape host2
	done
	bench push.killed "$(median_ratio "$work/killed" "$work/shaped")" "x-of-unbroken($(range <"$work/r"))" 1.5
}

# shape HOST limits both directions of a host's link.
shape() {
	local peer
	"$lab" exec bench "$1" -- tc qdisc replace dev eth0 root tbf rate 200mbit burst 256kb latency 50ms
	peer=$("$lab" exec bench "$1" -- cat /sys/class/net/eth0/iflink)
	peer=$(grep -lx "$peer" /sys/class/net/*/ifindex | cut -d/ -f5)
	tc qdisc replace dev "$peer" root tbf rate 200mbit burst 256kb latency 50ms
}
