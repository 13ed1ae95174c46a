#!/usr/bin/env bash
# Process 1 of a node, in namespaces of its own (node.sh makes them): gives the node its root folder, starts containerd, kubelet and
# kube-proxy, and starts again what ends. When this process ends the kernel ends all others of the node: a crash as a real one.
set -euo pipefail
. "$(dirname "$0")/common.sh"
n=$1 node=$root/node$1 new=$root/node$1/root
hostname "node$n"

# The root is an overlay of the machine's, with the changes in a tmpfs: hostPath volumes of two nodes are two folders, and nothing is
# written to the machine's. (The upper folder may not lie below the lower one on the same file system, hence the tmpfs.)
mkdir -p "$new" "$node/changes"
mount -t tmpfs -o mode=755 tmpfs "$node/changes"
mkdir "$node/changes/upper" "$node/changes/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$node/changes/upper,workdir=$node/changes/work" "$new"
mount --rbind /dev "$new/dev"
mount --rbind /sys "$new/sys"
mount -t proc proc "$new/proc"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mkdir -p "$new/run/lock" "$new/run/netns"
programs=$(readlink -f "$root/bin")
for folder in "$root" "$programs"; do
    mkdir -p "$new$folder"
    mount --bind "$folder" "$new$folder"
done
# These are on the disk: they need a real file system, and survive the node's restart.
for folder in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /etc/cni/net.d ${NODE_FOLDERS:-/var/lib/forebay}; do
    mkdir -p "$node/disk$folder" "$new$folder"
    mount --bind "$node/disk$folder" "$new$folder"
done
# kubelet sets these for the whole machine. It is shown files that have its values already.
mkdir -p "$node/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
    kernel/keys/root_maxbytes=25000000; do
    name=${setting%=*}
    echo "${setting#*=}" >"$node/sysctl/${name//\//.}"
    mount --bind "$node/sysctl/${name//\//.}" "$new/proc/sys/$name"
done
mkdir -p "$new/.old"
cd "$new"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
mount --make-rshared / # HostToContainer and Bidirectional mounts work; nothing leaves this namespace
echo 1 >/proc/sys/net/ipv4/ip_forward

# keep NAME COMMAND... : starts it again whenever it ends, as a service manager would.
keep() {
    local name=$1
    shift
    while :; do
        "$@" >>"$logs/node$n-$name.log" 2>&1 || true
        echo "--- $name ended, again in 1 s" >>"$logs/node$n-$name.log"
        sleep 1
    done
}

keep containerd containerd -c "$node/containerd.toml" -l warn &
wait_for containerd 60 test -S /run/containerd/containerd.sock
for archive in "$root"/images/*.tar; do
    [ -e "$archive" ] && ctr -n k8s.io images import "$archive" >>"$logs/node$n-images.log" 2>&1
done
keep kubelet kubelet --config "$node/kubelet.yaml" --kubeconfig "$node/kubelet.conf" --hostname-override "node$n" \
    --node-ip "$(node_address "$n")" --root-dir /var/lib/kubelet --v=2 &
keep kube-proxy kube-proxy --config "$node/kube-proxy.yaml" &
touch /run/node-ready
while :; do wait || true; done
