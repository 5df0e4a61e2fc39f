#!/usr/bin/env bash
# Lab hosts: containers that boot systemd and run sshd, on a network without a
# way out, for kocli to install on. `lab.sh help` lists the commands.
set -euo pipefail

lab_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KOCLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kocli}
say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# shellcheck source=scripts/lab/engine.sh
. "$lab_dir/engine.sh"
# shellcheck source=scripts/lab/image.sh
. "$lab_dir/image.sh"

usage() {
	cat <<'EOF'
lab.sh up NAME --hosts N      start N hosts (host1 ...), or what of them is missing
lab.sh down NAME              remove the lab and its data
lab.sh list [NAME]            hosts, state and address
lab.sh reboot NAME HOST       orderly reboot          lab.sh kill NAME HOST    power loss
lab.sh start NAME HOST        power on                lab.sh pause|unpause NAME HOST   a hang
lab.sh cut NAME HOST          pull the network cable  lab.sh mend NAME HOST    plug it in again
lab.sh down-host NAME HOST    remove one host and its data; up makes a fresh one
lab.sh exec NAME HOST -- CMD  run CMD on the host as root
lab.sh ssh NAME HOST [CMD]    the same through sshd
lab.sh address NAME HOST      the host's address
lab.sh env NAME               shell variables: key, known_hosts, addresses
lab.sh logs NAME DIR          journals and pod logs of all hosts
EOF
}

container() { echo "kocli-lab-$lab-$1"; }
names() { "${docker[@]}" ps -a --filter "label=kocli.lab=$lab" --format '{{.Label "kocli.host"}}' | sort -V; }
has() { "${docker[@]}" container inspect "$(container "$1")" >/dev/null 2>&1; }
inspect() { "${docker[@]}" container inspect --format "$2" "$(container "$1")"; }
address() { inspect "$1" '{{index .Config.Labels "kocli.address"}}'; }

# subnet_prefix: the first three bytes of the lab's network. Fixed for the labs that
# scripts use; from the name for others, past networks that are taken.
subnet_prefix() {
	local taken n
	n=$("${docker[@]}" network inspect --format '{{(index .IPAM.Config 0).Subnet}}' "kocli-lab-$lab" 2>/dev/null) &&
		{ echo "${n%.*}"; return; }
	case $lab in
	demo) echo 172.30.1; return ;;
	e2e) echo 172.30.2; return ;;
	bench) echo 172.30.3; return ;;
	esac
	taken=$(ip -4 -o addr show | awk '{print $4}')
	n=$((16#$(printf %s "$lab" | sha256sum | cut -c1-4) % 224 + 16))
	while grep -q "^172\.30\.$n\." <<<"$taken"; do n=$(((n - 16 + 1) % 224 + 16)); done
	echo "172.30.$n"
}

bridge() { echo "klab-$(printf %s "$lab" | sha256sum | cut -c1-8)"; }

# inside_rule ACTION: what stays on the lab's own switch passes, multicast too. Docker
# drops what is not for an address of the network, which no switch does.
inside_rule() { iptables -w "$1" DOCKER-USER -i "$(bridge)" -o "$(bridge)" -j ACCEPT 2>/dev/null; }

network_up() {
	local net=kocli-lab-$lab
	inside_rule -C || inside_rule -I || say "warning: multicast between hosts may be dropped: there is no chain DOCKER-USER"
	if "${docker[@]}" network inspect "$net" >/dev/null 2>&1; then return; fi
	# No address before 172.30.x.128 is given out by itself: hosts have fixed ones.
	"${docker[@]}" network create --internal --subnet "$prefix.0/24" --ip-range "$prefix.128/25" --gateway "$prefix.1" \
		--label "kocli.lab=$lab" --opt "com.docker.network.bridge.name=$(bridge)" "$net" >/dev/null
}

host_create() {
	local i=$1
	# --privileged would need CAP_SYS_RESOURCE, which not every machine may give.
	"${docker[@]}" create --name "$(container "host$i")" --hostname "host$i" \
		--label "kocli.lab=$lab" --label "kocli.host=host$i" --label "kocli.address=$prefix.$((10 + i))" \
		--network "kocli-lab-$lab" --ip "$prefix.$((10 + i))" --restart on-failure \
		--cap-add ALL --cap-drop SYS_RESOURCE --security-opt seccomp=unconfined \
		--security-opt systempaths=unconfined --security-opt apparmor=unconfined \
		--device-cgroup-rule 'a *:* rwm' --device /dev/kmsg --device /dev/fuse --cgroupns=private \
		--tmpfs /run --tmpfs /tmp --stop-signal SIGRTMIN+3 \
		-v /var/lib/containerd -v /var/lib/kubelet -v /var/lib/etcd -v /var/lib/kocli "$image" >/dev/null
}

# host_ready waits until systemd has started what it has to and sshd answers.
host_ready() {
	local h=$1 a state='' deadline=$((SECONDS + ${2:-60}))
	a=$(address "$h")
	while [ $SECONDS -lt $deadline ]; do
		state=$("${docker[@]}" exec "$(container "$h")" systemctl is-system-running --wait 2>/dev/null) || true
		case $state in
		running | degraded) break ;;
		esac
		sleep 0.2
	done
	[ "$state" != degraded ] || say "warning: $h has failed units: $("${docker[@]}" exec "$(container "$h")" systemctl --failed --plain --no-legend | cut -d' ' -f1 | tr '\n' ' ')"
	while [ $SECONDS -lt $deadline ]; do
		if (read -r -t 2 banner <"/dev/tcp/$a/22" && [[ $banner == SSH-* ]]) 2>/dev/null; then return; fi
		sleep 0.1
	done
	die "$h ($a) does not come up: systemd is '$state'; see lab.sh logs $lab DIR"
}

