#!/usr/bin/env bash
# Several nodes with one cache, each in a network namespace of its own with its own cache folder and mount, and one S3 server: a cold epoch by all at
# once, a warm one, a node killed and brought back under load, a partition; every byte compared, and what each node read from where in a table.
# Needs Debian or Ubuntu, root, Rust and a C compiler. DEMO_NODES=n takes n nodes, DEMO_FILES=n files of about 110 KB beside two of 64 MiB.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

nodes=${DEMO_NODES:-4}
files=${DEMO_FILES:-4000}
home=${XDG_CACHE_HOME:-$HOME/.cache}/forebay-cluster-demo
release=${FOREBAY_RELEASE:?run this by "make cluster-demo"}
node=$release/forebay-node
bench=$release/forebay-bench
bridge=fbdemo0
net=10.231.77
peer_port=7071
metrics_port=9771
export AWS_ACCESS_KEY_ID=forebay AWS_SECRET_ACCESS_KEY=forebay-loopback-only

target=cluster-demo
. bench/demo/lib.sh

all() { seq 1 "$nodes"; }
space() { echo "fbdemo$1"; }
# In the network of node $1; the mounts stay visible to all.
inside() { local at=$1; shift; FOREBAY_RUN=$home/n$at/run nsenter --net="/run/netns/$(space "$at")" "$@"; }
mount_of() { echo "$home/n$1/data"; }
processes() { pgrep -f -- "--holder $home/n$1/run/|holder --folder $home/n$1/run/" || true; }

stop() {
    local at pid
    for at in $(all); do
        mountpoint -q "$(mount_of "$at")" && [ -e "/run/netns/$(space "$at")" ] && { inside "$at" "$node" unmount "$(mount_of "$at")" || true; }
        for pid in $(processes "$at"); do kill -9 "$pid"; done
        mountpoint -q "$(mount_of "$at")" && umount -l "$(mount_of "$at")"
        # The kernel ends a namespace later than it says: its link goes first.
        ip link del "fbdemo-v$at" 2>/dev/null || true
        ip netns del "$(space "$at")" 2>/dev/null || true
    done
    stop_server
    ip link del "$bridge" 2>/dev/null || true
}

trap failed ERR
trap 'stop >/dev/null 2>&1' EXIT

mkdir -p "$home"
: >"$home/step.log"

say "check this machine"
[ "$(id -u)" = 0 ] || { echo "the demo makes network namespaces and mounts: run it as root" >"$home/step.log"; false; }
[ -c /dev/fuse ] || { echo "there is no /dev/fuse: modprobe fuse, or give the container --device /dev/fuse" >"$home/step.log"; false; }
needs=()
command -v ip >/dev/null || needs+=(iproute2)
command -v openssl >/dev/null || needs+=(openssl)
command -v curl >/dev/null || needs+=(curl ca-certificates)
command -v python3 >/dev/null || needs+=(python3)
if [ "${#needs[@]}" -gt 0 ]; then
    say "install ${needs[*]}"
    quiet apt-get update
    quiet env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${needs[@]}"
fi
stop

say "build (release; kept in $(dirname "$release") for the next time)"
make --no-print-directory release

say "make $files files of about 110 KB and two of 64 MiB"
rm -rf "$home"/n[0-9]* "$home/tls"
if [ "$(cat "$home/data-is" 2>/dev/null)" != "$files" ]; then
    rm -rf "$home/buckets" "$home/control"
    quiet "$bench" data "$home/control" --small "$files" --large 2 --large-mib 64
    mkdir -p "$home/buckets/train"
    cp -r "$home/control/." "$home/buckets/train/"
    echo "$files" >"$home/data-is"
