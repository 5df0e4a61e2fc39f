#!/usr/bin/env bash
# Builds upstream's components from pinned Go modules and lays them out as the
# tree that `serve.sh` serves: the paths, image names and checksum files of
# upstream's own servers. For machines that reach a Go module proxy and a Debian
# mirror but no release downloads and no registries.
#
#   build.sh [all]                everything for the default Kubernetes version
#   build.sh kubernetes VERSION   one more Kubernetes version, with its etcd, CoreDNS and pause
#   build.sh etcd                 the default version's etcd only; prints its folder
#   build.sh debs                 the Debian archive only
#   build.sh addons               what bundles with add-ons hold beside Kubernetes
#
# Results live in $KOCLI_CACHE (~/.cache/kocli), keyed by version. A second run
# finds them there.
set -euo pipefail
# shellcheck source=scripts/upstream/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kubernetes_images="kube-apiserver kube-controller-manager kube-scheduler kube-proxy"
kubernetes_files="kubeadm kubelet kubectl"

# fill_kubernetes DIR VERSION. k8s.io/kubernetes refers to its staging modules
# by folder, which only its own checkout has: the go.mod here points each to its
# released module of the same minor and patch.
fill_kubernetes() {
	local out=$1 version=$2 work=$cache/work/kubernetes-$2 source c packages=() flags='' p minor
	minor=${version#v1.}
	minor=${minor%%.*}
	mkdir -p "$work"
	source=$(cd "$work" && GOFLAGS=-mod=mod GOWORK=off go mod download -json "k8s.io/kubernetes@$version" |
		sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
	[ -n "$source" ] || die "k8s.io/kubernetes@$version is not served"
	for c in $kubernetes_files $kubernetes_images; do packages+=("k8s.io/kubernetes/cmd/$c"); done
	{
		printf 'module kocli.local/kubernetes\n\n'
		grep -E '^(go|godebug) ' "$source"
		printf '\nrequire k8s.io/kubernetes %s\n\n' "$version"
		awk -v s="v0.${version#v1.}" '$2 == "=>" && $3 ~ /^\.\/staging\// { print "replace " $1 " => " $1 " " s }' "$source"
		printf 'tool %s\n' "${packages[@]}"
	} >"$work/go.mod"
	complete_sums "$work"
	for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
	done
	go_build "$work" "$out" "$flags" "${packages[@]}"
}

fill_containerd() {
	local m=github.com/containerd/containerd/v2
	go_build "$(module_at containerd "$2" $m)" "$1" "-X $m/version.Version=$2" \
		$m/cmd/containerd $m/cmd/containerd-shim-runc-v2 $m/cmd/ctr
}

# fill_containerd_old DIR VERSION: what a test imports images into.
fill_containerd_old() {
	local m=github.com/containerd/containerd
	go_build "$(module_at containerd-1.7 "$2" $m)" "$1" "-X $m/version.Version=$2" $m/cmd/containerd $m/cmd/ctr
}

fill_runc() {
	local m=github.com/opencontainers/runc
	CGO_ENABLED=1 GO_TAGS='seccomp netgo osusergo' \
		go_build "$(module_at runc "$2" $m)" "$1" '-extldflags -static' $m
}

fill_cni_plugins() {
	local m=github.com/containernetworking/plugins dir
	dir=$(module_at cni-plugins "$2" $m)
	# shellcheck disable=SC2046 # one package a word
	go_build "$dir" "$1" "-X $m/pkg/utils/buildversion.BuildVersion=$2" \
		$(cd "$dir" && GOFLAGS='' GOWORK=off go list tool)
}

fill_pause() {
	gcc -Os -Wall -Wextra -Werror -static -s -DVERSION="\"$2\"" -o "$1/pause" "$upstream_dir/pause/pause.c"
}

fill_etcd() {
	local m=go.etcd.io/etcd
	go_build "$(module_at etcd "$2" $m/server/v3 $m/etcdctl/v3 $m/etcdutl/v3)" "$1" '' \
		$m/server/v3 $m/etcdctl/v3 $m/etcdutl/v3
	mv "$1/server" "$1/etcd"
}

fill_coredns() {
	go_build "$(module_at coredns "$2" github.com/coredns/coredns)" "$1" '' .
}

fill_flannel() {
	local m=github.com/flannel-io/flannel
	CGO_ENABLED=1 GO_TAGS='netgo osusergo' go_build "$(module_at flannel "$2" $m)" "$1" \
		"-X $m/pkg/version.Version=$2 -extldflags -static" $m
	mv "$1/flannel" "$1/flanneld"
}

fill_flannel_cni_plugin() {
	local m=github.com/containernetworking/plugins
	go_build "$(module_at flannel-cni-plugin "$2" $m)" "$1" \
		"-X $m/pkg/utils/buildversion.BuildVersion=$2" $m/plugins/meta/flannel
}

fill_registry() {
	local m=github.com/distribution/distribution/v3
	go_build "$(module_at registry "$2" $m)" "$1" "-X $m/version.version=$2" $m/cmd/registry
}

fill_mirror() { go_build "$upstream_dir/mirror" "$1" '' .; }

# fill_debs DIR SUITE PACKAGE...: part of the Debian archive that this machine's
# apt uses: signed index, and the packages with all they depend on.
fill_debs() {
	local out=$1 suite=$2 url
	shift 2
	# shellcheck disable=SC2016 # apt's own placeholder
	url=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" 'Component: main' 'Architecture: amd64' | head -1)
	[ -n "$url" ] || die "apt on this machine has no source for Debian $suite main"
	"$mirror" debs -archive "$url" -suite "$suite" -out "$out" "$@"
}

# fill_netbase DIR: the root file system below images that program the kernel's
# network: nft, iptables on nft, ip, conntrack, and what they link to.
fill_netbase() {
	local out=$1 root=$1/root d deb
	mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
	"$mirror" debs -resolve -suite "$DEBIAN_SUITE" -out "$debs" iptables nftables conntrack iproute2 kmod busybox >"$out/list"
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --no-same-owner
	done <"$out/list"
	rm -rf "$root"/usr/share/{doc,man,locale,lintian,bash-completion,info,bug,perl5,perl} "$root"/usr/lib/x86_64-linux-gnu/{gconv,perl*} "$root"/var/cache "$root"/var/lib/dpkg
	for d in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
		ln -sf xtables-nft-multi "$root/usr/sbin/$d"
	done
	for d in sh cat ls cp mkdir; do [ -e "$root/usr/bin/$d" ] || ln -s busybox "$root/usr/bin/$d"; done
	mkdir -p "$root"/{run,tmp,etc}
	rm -f "$out/list"
	# A shell and cp for the image that has nothing else.
	deb=$(find "$debs/pool" -name 'busybox-static_*.deb')
	dpkg-deb --fsys-tarfile "$deb" | tar -x -O ./bin/busybox >"$out/busybox-static"
	chmod 755 "$out/busybox-static"
}

# fill_program DIR PACKAGE...: the root file system of an image that runs a program
# of Debian's. Busybox is its shell, and asks over HTTP.
fill_program() {
	local root=$1/root list=$1/list d deb
	shift
	mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
	"$mirror" debs -resolve -suite "$DEBIAN_SUITE" -out "$debs" "$@" busybox >"$list"
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --no-same-owner
	done <"$list"
	rm -rf "$root"/usr/share/{doc,man,locale,lintian,bash-completion,info,bug,perl5,perl,mysql,snmp,vim} "$root"/usr/lib/x86_64-linux-gnu/{gconv,perl,perl-base} "$root"/var/cache "$root"/var/lib/dpkg "$list"
	for d in sh cat ls wget; do [ -e "$root/usr/bin/$d" ] || ln -s busybox "$root/usr/bin/$d"; done
	mkdir -p "$root"/{run,tmp,etc/keepalived,usr/local/etc/haproxy}
	# What is missing is better found here than on a host.
	chroot "$root" "/usr/sbin/$1" -v >/dev/null 2>&1 || die "$1 does not run in its image"
}

build_mirror_tool() {
	once mirror local "$upstream_dir"/mirror/*.go "$upstream_dir/mirror/go.mod" -- fill_mirror
	mirror=$built/mirror
}

build_debs() {
	# Everything an image of ours is made of is fetched here too.
	# shellcheck disable=SC2086 # a list of words
	once debian "$DEBIAN_SUITE" -- fill_debs "$DEBIAN_SUITE" $DEBIAN_PACKAGES iproute2 kmod busybox busybox-static haproxy keepalived
	debs=$built
}

# companions VERSION: sets etcd_tag, etcd_module, coredns_tag, coredns_module, pause.
companions() {
	local minor=${1%.*} line
	line=$(awk -v m="$minor" '$1 == m' <<<"$KUBERNETES_COMPANIONS")
	[ -n "$line" ] || die "versions.env names no etcd, CoreDNS and pause for Kubernetes $minor: add a line to KUBERNETES_COMPANIONS"
	read -r _ etcd_tag etcd_module coredns_tag coredns_module pause <<<"$line"
}

# spec_kubernetes VERSION: what the mirror serves for one Kubernetes version.
spec_kubernetes() {
	local v=$1 k=$cache/upstream/kubernetes/$1 e=$cache/upstream/etcd/$etcd_module c=$cache/upstream/coredns/$coredns_module
	local i origin="k8s.io/kubernetes@$1" etcd_release=v${etcd_tag%-*}
	local etcd_origin="go.etcd.io/etcd/server/v3@$etcd_module"
	echo '{"images": ['
	for i in kube-apiserver kube-controller-manager kube-scheduler; do
		cat <<-EOF
			{"ref": "registry.k8s.io/$i:$v", "origin": ["$origin"],
			 "layers": [{"files": {"/usr/local/bin/$i": "$k/$i"}}]},
		EOF
	done
	cat <<-EOF
		{"ref": "registry.k8s.io/kube-proxy:$v", "origin": ["$origin", "Debian $DEBIAN_SUITE packages"],
		 "layers": [{"tree": "$netbase/root"}, {"files": {"/usr/local/bin/kube-proxy": "$k/kube-proxy"}}]},
		{"ref": "registry.k8s.io/etcd:$etcd_tag", "origin": ["$etcd_origin"],
		 "layers": [{"files": {"/usr/local/bin/etcd": "$e/etcd", "/usr/local/bin/etcdctl": "$e/etcdctl", "/usr/local/bin/etcdutl": "$e/etcdutl"}}]},
		{"ref": "registry.k8s.io/coredns/coredns:$coredns_tag",
		 "origin": ["github.com/coredns/coredns@$coredns_module, with the plugins of kubeadm's Corefile only"],
		 "entrypoint": ["/coredns"], "layers": [{"files": {"/coredns": "$c/coredns"}}]},
		{"ref": "registry.k8s.io/pause:$pause", "origin": ["scripts/upstream/pause/pause.c"],
		 "entrypoint": ["/pause"], "user": "65535:65535", "layers": [{"files": {"/pause": "$cache/upstream/pause/$pause/pause"}}]}
		], "files": [
	EOF
	for i in $kubernetes_files; do
		cat <<-EOF
			{"path": "dl.k8s.io/$v/bin/linux/amd64/$i", "origin": ["$origin"], "source": "$k/$i",
			 "checksum": {"path": "dl.k8s.io/$v/bin/linux/amd64/$i.sha256", "bare": true}},
		EOF
	done
	cat <<-EOF
		{"path": "github.com/etcd-io/etcd/releases/download/$etcd_release/etcd-$etcd_release-linux-amd64.tar.gz", "origin": ["$etcd_origin"],
		 "tar": {"etcd-$etcd_release-linux-amd64/etcd": "$e/etcd", "etcd-$etcd_release-linux-amd64/etcdctl": "$e/etcdctl", "etcd-$etcd_release-linux-amd64/etcdutl": "$e/etcdutl"},
		 "checksum": {"path": "github.com/etcd-io/etcd/releases/download/$etcd_release/SHA256SUMS"}}
		]}
	EOF
}

# spec_common: what does not change with the Kubernetes version.
spec_common() {
	local cd=$cache/upstream/containerd/$CONTAINERD_VERSION runc=$cache/upstream/runc/$RUNC_VERSION
	local fl=$cache/upstream/flannel/$FLANNEL_VERSION fc=$cache/upstream/flannel-cni-plugin/$FLANNEL_CNI_PLUGIN_MODULE
	local cni=$cache/upstream/cni-plugins/$CNI_PLUGINS_VERSION gh=github.com p plugins='' reg=$cache/upstream/registry/$REGISTRY_VERSION/registry
	local regt=registry_${REGISTRY_VERSION#v}_linux_amd64.tar.gz regd=github.com/distribution/distribution/releases/download/$REGISTRY_VERSION
	local cdt=containerd-${CONTAINERD_VERSION#v}-linux-amd64.tar.gz cnit=cni-plugins-linux-amd64-$CNI_PLUGINS_VERSION.tgz
	for p in "$cni"/*; do plugins+="${plugins:+, }\"./${p##*/}\": \"$p\""; done
	cat <<-EOF
		{"images": [
		{"ref": "ghcr.io/flannel-io/flannel:$FLANNEL_VERSION", "origin": ["github.com/flannel-io/flannel@$FLANNEL_VERSION", "Debian $DEBIAN_SUITE packages"],
		 "entrypoint": ["/opt/bin/flanneld"], "layers": [{"tree": "$netbase/root"}, {"files": {"/opt/bin/flanneld": "$fl/flanneld"}}]},
		{"ref": "ghcr.io/flannel-io/flannel-cni-plugin:$FLANNEL_CNI_PLUGIN_TAG",
		 "origin": ["github.com/containernetworking/plugins@$FLANNEL_CNI_PLUGIN_MODULE (plugins/meta/flannel, the plugin's home before it had a repository of its own)"],
		 "layers": [{"files": {"/bin/busybox": "$netbase/busybox-static", "/flannel": "$fc/flannel"}, "links": {"/bin/cp": "busybox", "/bin/sh": "busybox"}}]},
		{"ref": "docker.io/library/haproxy:$HAPROXY_TAG", "origin": ["Debian $DEBIAN_SUITE package haproxy, which is another version than the tag says"],
		 "layers": [{"tree": "$cache/upstream/haproxy/$DEBIAN_SUITE/root"}]},
		{"ref": "docker.io/osixia/keepalived:$KEEPALIVED_TAG", "origin": ["Debian $DEBIAN_SUITE package keepalived, which is another version than the tag says"],
		 "layers": [{"tree": "$cache/upstream/keepalived/$DEBIAN_SUITE/root"}]}
		], "files": [
		{"path": "$gh/containerd/containerd/releases/download/$CONTAINERD_VERSION/$cdt", "origin": ["github.com/containerd/containerd/v2@$CONTAINERD_VERSION"],
		 "tar": {"bin/containerd": "$cd/containerd", "bin/containerd-shim-runc-v2": "$cd/containerd-shim-runc-v2", "bin/ctr": "$cd/ctr"},
		 "checksum": {"path": "$gh/containerd/containerd/releases/download/$CONTAINERD_VERSION/$cdt.sha256sum"}},
		{"path": "$gh/opencontainers/runc/releases/download/$RUNC_VERSION/runc.amd64", "origin": ["github.com/opencontainers/runc@$RUNC_VERSION"], "source": "$runc/runc",
		 "checksum": {"path": "$gh/opencontainers/runc/releases/download/$RUNC_VERSION/runc.sha256sum"}},
		{"path": "$gh/containernetworking/plugins/releases/download/$CNI_PLUGINS_VERSION/$cnit", "origin": ["github.com/containernetworking/plugins@$CNI_PLUGINS_VERSION"],
		 "tar": {$plugins}, "checksum": {"path": "$gh/containernetworking/plugins/releases/download/$CNI_PLUGINS_VERSION/$cnit.sha256"}},
		{"path": "$regd/$regt", "origin": ["github.com/distribution/distribution/v3@$REGISTRY_VERSION"],
		 "tar": {"registry": "$reg"}, "checksum": {"path": "$regd/$regt.sha256"}}
		], "trees": [
		{"path": "ftp.debian.org/debian", "source": "$debs", "origin": ["Debian $DEBIAN_SUITE main, as signed by Debian"]}
		]}
	EOF
}

build_common() {
	build_mirror_tool
	once containerd "$CONTAINERD_VERSION" "$upstream_dir/containerd/go.mod" -- fill_containerd "$CONTAINERD_VERSION"
	once runc "$RUNC_VERSION" "$upstream_dir/runc/go.mod" -- fill_runc "$RUNC_VERSION"
	once cni-plugins "$CNI_PLUGINS_VERSION" "$upstream_dir/cni-plugins/go.mod" -- fill_cni_plugins "$CNI_PLUGINS_VERSION"
	once registry "$REGISTRY_VERSION" "$upstream_dir/registry/go.mod" -- fill_registry "$REGISTRY_VERSION"
	once flannel "$FLANNEL_VERSION" "$upstream_dir/flannel/go.mod" -- fill_flannel "$FLANNEL_VERSION"
	once flannel-cni-plugin "$FLANNEL_CNI_PLUGIN_MODULE" "$upstream_dir/flannel-cni-plugin/go.mod" -- \
		fill_flannel_cni_plugin "$FLANNEL_CNI_PLUGIN_MODULE"
	build_debs
	# shellcheck disable=SC2086 # a list of words
	once netbase "$DEBIAN_SUITE" "$debs/dists/$DEBIAN_SUITE/InRelease" -- fill_netbase
	netbase=$built
	once haproxy "$DEBIAN_SUITE" "$debs/dists/$DEBIAN_SUITE/InRelease" -- fill_program haproxy
	once keepalived "$DEBIAN_SUITE" "$debs/dists/$DEBIAN_SUITE/InRelease" -- fill_program keepalived
	spec_common >"$cache/work/common.$$.json"
	"$mirror" add -root "$mirror_root" "$cache/work/common.$$.json"
	rm -f "$cache/work/common.$$.json"
}

fill_metrics_server() {
	local m=sigs.k8s.io/metrics-server
	go_build "$(module_at metrics-server "$2" $m)" "$1" "-X k8s.io/client-go/pkg/version.gitVersion=$2" $m/cmd/metrics-server
}

fill_local_path() {
	local m=github.com/rancher/local-path-provisioner
	go_build "$(module_at local-path-provisioner "$2" $m)" "$1" "-X main.VERSION=$2" $m
}

# module_folder NAME MODULE: prints where the module cache has the module that NAME's
# go.mod pins: charts are folders of it.
module_folder() {
	(cd "$upstream_dir/$1" && GOFLAGS=-mod=mod GOWORK=off go list -m -f '{{.Dir}}' "$2")
}

# tar_of PREFIX DIR: the files of a folder as entries of a tarball, in JSON.
tar_of() {
	local f sep=''
	while read -r f; do
		printf '%s"%s/%s": "%s/%s"' "$sep" "$1" "$f" "$2" "$f"
		sep=', '
	done < <(cd "$2" && find . -type f -printf '%P\n' | LC_ALL=C sort)
}

# spec_addons: images and charts. A chart is a folder in a .tar.gz; the index of a Helm
# repository needs no digest of it.
spec_addons() {
	local ms=$cache/upstream/metrics-server/$METRICS_SERVER_VERSION lp=$cache/upstream/local-path-provisioner/$LOCAL_PATH_VERSION
	local repo=kubernetes-sigs.github.io/metrics-server chart=metrics-server-$METRICS_SERVER_CHART.tgz a links=''
	local lp_source=$lp_module/deploy/chart/local-path-provisioner
	for a in sh cat chmod cp echo ls mkdir mv rm sleep sync; do links+="${links:+, }\"/bin/$a\": \"busybox\""; done
	cat <<-EOF
		{"images": [
		{"ref": "registry.k8s.io/metrics-server/metrics-server:$METRICS_SERVER_VERSION", "origin": ["sigs.k8s.io/metrics-server@$METRICS_SERVER_VERSION"],
		 "entrypoint": ["/metrics-server"], "user": "65534", "layers": [{"files": {"/metrics-server": "$ms/metrics-server"}}]},
		{"ref": "docker.io/rancher/local-path-provisioner:$LOCAL_PATH_VERSION", "origin": ["github.com/rancher/local-path-provisioner@$LOCAL_PATH_VERSION"],
		 "layers": [{"files": {"/usr/bin/local-path-provisioner": "$lp/local-path-provisioner"}}]},
		{"ref": "docker.io/library/busybox:$BUSYBOX_TAG", "origin": ["Debian $DEBIAN_SUITE package busybox-static, which is another version than the tag says"],
		 "layers": [{"files": {"/bin/busybox": "$netbase/busybox-static"}, "links": {$links}}]}
		], "files": [
		{"path": "$repo/index.yaml", "origin": ["scripts/upstream/build.sh"], "source": "$charts/metrics-server-index.yaml",
		 "checksum": {"path": "$repo/index.yaml.sha256", "bare": true}},
		{"path": "$repo/$chart", "origin": ["charts/metrics-server of sigs.k8s.io/metrics-server@$METRICS_SERVER_VERSION"],
		 "tar": {$(tar_of metrics-server "$ms_module/charts/metrics-server")}, "checksum": {"path": "$repo/$chart.sha256"}},
		{"path": "github.com/rancher/local-path-provisioner/archive/refs/tags/$LOCAL_PATH_VERSION.tar.gz",
		 "origin": ["deploy/chart of github.com/rancher/local-path-provisioner@$LOCAL_PATH_VERSION"],
		 "tar": {$(tar_of "local-path-provisioner-${LOCAL_PATH_VERSION#v}/deploy/chart/local-path-provisioner" "$lp_source")},
		 "checksum": {"path": "github.com/rancher/local-path-provisioner/archive/refs/tags/$LOCAL_PATH_VERSION.tar.gz.sha256"}}
		]}
	EOF
}

# fill_charts DIR: the index of a Helm repository.
fill_charts() {
	cat >"$1/metrics-server-index.yaml" <<-EOF
		apiVersion: v1
		entries:
		  metrics-server:
		    - apiVersion: v2
		      name: metrics-server
		      version: $METRICS_SERVER_CHART
		      urls: [metrics-server-$METRICS_SERVER_CHART.tgz]
	EOF
}

build_addons() {
	once metrics-server "$METRICS_SERVER_VERSION" "$upstream_dir/metrics-server/go.mod" -- fill_metrics_server "$METRICS_SERVER_VERSION"
	once local-path-provisioner "$LOCAL_PATH_VERSION" "$upstream_dir/local-path-provisioner/go.mod" -- fill_local_path "$LOCAL_PATH_VERSION"
	once charts "$METRICS_SERVER_CHART" -- fill_charts
	charts=$built
	ms_module=$(module_folder metrics-server sigs.k8s.io/metrics-server)
	lp_module=$(module_folder local-path-provisioner github.com/rancher/local-path-provisioner)
	grep -qx "version: $METRICS_SERVER_CHART" "$ms_module/charts/metrics-server/Chart.yaml" || die "METRICS_SERVER_CHART in versions.env is not the chart's version"
	spec_addons >"$cache/work/addons.$$.json"
	"$mirror" add -root "$mirror_root" "$cache/work/addons.$$.json"
	rm -f "$cache/work/addons.$$.json"
}

build_kubernetes() {
	local v=$1
	companions "$v"
	once etcd "$etcd_module" "$upstream_dir/etcd/go.mod" -- fill_etcd "$etcd_module"
	once coredns "$coredns_module" "$upstream_dir/coredns/go.mod" "$upstream_dir/coredns/main.go" -- fill_coredns "$coredns_module"
	once pause "$pause" "$upstream_dir/pause/pause.c" -- fill_pause "$pause"
	once kubernetes "$v" -- fill_kubernetes "$v"
	spec_kubernetes "$v" >"$cache/work/kubernetes.$$.json"
	"$mirror" add -root "$mirror_root" "$cache/work/kubernetes.$$.json"
	rm -f "$cache/work/kubernetes.$$.json"
}

main() {
	mkdir -p "$cache/work" "$cache/upstream"
	"$upstream_dir/../lab/deps.sh" build
	case ${1:-all} in
	all) build_common; build_kubernetes "$KUBERNETES_VERSION" ;;
	kubernetes)
		[[ ${2:-} =~ ^v1\.[0-9]+\.[0-9]+$ ]] || die "usage: build.sh kubernetes v1.MINOR.PATCH"
		build_common
		build_kubernetes "$2"
		;;
	containerd)
		once containerd "$CONTAINERD_VERSION" "$upstream_dir/containerd/go.mod" -- fill_containerd "$CONTAINERD_VERSION"
		once containerd "$CONTAINERD_OLD_VERSION" "$upstream_dir/containerd-1.7/go.mod" -- fill_containerd_old "$CONTAINERD_OLD_VERSION"
		;;
	etcd)
		companions "$KUBERNETES_VERSION"
		once etcd "$etcd_module" "$upstream_dir/etcd/go.mod" -- fill_etcd "$etcd_module"
		echo "$built"
		;;
	addons) build_common; build_addons ;;
	debs) build_mirror_tool; build_debs ;;
	*) die "usage: build.sh [all | kubernetes VERSION | containerd | etcd | debs | addons]" ;;
	esac
	cpu_seconds
	say "upstream components ready in $cache: $SECONDS s wall, $cpu s CPU"
}

main "$@"