# host_credentials gives the users their keys and ops its password.
host_credentials() {
	local h=$1
	# shellcheck disable=SC2016 # for the host's shell
	{ cat "$home/id_ed25519.pub"; echo "ops:$(cat "$home/ops-password")"; } |
		"${docker[@]}" exec -i "$(container "$h")" sh -c '
			set -e
			read -r key
			chpasswd
			echo "$key" >/root/.ssh/authorized_keys
			for u in ops deploy; do
				echo "$key" >/home/$u/.ssh/authorized_keys
				chown $u:$u /home/$u/.ssh/authorized_keys
			done
			chmod 600 /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys'
}

# known_hosts, taken over the engine and not over the network.
write_known_hosts() {
	local h a
	for h in $(names); do
		a=$(address "$h")
		"${docker[@]}" exec "$(container "$h")" sh -c 'cat /etc/ssh/ssh_host_*_key.pub' 2>/dev/null | sed "s/^/$a /;s/ [^ ]*\$//" || true
	done >"$home/known_hosts.tmp"
	mv "$home/known_hosts.tmp" "$home/known_hosts"
}

cmd_up() {
	local count=1 i h started=()
	[ "${1:-}" != --hosts ] || count=${2:-}
	[[ $count =~ ^[1-9][0-9]?$ ]] || die "--hosts wants a number from 1 to 99"
	local begin
	begin=$(date +%s.%N)
	engine_start
	inotify_raise
	host_image
	prefix=$(subnet_prefix)
	mkdir -p "$home"
	[ -f "$home/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C "kocli lab $lab" -f "$home/id_ed25519"
	[ -s "$home/ops-password" ] || (umask 077 && od -An -N12 -tx1 /dev/urandom | tr -d ' \n' >"$home/ops-password")
	network_up
	for i in $(seq "$count"); do
		h=host$i
		has "$h" || host_create "$i"
		if [ "$(inspect "$h" '{{.State.Running}}')" != true ]; then
			started+=("$h")
		fi
	done
	if [ ${#started[@]} -gt 0 ]; then
		"${docker[@]}" start "${started[@]/#/kocli-lab-$lab-}" >/dev/null
		for h in "${started[@]}"; do host_credentials "$h"; done
	fi
	for i in $(seq "$count"); do host_ready "host$i"; done
	write_known_hosts
	say "lab $lab: $count hosts up in $(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }') s"
	cmd_list
}

cmd_down() {
	local ids
	if engine_select; then
		ids=$("${docker[@]}" ps -aq --filter "label=kocli.lab=$lab")
		# shellcheck disable=SC2086 # one id a word
		[ -z "$ids" ] || "${docker[@]}" rm -fv $ids >/dev/null
		inside_rule -D || :
		! "${docker[@]}" network inspect "kocli-lab-$lab" >/dev/null 2>&1 || "${docker[@]}" network rm "kocli-lab-$lab" >/dev/null
		[ -n "$("${docker[@]}" ps -aq --filter label=kocli.lab)" ] || inotify_restore
		engine_stop
	elif [ -e "$engine/docker.pid" ]; then
		# The daemon is gone, killed perhaps: start it to remove what it knows.
		engine_start
		cmd_down
		return
	fi
	rm -rf "$home"
}

cmd_list() {
	engine_select || return 0
	"${docker[@]}" ps -a --filter "label=kocli.lab${lab:+=$lab}" \
		--format '{{.Label "kocli.lab"}}\t{{.Label "kocli.host"}}\t{{.Label "kocli.address"}}\t{{.Status}}' | sort -V
}

# cable HOST up|down: the other end of the host's network cable.
cable() {
	local pid peer name
	pid=$(inspect "$1" '{{.State.Pid}}')
	peer=$(cat "/proc/$pid/root/sys/class/net/eth0/iflink")
	name=$(ip -o link | awk -F': ' -v i="$peer" '$1 == i { sub(/@.*/, "", $2); print $2 }')
	[ -n "$name" ] || die "$1 has no cable on this machine"
	ip link set dev "$name" "$2"
}

cmd_env() {
	local h all=()
	cat <<-EOF
		KOCLI_LAB=$lab
		KOCLI_LAB_KEY=$home/id_ed25519
		KOCLI_LAB_KNOWN_HOSTS=$home/known_hosts
		KOCLI_LAB_OPS_PASSWORD_FILE=$home/ops-password
		KOCLI_LAB_SUBNET=$(subnet_prefix).0/24
	EOF
	for h in $(names); do
		echo "KOCLI_LAB_${h^^}=$(address "$h")"
		all+=("$(address "$h")")
	done
	echo "KOCLI_LAB_ADDRESSES='${all[*]}'"
}

cmd_logs() {
	local to=${1:?usage: lab.sh logs NAME DIR} h c
	for h in $(names); do
		c=$(container "$h")
		mkdir -p "$to/$h"
		"${docker[@]}" logs "$c" >"$to/$h/console.log" 2>&1 || true
		[ "$(inspect "$h" '{{.State.Running}}')" = true ] || continue
		"${docker[@]}" exec "$c" journalctl --no-pager -o short-precise >"$to/$h/journal.log" 2>&1 || true
		for u in containerd kubelet; do
			"${docker[@]}" exec "$c" journalctl --no-pager -o short-precise -u "$u" >"$to/$h/$u.log" 2>&1 || true
		done
		"${docker[@]}" exec "$c" sh -c '[ ! -d /var/log/pods ] || tar -C /var/log -chf - --ignore-failed-read pods' 2>/dev/null |
			tar -C "$to/$h" -xf - 2>/dev/null || true
	done
	say "logs are in $to"
}

cmd_ssh() {
	local h=$1
	shift
	ssh -i "$home/id_ed25519" -o UserKnownHostsFile="$home/known_hosts" -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes \
		-o BatchMode=yes "${KOCLI_LAB_USER:-root}@$(address "$h")" "$@"
}

main() {
	local cmd=${1:-help}
	case $cmd in
	help | -h | --help) usage; return ;;
	esac
	lab=${2:-}
	shift $(($# < 2 ? $# : 2))
	if [ "$cmd" = list ]; then cmd_list; return; fi
	[[ $lab =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || { usage >&2; die "a lab's name is made of a-z, 0-9 and -"; }
	home=$cache/run/lab/$lab
	mkdir -p "$cache/run"
	case $cmd in
	up | down)
		# One at a time: both may start or stop the daemon.
		exec 9>"$cache/run/lab.lock"
		flock 9
		"cmd_$cmd" "$@"
		return
		;;
	esac
	engine_select || die "no lab is up: lab.sh up $lab --hosts N"
	case $cmd in
	env | logs) "cmd_$cmd" "$@"; return ;;
	esac
	local h=${1:-}
	{ [ -n "$h" ] && has "$h"; } || die "lab $lab has no host '$h': lab.sh list $lab"
	shift
	case $cmd in
	reboot) "${docker[@]}" restart -t 30 "$(container "$h")" >/dev/null; host_ready "$h" 90 ;;
	kill) "${docker[@]}" kill "$(container "$h")" >/dev/null ;;
	down-host) "${docker[@]}" rm -fv "$(container "$h")" >/dev/null ;;
	start) "${docker[@]}" start "$(container "$h")" >/dev/null; host_ready "$h" 90 ;;
	pause | unpause) "${docker[@]}" "$cmd" "$(container "$h")" >/dev/null ;;
	cut) cable "$h" down ;;
	mend) cable "$h" up ;;
	exec)
		[ "${1:-}" != -- ] || shift
		if [ -t 0 ] && [ -t 1 ]; then set -- -it "$(container "$h")" "$@"; else set -- -i "$(container "$h")" "$@"; fi
		exec "${docker[@]}" exec "$@"
		;;
	ssh) cmd_ssh "$h" "$@" ;;
	address) address "$h" ;;
	*) usage >&2; die "no command '$cmd'" ;;
	esac
}

main "$@"
