#!/usr/bin/env bash
# Records the demo on a real terminal: examples/recording/demo.cast (asciinema) and
# demo.svg, which the READMEs show. The demo has to be built already (make demo).
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

out=$repo/examples/recording
mkdir -p "$out"
command -v asciinema >/dev/null || { apt-get update -q && apt-get install -y -q asciinema; } >&2
"$lab" down demo
"$lab" up demo --hosts 3 >/dev/null
home=$cache/run/demo
rm -rf "$home"
mkdir -p "$home"
eval "$("$lab" env demo)"
cp "$KOCLI_LAB_KNOWN_HOSTS" "$home/known_hosts"
cluster_yaml demo root >"$home/cluster.yaml"
cp "$cache/bundle-$kubernetes/kocli-$kubernetes-amd64.tar" "$home/"
cat >"$home/session" <<EOF
cd $home
export KOCLI_HOME=$home PATH=$repo/bin:\$PATH
type_() { printf '\033[1;32m\$\033[0m %s\n' "\$*"; "\$@"; }
type_ kocli plan -f cluster.yaml --bundle kocli-$kubernetes-amd64.tar | tail -12
type_ kocli create -f cluster.yaml --bundle kocli-$kubernetes-amd64.tar
type_ kocli create -f cluster.yaml --bundle kocli-$kubernetes-amd64.tar
type_ kocli status -f cluster.yaml
type_ kocli exec host1 -f cluster.yaml -- kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes,pods -A
sleep 3
EOF
TERM=xterm-256color asciinema rec --overwrite -q -t "kocli create" -c "stty cols 118 rows 40; bash $home/session" "$out/demo.cast"
sed -i "1s/\"width\": [0-9]*, \"height\": [0-9]*/\"width\": 118, \"height\": 40/; s#$home#~#g; s#$cache#~/.cache/kocli#g" "$out/demo.cast"
npx -y svg-term-cli@2.1.1 --in "$out/demo.cast" --out "$out/demo.svg" --window --at 999999999 --width 118 --height 40
