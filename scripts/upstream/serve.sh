#!/usr/bin/env bash
# Runs the mirror of upstream's servers on 127.0.0.1: serve.sh start|stop|url|status.
# `start` prints the URL and does nothing more when the mirror runs already.
# KOCLI_MIRROR_PORT picks the port; by default a free one is taken.
set -euo pipefail
# shellcheck source=scripts/upstream/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run=$cache/run/mirror
mirror=$cache/upstream/mirror/local/mirror

# running: is the process in the pid file ours? A number left from before a
# reboot may belong to anyone by now.
running() {
	local pid
	pid=$(cat "$run/pid" 2>/dev/null) || return 1
	[ -n "$pid" ] && { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "serve -root $mirror_root"
}

answers() { [ -s "$run/url" ] && curl -fsS -o /dev/null --max-time 5 "$(cat "$run/url")/v2/" 2>/dev/null; }

start() {
	mkdir -p "$run"
	exec 9>"$run/lock"
	flock 9
	if ! { running && answers; }; then
		stop_process
		[ -x "$mirror" ] || die "the mirror is not built yet: run scripts/upstream/build.sh"
		rm -f "$run/url"
		setsid "$mirror" serve -root "$mirror_root" -listen "127.0.0.1:${KOCLI_MIRROR_PORT:-0}" \
			-url-file "$run/url" </dev/null >"$run/log" 2>&1 9>&- &
		echo $! >"$run/pid"
		for _ in $(seq 100); do
			if answers; then break; fi
			running || { cat "$run/log" >&2; die "the mirror ended at once"; }
			sleep 0.05
		done
		answers || die "the mirror does not answer; see $run/log"
	fi
	cat "$run/url"
}

stop_process() {
	local pid
	if running; then
		pid=$(cat "$run/pid")
		kill "$pid"
		for _ in $(seq 100); do
			if ! running; then break; fi
			sleep 0.05
		done
		if running; then kill -KILL "$pid"; fi
	fi
	rm -f "$run/pid" "$run/url"
}

case ${1:-} in
start) start ;;
stop) mkdir -p "$run"; exec 9>"$run/lock"; flock 9; stop_process ;;
url) { running && answers && cat "$run/url"; } || die "the mirror is not running: scripts/upstream/serve.sh start" ;;
status) if running && answers; then echo "running $(cat "$run/url")"; else echo stopped; exit 1; fi ;;
*) die "usage: serve.sh start|stop|url|status" ;;
esac
