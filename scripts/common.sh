# What the scripts share: folders, the mirror or the internet, the bundle, and a
# cluster YAML for a lab. Sourced.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${KOCLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kocli}
kubernetes=${KOCLI_KUBERNETES:-v1.36.3}
# shellcheck disable=SC2034 # of the scripts that upgrade
next_kubernetes=${KOCLI_NEXT_KUBERNETES:-v1.37.2}
kocli=$repo/bin/kocli
lab=$repo/scripts/lab/lab.sh

say() { printf '\n== %s\n' "$*" >&2; }

# online succeeds where upstream's releases can be had.
online() { curl -fsSL --max-time 5 -o /dev/null "https://dl.k8s.io/$kubernetes/bin/linux/amd64/kubeadm.sha256" 2>/dev/null; }

# bundle_build OUT [KIND] builds the bundle of the example (examples/bundle-KIND-...,
# whose components scripts/upstream/build.sh KIND builds), from upstream where it
# answers and from components built from pinned modules where it does not. The
# lock of a lab's mirror is not the lock of upstream, so the YAML is copied.
bundle_build() {
	local out=$1 kind=${2:-} args=()
	local work=$cache/bundle-${kind:+$kind-}$kubernetes
	mkdir -p "$work" "$(dirname "$out")"
	if [ -n "$kind" ]; then # there is one example of each kind, for all versions
		sed "s/v1\.36\.3/$kubernetes/g" "$repo/examples/bundle-$kind-v1.36.3-amd64.yaml" >"$work/bundle.yaml"
	else
		cp "$repo/examples/bundle-$kubernetes-amd64.yaml" "$work/bundle.yaml"
	fi
	if online; then
		say "bundle: official releases, from the internet"
	else
		say "bundle: components built from pinned Go modules (upstream's releases cannot be reached)"
		"$repo/scripts/upstream/build.sh" all >&2
		"$repo/scripts/upstream/build.sh" kubernetes "$kubernetes" >&2
		if [ -n "$kind" ]; then "$repo/scripts/upstream/build.sh" "$kind" >&2; fi
		args=(--mirror "$("$repo/scripts/upstream/serve.sh" start | tail -1)" --update-lock)
	fi
	"$kocli" bundle build -f "$work/bundle.yaml" --to "$out" --cache "$cache/bundle" "${args[@]}"
}

# cluster_yaml LAB USER writes a cluster YAML for the hosts of a lab. The fields
# under overrides are what a container as a host needs (scripts/lab/README.md).
cluster_yaml() {
	local name=$1 user=${2:-root} i=0 a
	eval "$("$lab" env "$name")"
	cat <<EOF
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata:
  name: $name
spec:
  kubernetes:
    version: $kubernetes
    ignorePreflightErrors: [SystemVerification]
    overrides:
      kubelet:
        failCgroupV1: false
        failSwapOn: false
        featureGates: {KubeletInUserNamespace: true}
        systemReserved: null
        kubeReserved: null
        evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi} # all hosts share this machine's disk
      kubeProxy:
        conntrack: {maxPerCore: 0, min: null, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
  runtime:
    containerd:
      cgroupDriver: cgroupfs
      overrides:
        plugins:
          io.containerd.cri.v1.runtime: {restrict_oom_score_adj: true}
  os:
    manageSwap: false
  ssh:
    user: $user
    keyFile: $KOCLI_LAB_KEY
EOF
	if [ "$user" = ops ]; then echo "    sudoPassword: file:$KOCLI_LAB_OPS_PASSWORD_FILE"; fi
	cat <<EOF
  preflight:
    ignore: [cpu-count, memory, cgroup-version]
  hosts:
EOF
	for a in $KOCLI_LAB_ADDRESSES; do
		i=$((i + 1))
		if [ $i = 1 ]; then
			echo "    - {name: host$i, address: $a, roles: [control-plane, worker]}"
		else
			echo "    - {name: host$i, address: $a, roles: [worker]}"
		fi
	done
}