fi
data_bytes=$(find "$home/control" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')

say "join $nodes networks by a bridge"
ip link add "$bridge" type bridge
ip addr add "$net.1/24" dev "$bridge"
ip link set "$bridge" up
for at in $(all); do
    ip netns add "$(space "$at")"
    ip link add "fbdemo-v$at" type veth peer name eth0 netns "$(space "$at")"
    ip link set "fbdemo-v$at" master "$bridge" up
    ip -n "$(space "$at")" addr add "$net.$((at + 10))/24" dev eth0
    ip -n "$(space "$at")" link set eth0 up
    ip -n "$(space "$at")" link set lo up
done

say "give each node a certificate of the cache"
mkdir -p "$home/tls"
quiet openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=the demo's authority" \
    -keyout "$home/tls/ca.key" -out "$home/tls/ca.crt"
for at in $(all); do
    folder=$home/n$at/tls
    mkdir -p "$folder"
    quiet openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=n$at" -keyout "$folder/tls.key" -out "$folder/request"
    printf 'subjectAltName=DNS:cache.demo.example,DNS:n%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "$at" >"$folder/extensions"
    quiet openssl x509 -req -in "$folder/request" -CA "$home/tls/ca.crt" -CAkey "$home/tls/ca.key" -days 2 -extfile "$folder/extensions" -out "$folder/tls.crt"
    cp "$home/tls/ca.crt" "$folder/"
    chmod 600 "$folder/tls.key"
done

say "start an S3 server at $net.1"
start_server "$net.1:0"

cat >"$home/dataset.yaml" <<YAML
apiVersion: forebay.dev/v1alpha1
kind: Dataset
metadata: { name: train }
spec:
  source: s3://train/
  s3: { endpoint: "$endpoint", region: us-east-1, addressing: Path }
YAML
node_file() {
    cat <<YAML
apiVersion: forebay.dev/v1alpha1
kind: NodeConfig
tiers:
  - { path: "$home/n$1/cache", capacity: 50%, keepFreePercent: 1 }
metrics: { address: "$net.$(($1 + 10)):$metrics_port" }
peers:
  name: n$1
  listen: $net.$(($1 + 10)):$peer_port
  cache: cache.demo.example
  certificates: $home/n$1/tls
  nodes:
$(for other in $(all); do echo "    - { name: n$other, address: \"$net.$((other + 10)):$peer_port\" }"; done)
YAML
}
mount_node() { quiet inside "$1" "$node" mount "$home/dataset.yaml" "$(mount_of "$1")" --config "$home/n$1/node.yaml"; }

say "mount s3://train/ on $nodes nodes"
for at in $(all); do
    mkdir -p "$home/n$at/cache" "$home/n$at/run" "$(mount_of "$at")"
    node_file "$at" >"$home/n$at/node.yaml"
    mount_node "$at"
done

# What node $1 has read by now: from its store, from others, from the source.
metric() { curl -fsS "http://$net.$(($1 + 10)):$metrics_port/metrics" | awk -v name="$2" '$1 ~ "^" name "([{]|$)" { sum += $2 } END { printf "%.0f", sum }'; }
reads() { echo "$(metric "$1" forebay_reader_store_bytes_total) $(metric "$1" forebay_reader_peer_bytes_total) $(metric "$1" forebay_reader_source_bytes_total)"; }
# All nodes read everything at once, each in an order of its own.
epoch() {
    local at pids=() pid
    for at in "${@:2}"; do
        "$bench" read "$(mount_of "$at")" --workload files:4 --epoch "$((at * 10 + $1))" >"$home/n$at/epoch-$1.json" 2>"$home/n$at/epoch-$1.log" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || { cat "$home"/n*/epoch-"$1".log >"$home/step.log"; return 1; }; done
}
# So that the nodes are asked again, and not the pages of their mounts.
drop_pages() {
    local at
    for at in "$@"; do python3 - "$(mount_of "$at")" <<'PYTHON'
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
PYTHON
    done
}
compare() { for at in "$@"; do quiet diff -r "$home/control" "$(mount_of "$at")"; done; }

say "epoch 1, cold, by all $nodes at once"
source_0=$(counter)
epoch 1 $(all)
source_1=$(counter)
for at in $(all); do reads "$at" >"$home/n$at/cold-reads"; done
say "epoch 2, warm"
epoch 2 $(all)
source_2=$(counter)
say "compare every byte on every node"
compare $(all)

victim=$nodes
others=$(seq 1 $((nodes - 1)))
say "kill -9 node n$victim while the others read"
drop_pages $others
epoch 3 $others &
reader=$!
sleep 0.5
for pid in $(processes "$victim"); do kill -9 "$pid"; done
wait "$reader"
source_3=$(counter)
say "bring n$victim back with its disk, read on all"
umount -l "$(mount_of "$victim")" 2>/dev/null || true
mount_node "$victim"
drop_pages $(all)
epoch 4 $(all)
source_4=$(counter)
say "cut n1 off from the other nodes, not from the source"
for at in $(seq 2 "$nodes"); do ip -n "$(space 1)" route add blackhole "$net.$((at + 10))/32"; done
drop_pages $(all)
epoch 5 $(all)
for at in $(seq 2 "$nodes"); do ip -n "$(space 1)" route del blackhole "$net.$((at + 10))/32"; done
source_5=$(counter)
say "compare every byte on every node, once more"
compare $(all)

python3 - "$home" "$nodes" "$data_bytes" "$source_0" "$source_1" "$source_2" "$source_3" "$source_4" "$source_5" <<'PYTHON'
import json, sys
home, nodes = sys.argv[1], int(sys.argv[2])
data, *counts = map(int, sys.argv[3:])
print(f"\n{nodes} nodes, {data / 1e6:.0f} MB; every byte on every node is the one in the bucket, no read failed\n")
print(f"{'node':<6}{'cold files/s':>14}{'warm files/s':>14}{'own disk':>10}{'peers':>8}{'source':>8}   (shares of the cold epoch)")
for at in range(1, nodes + 1):
    cold, warm = (json.load(open(f"{home}/n{at}/epoch-{epoch}.json")) for epoch in (1, 2))
    store, peer, source = map(int, open(f"{home}/n{at}/cold-reads").read().split())
    total = max(store + peer + source, 1)
    print(f"n{at:<5}{cold['units_per_second']:>14.0f}{warm['units_per_second']:>14.0f}{store / total:>10.2f}{peer / total:>8.2f}{source / total:>8.2f}")
print("\nsource bytes / data set bytes")
what = ("epoch 1, cold, all at once", "epoch 2, warm", "a node killed under load", "the node back with its disk", "one node cut off from the others")
for text, before, after in zip(what, counts, counts[1:]):
    print(f"  {text:<36}{(after - before) / data:.3f}")
PYTHON
cat <<TEXT

Try next:
  DEMO_NODES=6 make cluster-demo
  examples/several-nodes.yaml is such a node's file; docs/operations.md tells what each line means
TEXT
