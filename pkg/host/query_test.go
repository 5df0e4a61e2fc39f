package host_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
)

func TestCheckQuery_allowsWhatOnlyLooks(t *testing.T) {
	for _, line := range []string{
		"cat -- /etc/hosts",
		"/usr/local/bin/ctr -n k8s.io images ls",
		"/usr/local/bin/ctr -n k8s.io content ls -q",
		"ctr version",
		"stat -c %f -- /etc",
		"sha256sum -- /etc/hosts",
		"date +%s.%N",
		"date -u +%F",
		"hostname",
		"hostname -f",
		"grep -hsF -- 0A /proc/net/tcp /proc/net/tcp6",
		"find /etc/kubernetes -maxdepth 2 -type f -not -path */kocli/*",
		"sysctl -n net.ipv4.ip_forward",
		"ss -Hltnp",
		"ss -Hnawp",
		"tail -n 3 -- /var/log/x",
		"ip -j addr show",
		"ip route",
		"ip route get 192.0.2.1",
		"nft list ruleset",
		"nft -j list ruleset",
		"iptables-save",
		"iptables-save -t nat",
		"systemctl show -p ActiveState,MainPID kubelet.service",
		"systemctl is-active containerd docker",
		"timedatectl show",
		"rpm -q container-selinux",
		"rpm -qa --qf %{NAME}",
		"kubeadm version -o short",
		"kubelet --version",
		"journalctl -u kubelet.service -n 8 -o cat --no-pager",
		"ufw status",
		"firewall-cmd --state",
	} {
		if err := host.CheckQuery(host.Command(strings.Fields(line)...)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestCheckQuery_refusesWhatCouldWrite(t *testing.T) {
	for _, line := range []string{
		"rm -rf /",
		"sh -c true",
		"env cat /etc/hosts",
		"sudo cat /etc/hosts",
		"tee /etc/hosts",
		"/tmp/cat /etc/hosts",
		"./cat /etc/hosts",
		"find /var -delete",
		"find / -exec rm {} +",
		"find / -execdir rm {} +",
		"find / -ok rm {} ;",
		"find / -fprint /etc/passwd",
		"find / -fls /etc/passwd",
		"sysctl -w a=1",
		"sysctl -n a=1",
		"sysctl -n -w a=1",
		"sysctl -nw a=1",
		"sysctl -n --system",
		"sysctl -n --load",
		"sysctl -n -f",
		"sysctl -p",
		"sysctl a",
		"date -s 2030-01-01",
		"date -s2030-01-01",
		"date -us2030-01-01",
		"date --s=2030-01-01",
		"date --set 2030-01-01",
		"date 010112002030",
		"hostname other",
		"hostname -F /etc/x",
		"hostname -F/etc/x",
		"hostname --file=/etc/x",
		"hostname -b",
		"ip link set eth0 down",
		"ip l s eth0 down",
		"ip link s eth0 down",
		"ip a f eth0",
		"ip route d default",
		"ip addr flush dev eth0",
		"ip -b /tmp/x",
		"ip -batch /tmp/x",
		"ip netns exec x sh",
		"ip -n x link set eth0 down",
		"ip",
		"nft flush ruleset",
		"nft -f /tmp/x",
		"nft list ruleset ; flush ruleset",
		"nft list ruleset;flush ruleset",
		"nft",
		"tail -f /var/log/x",
		"tail -n -f -- /var/log/x",
		"ss -K dst 192.0.2.1",
		"ss -tK",
		"ss --kill",
		"ss -D /etc/passwd",
		"iptables-save -f /etc/passwd",
		"iptables-save --modprobe=/tmp/x",
		"iptables-save -t nat -f /etc/passwd",
		"iptables-restore",
		"systemctl stop kubelet",
		"systemctl -p show stop kubelet",
		"systemctl --root show enable kubelet",
		"systemctl",
		"timedatectl set-time 12:00",
		"timedatectl -H show set-time 12:00",
		"rpm -e x",
		"rpm -i x.rpm",
		"rpm -q --eval %(rm)",
		"rpm -q --pipe sh",
		"rpm -q --import x",
		"rpm",
		"ctr images rm x",
		"ctr -n k8s.io images rm x",
		"ctr images pull x",
		"ctr content prune references",
		"ctr images",
		"ctr -n k8s.io run x",
		"kubeadm reset -f",
		"kubeadm --rootfs version reset",
		"kubelet",
		"kubelet --config x",
		"containerd",
		"runc run x",
		"journalctl --vacuum-size=1",
		"journalctl --vac 1",
		"journalctl --rotate",
		"journalctl --rot",
		"journalctl --flush",
		"journalctl --setup-keys",
		"journalctl --cursor-file=/etc/passwd",
		"ufw disable",
		"ufw status numbered",
		"firewall-cmd --reload",
		"firewall-cmd --state --reload",
		"dd if=/dev/zero of=/dev/sda",
		"mkfs.ext4 /dev/sda",
	} {
		if err := host.CheckQuery(host.Command(strings.Fields(line)...)); !errors.Is(err, host.ErrNotQuery) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestCheckQuery_refusesAnEmptyCommandAndOneWithStdin(t *testing.T) {
	if err := host.CheckQuery(host.Cmd{}); !errors.Is(err, host.ErrNotQuery) {
		t.Errorf("empty: %v", err)
	}
	c := host.Command("cat")
	c.Stdin = strings.NewReader("x")
	if err := host.CheckQuery(c); !errors.Is(err, host.ErrNotQuery) {
		t.Errorf("with stdin: %v", err)
	}
}
