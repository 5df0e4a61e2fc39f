# The image that lab hosts start from: a bare Debian with systemd and sshd, and
# on purpose none of the tools that kocli has to bring. Sourced by lab.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # lab.sh sets cache, lab_dir and docker

host_suite=bookworm
host_packages=systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,procps,kmod

# host_image sets $image, and makes it when the engine does not have it.
host_image() {
	local key tar root
	key=$({ echo "$host_suite $host_packages"; declare -f host_rootfs; sha256sum "$lab_dir"/host/* | cut -d' ' -f1; } | sha256sum | cut -c1-12)
	image=kocli-lab-host:$key
	if "${docker[@]}" image inspect "$image" >/dev/null 2>&1; then return; fi
	tar=$cache/lab/host-$key.tar
	if [ ! -f "$tar" ]; then
		mkdir -p "$cache/lab"
		root=$(mktemp -d "$cache/lab/root.XXXXXX")
		say "making the host image (Debian $host_suite)"
		host_rootfs "$root" >"$cache/lab/debootstrap.log" 2>&1 ||
			{ tail -20 "$cache/lab/debootstrap.log" >&2; rm -rf "$root"; die "debootstrap did not work"; }
		tar -C "$root" -cf "$tar.tmp" .
		rm -rf "$root"
		mv "$tar.tmp" "$tar"
	fi
	"${docker[@]}" import --change 'ENTRYPOINT ["/usr/local/sbin/lab-host"]' \
		"$tar" "$image" >/dev/null
}

host_rootfs() {
	local root=$1 url
	# shellcheck disable=SC2016 # apt's own placeholder
	url=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $host_suite" 'Component: main' | head -1)
	debootstrap --variant=minbase --include="$host_packages" "$host_suite" "$root" "$url"
	install -m 755 "$lab_dir/host/entrypoint" "$root/usr/local/sbin/lab-host"
	install -m 644 "$lab_dir/host/sshd.conf" "$root/etc/ssh/sshd_config.d/lab.conf"
	install -m 755 "$lab_dir/host/customize" "$root/customize"
	chroot "$root" /customize
	rm "$root/customize"
}
