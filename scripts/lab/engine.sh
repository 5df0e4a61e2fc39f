# The Docker engine below the labs: the machine's own where one answers, else a
# private daemon with its own socket, data and pid file. Sourced by lab.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # lab.sh sets cache and lab_dir

engine=$cache/run/engine
socket=$engine/docker.sock

engine_running() {
	local pid
	pid=$(cat "$engine/docker.pid" 2>/dev/null) || return 1
	[ -n "$pid" ] && { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "--data-root $engine/data"
}

# engine_select sets docker to the client's command for the engine in use, and
# fails where there is none.
engine_select() {
	if engine_running && command docker --host "unix://$socket" version >/dev/null 2>&1; then
		docker=(docker --host "unix://$socket")
	elif [ ! -e "$engine/docker.pid" ] && command docker version >/dev/null 2>&1; then
		docker=(docker)
	else
		return 1
	fi
}

engine_start() {
	if engine_select; then return; fi
	[ "$(id -u)" = 0 ] || die "no Docker daemon answers, and starting one needs root"
	"$lab_dir/deps.sh" lab
	[ ${#socket} -lt 100 ] || die "the path $socket is too long for a socket: set KOCLI_CACHE to a shorter one"
	engine_clear
	mkdir -p "$engine/data" "$engine/exec"
	# Not the machine's own /etc/docker/daemon.json.
	echo '{}' >"$engine/daemon.json"
	say "starting a private Docker daemon in $engine"
	setsid dockerd --host "unix://$socket" --data-root "$engine/data" --exec-root "$engine/exec" \
		--pidfile "$engine/docker.pid" --bridge none --userland-proxy=false --oom-score-adjust 0 \
		--config-file "$engine/daemon.json" --log-level warn </dev/null >>"$engine/log" 2>&1 9>&- &
	for _ in $(seq 300); do
		if engine_select; then return; fi
		kill -0 $! 2>/dev/null || break
		sleep 0.1
	done
	tail -20 "$engine/log" >&2
	die "the private Docker daemon does not answer; its log is $engine/log"
}

# engine_clear removes what a daemon of ours that was killed has left behind:
# its containerd and shims, mounts, network bridges, pid files. Only what
# carries this engine's paths or the labs' names.
engine_clear() {
	local pid p m b
	mkdir -p "$engine"
	if engine_running; then
		pid=$(cat "$engine/docker.pid")
		kill -KILL "$pid" || true
	fi
	# Processes whose command line names this engine's folder, and the hosts below them.
	for p in /proc/[0-9]*; do
		if { tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null | grep -qE "^([^ ]*/)?(containerd|containerd-shim[^ ]*|dockerd) .*$engine/exec"; then
			pid=${p#/proc/}
			engine_kill_tree "$pid"
		fi
	done
	sleep 0.2
	while read -r m; do umount -l "$m" 2>/dev/null || true; done < <(
		awk -v e="$engine/" 'index($5, e) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
	while read -r b; do ip link delete "$b" 2>/dev/null || true; done < <(
		ip -o link show type bridge | sed -n 's/^[0-9]*: \(klab-[^:@]*\).*/\1/p')
	rm -rf "$engine/docker.pid" "$socket" "$engine/exec"
}

engine_kill_tree() {
	local child
	# shellcheck disable=SC2013 # the file is one line of numbers
	for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do engine_kill_tree "$child"; done
	kill -KILL "$1" 2>/dev/null || true
}

# All hosts of a lab share this machine's limit of inotify instances, of which each
# systemd, containerd and kubelet takes some: the default of 128 is used up by six
# hosts, and a kubelet then does not start.
inotify=/proc/sys/fs/inotify/max_user_instances

inotify_raise() {
	local now
	now=$(cat $inotify)
	[ "$now" -lt 1024 ] || return 0
	{ echo 1024 >$inotify; } 2>/dev/null || { say "warning: $inotify stays at $now: more than five hosts may be too many"; return 0; }
	echo "$now" >"$cache/run/inotify"
}

inotify_restore() {
	[ -e "$cache/run/inotify" ] || return 0
	cat "$cache/run/inotify" >$inotify 2>/dev/null || true
	rm -f "$cache/run/inotify"
}

# engine_stop ends the private daemon when no lab needs it any more.
engine_stop() {
	local pid
	engine_running || return 0
	[ -z "$("${docker[@]}" ps -aq --filter label=kocli.lab)" ] || return 0
	pid=$(cat "$engine/docker.pid")
	kill "$pid"
	for _ in $(seq 200); do
		engine_running || break
		sleep 0.1
	done
	engine_clear
}
