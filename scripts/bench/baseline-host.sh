set -e
cd /var/lib/kocli/baseline
dpkg --skip-same-version -i debs/*.deb >/dev/null 2>&1 || dpkg -i debs/*.deb >/dev/null 2>&1
mkdir -p /opt/cni/bin /etc/containerd /etc/systemd/system/kubelet.service.d
for f in bin/*; do
	case ${f#bin/} in
	kubeadm|kubelet|kubectl) mv "$f" /usr/bin/ ;;
	containerd*|ctr|runc) mv "$f" /usr/local/bin/ ;;
	*) mv "$f" /opt/cni/bin/ ;;
	esac
done
cat >/etc/containerd/config.toml <<'C'
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10.2'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
C
cat >/etc/systemd/system/containerd.service <<'C'
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
Delegate=yes
KillMode=process
[Install]
WantedBy=multi-user.target
C
cat >/etc/systemd/system/kubelet.service <<'C'
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
RestartSec=3
[Install]
WantedBy=multi-user.target
C
cat >/etc/systemd/system/kubelet.service.d/10-kubeadm.conf <<'C'
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
C
sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
systemctl daemon-reload
systemctl enable -q --now containerd
systemctl enable -q kubelet
printf 'search .\n' >/etc/kubelet-resolv.conf
ctr -n k8s.io images import images.tar >/dev/null
