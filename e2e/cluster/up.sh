#!/usr/bin/env bash
# Starts a Kubernetes cluster on this machine, as root, and prints how to use it.
#
#   up.sh [NODES [ARCHIVE...]]     nodes: 3 if not said; archives: OCI images that every node gets, beside those of the cluster itself
#
# What a failed start leaves is kept to be looked at, and `down.sh` removes it.
set -euo pipefail
. "$(dirname "$0")/common.sh"
nodes=${1:-3}
shift || true
[ "$(id -u)" = 0 ] || die "a cluster needs root: namespaces, mounts, cgroups"
[[ $nodes =~ ^[1-$nodes_max]$ ]] || die "1 to $nodes_max nodes"
[ ! -e "$root/running" ] || die "there is a cluster in $root; down.sh removes it"
for archive; do [ -f "$archive" ] || die "no archive $archive"; done

took() { printf '%-24s %3d s\n' "$1" "$SECONDS" >&2; }
need containerd:containerd runc:runc containernetworking-plugins:/usr/lib/cni/bridge nftables:nft iptables:iptables \
    conntrack:conntrack iproute2:ip procps:pgrep
programs=$("$harness/build.sh" hyper coredns)
mkdir -p "$running" "$logs" "$root/images"
ln -sfn "$programs" "$root/bin"
took "programs"

# The nodes see the folder of the cluster, not that of the cache.
"$harness/../images/build.sh" pause tools coredns | while read -r archive; do cp --reflink=auto "$archive" "$root/images/"; done
for archive; do cp --reflink=auto "$archive" "$root/images/"; done
took "images"

"$harness/control-plane.sh" up
took "control plane"
starts=()
for n in $(seq "$nodes"); do
    "$harness/node.sh" up "$n" &
    starts+=($!)
done
failed=0
for start in "${starts[@]}"; do wait "$start" || failed=1; done
[ $failed = 0 ] || die "not every node came up"
export KUBECONFIG=$admin
for n in $(seq "$nodes"); do wait_for "node $n to register" 60 kubectl get node "node$n"; done
kubectl wait --for=condition=Ready node --all --timeout=90s >/dev/null
took "$nodes nodes ready"
sed "s/DNS_ADDRESS/$dns_address/" "$harness/manifests/coredns.yaml" | kubectl apply -f - >/dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null
took "cluster DNS"
echo "export KUBECONFIG=$admin PATH=$root/bin:\$PATH"
