#!/usr/bin/env bash
# A node: real containerd, kubelet and kube-proxy in network, mount, pid, uts and ipc namespaces of their own.
#
#   node.sh up N                  joins node N (1 to 5)
#   node.sh down N                ends it at once, as if the power went; its disk stays, `up` brings it back
#   node.sh exec N COMMAND...     runs a command inside
set -euo pipefail
. "$(dirname "$0")/common.sh"

# Each kubelet needs a cgroup of its own, or it takes another's pods for orphans and kills them.
make_cgroups() {
    local folder file ours controllers
    for folder in $(cgroup_folders); do
        for ours in "$folder/$prefix" "$folder/$prefix/node$1"; do
            mkdir -p "$ours"
            # In v1 a new cpuset is empty and holds no process; in v2 a parent says what its children may use.
            for file in cpuset.cpus cpuset.mems; do
                [ -f "$folder/cgroup.controllers" ] || [ ! -f "$folder/$file" ] || cat "$folder/$file" >"$ours/$file"
            done
        done
        if [ -f "$folder/cgroup.controllers" ]; then
            for ours in "$folder" "$folder/$prefix"; do
                read -ra controllers <"$ours/cgroup.controllers"
                for file in "${controllers[@]}"; do echo "+$file" >"$ours/cgroup.subtree_control" 2>/dev/null || true; done
            done
        fi
    done
}

make_network() {
    local n=$1 other netns
    netns=$(netns_of "$n")
    ip netns add "$netns"
    # A fixed hardware address: otherwise the others' ARP tables keep a restarted node silent for half a minute.
    ip link add "${prefix}v$n" type veth peer name eth0 address "02:00:0a:59:00:1$n" netns "$netns"
    ip link set "${prefix}v$n" master "$bridge" up
    ip -n "$netns" addr add "$(node_address "$n")/24" dev eth0
    ip -n "$netns" link set lo up
    ip -n "$netns" link set eth0 up
    ip -n "$netns" route add default via "$node_net.1"
    for other in $(seq $nodes_max); do
        [ "$other" = "$n" ] || ip -n "$netns" route add "$(node_pods "$other")" via "$(node_address "$other")"
    done
}

write_settings() {
    local n=$1 node=$root/node$1
    mkdir -p "$node/disk/etc/cni/net.d"
    if [ ! -s "$node/kubelet.conf" ]; then
        kubeadm kubeconfig user --config "$root/kubeadm.yaml" --client-name="system:node:node$n" --org=system:nodes \
            >"$node/kubelet.conf" 2>>"$logs/kubeadm.log"
        kubeadm kubeconfig user --config "$root/kubeadm.yaml" --client-name=system:kube-proxy \
            >"$node/kube-proxy.conf" 2>>"$logs/kubeadm.log"
    fi
    cat >"$node/disk/etc/cni/net.d/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "forebay", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": 1500,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(node_pods "$n")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    # restrict_oom_score_adj and oomScoreAdj: a machine may lack CAP_SYS_RESOURCE, and then no score can be lowered.
    cat >"$node/containerd.toml" <<'TOML'
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:e2e"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
    cat >"$node/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$prefix/node$n
enforceNodeAllocatable: []
oomScoreAdj: 0
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [$dns_address]
resolvConf: ""
podCIDR: $(node_pods "$n")
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
syncFrequency: 10s
# Tests kill programs again and again; otherwise each waits twice as long as the one before for its next start.
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
nodeStatusUpdateFrequency: 4s
volumeStatsAggPeriod: 10s
fileCheckFrequency: 20s
httpCheckFrequency: 20s
shutdownGracePeriod: 0s
maxPods: 60
YAML
    cat >"$node/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $pod_cidr
clientConnection: {kubeconfig: $node/kube-proxy.conf}
hostnameOverride: node$n
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
}

# The node's process 1, as the machine numbers it.
init_of() {
    local outer
    outer=$(pid_of "node$1") && pgrep -P "$outer" -f node-init.sh
}

inside() {
    local init
    init=$(init_of "$1") || die "node $1 isn't up"
    shift
    nsenter --target "$init" --mount --pid --net --uts --ipc -- "$@"
}

up() {
    local n=$1
    alive "node$n" && die "node $n is up already"
    write_settings "$n"
    make_cgroups "$n"
    make_network "$n"
    spawn "node$n" nsenter --net="/run/netns/$(netns_of "$n")" unshare --mount --pid --uts --ipc --fork --kill-child \
        --propagation private "$harness/node-init.sh" "$n"
    wait_for "node $n, see $logs/node$n*.log" 120 inside "$n" test -e /run/node-ready
}

remove_cgroups() {
    local folder left=0
    for folder in $(cgroup_folders); do
        [ -d "$folder/$prefix/node$1" ] || continue
        find "$folder/$prefix/node$1" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
        rmdir "$folder/$prefix" 2>/dev/null || true
    done
    return $left
}

down() {
    local n=$1 init
    if init=$(init_of "$n"); then
        kill -9 "$init" 2>/dev/null || true
        # Process 1 is gone only when all others of its namespace are.
        wait_for "the end of node $n" 30 test ! -e "/proc/$init"
    fi
    stop "node$n"
    ip netns del "$(netns_of "$n")" 2>/dev/null || true
    ip link del "${prefix}v$n" 2>/dev/null || true
    wait_for "the end of node $n's cgroups" 30 remove_cgroups "$n"
}

verb=${1:-} n=${2:-}
[[ $n =~ ^[1-$nodes_max]$ ]] || die "up N, down N or exec N COMMAND..., N from 1 to $nodes_max"
shift 2
case $verb in
    up | down) "$verb" "$n" ;;
    exec) inside "$n" "$@" ;;
    *) die "no verb is called $verb" ;;
esac
