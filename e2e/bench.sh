#!/usr/bin/env bash
# What Forebay costs in a cluster, by release builds: `make bench-cluster`, as root, with nothing else running on the machine.
#   1. an operator with 100 Datasets and 100 nodes (fake ones) beside a real API server, and with 1,000 of each
#   2. from `kubectl apply` to a bound claim and to the first byte in a pod, beside the same pod with a volume of kubelet's own
#   3. memory and CPU of each program at rest, with the chart's own requests and limits
#   4. reads in a pod against a folder of the node's disk with the same files
# Prints a table for docs/benchmarks.md. SHORT=1 shows only that it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${FOREBAY_RELEASE:?run it by make bench-cluster}"
(. e2e/cluster/common.sh; need bc:bc python3:python3)
short=${SHORT:-}
if [ -n "$short" ]; then sizes=(10) rest=5 rounds=2 files=200 pairs=5; else sizes=(100 1000) rest=60 rounds=7 files=5000 pairs=5; fi
work=$(mktemp -d)
machine=10.213.0.1

rows() { printf '| %s | %s | %s |\n' "$@"; }
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.2f\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

operator_alone() {
    local told size=$1
    # A certificate and a connection for each node.
    ulimit -n "$(ulimit -Hn)"
    told=$(e2e/cluster/envtest.sh run "$FOREBAY_RELEASE/examples/operator_bench" "$FOREBAY_RELEASE/forebay-operator" "$size" "$size" "$rest" 2>"$work/operator.log" | tail -1) \
        || { tail -20 "$work/operator.log" >&2; return 1; }
    figure() { python3 -c 'import json, sys; print(round(json.loads(sys.argv[1])[sys.argv[2]], 2))' "$told" "$1"; }
    local of="$size Datasets, $size nodes"
    rows "all nodes know all, from nothing" "$(figure all_known_seconds) s" "$of; most of it is making the nodes"
    rows "requests to the API server at rest" "$(figure rest_api_requests_a_minute) a minute" "$of"
    rows "CPU of the operator at rest" "$(figure rest_cpu_cores) cores" "$of"
    rows "memory of the operator at rest" "$(figure rest_resident_mib) MiB" "$of"
    rows "a changed Dataset has reached all nodes after" "$(figure change_reaches_all_seconds) s" "$of; goal: under 5 s"
}

pod() { # NAME VOLUME PROGRAM [IMAGE]: YAML of a pod on node1 that isn't root
    cat <<YAML
apiVersion: v1
kind: Pod
metadata: { name: $1, namespace: bench }
spec:
  nodeSelector: { kubernetes.io/hostname: node1 }
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  securityContext: { runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true }
  containers:
    - name: main
      image: localhost/${4:-tools}:e2e
      imagePullPolicy: Never
      $3
      volumeMounts: [{ name: data, mountPath: /data }]
  volumes: [{ name: data, $2 }]
YAML
}

dataset() {
    cat <<YAML
apiVersion: forebay.dev/v1alpha1
kind: Dataset
metadata: { name: $1, namespace: bench }
spec:
  source: s3://data/
  secretRef: { name: s3 }
  s3: { endpoint: "$endpoint", region: us-east-1, addressing: Path }
---
YAML
}

first_byte='import os, time
while not os.listdir("/data"): time.sleep(0.001)
name = next(os.path.join(at, found[0]) for at, _, found in os.walk("/data") if found)
open(name, "rb").read(1); print(time.time())'
reads="command: [python3, -c, $(python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$first_byte")]"
# The same without Forebay: the volume is there at once, its file is made by the pod.
control="command: [python3, -c, $(python3 -c 'import json, sys; print(json.dumps("open(\"/data/first\", \"w\").write(\"x\")\n" + sys.argv[1]))' "$first_byte")]"

done_at() { kubectl -n bench wait --for=jsonpath='{.status.phase}'=Succeeded "pod/$1" --timeout=120s >/dev/null && kubectl -n bench logs "$1" | tail -1; }

from_apply() {
    local round begin bound
    for round in $(seq "$rounds"); do
        begin=$(date +%s.%N)
        pod "without$round" "emptyDir: {}" "$control" | kubectl apply -f - >/dev/null
        echo "$(done_at "without$round") - $begin" | bc >>"$work/without"
        begin=$(date +%s.%N)
        { dataset "d$round"; pod "with$round" "persistentVolumeClaim: { claimName: d$round }" "$reads"; } | kubectl apply -f - >/dev/null
        until [ "$(kubectl -n bench get pvc "d$round" -o 'jsonpath={.status.phase}' 2>/dev/null)" = Bound ]; do sleep 0.02; done
        bound=$(date +%s.%N)
        echo "$bound - $begin" | bc >>"$work/bound"
        echo "$(done_at "with$round") - $begin" | bc >>"$work/with"
        kubectl -n bench delete pod "with$round" "without$round" --wait=true >/dev/null
        kubectl -n bench delete dataset "d$round" --wait=true >/dev/null
    done
    rows "from apply to a bound claim" "$(median <"$work/bound") s" "median of $rounds; kubectl takes some of it"
    rows "from apply to the first byte in a pod" "$(median <"$work/with") s" "median of $rounds; goal: under 5 s"
    rows "the same pod with an emptyDir" "$(median <"$work/without") s" "the difference is what a Dataset costs; goal: at most 1 s"
}

at_rest() {
    local program pid before after hz=100
    declare -A before
    for program in forebay-operator forebay-csi forebay-node; do
        for pid in $(pgrep -x "${program:0:15}"); do before[$pid]=$(awk '{ print $14 + $15 }' "/proc/$pid/stat"); done
    done
    sleep "$rest"
    for program in forebay-operator forebay-csi forebay-node; do
        for pid in $(pgrep -x "${program:0:15}"); do
            after=$(awk '{ print $14 + $15 }' "/proc/$pid/stat")
            echo "$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status") $(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status") $((after - ${before[$pid]:-$after}))"
        done | sort -n | tail -1 >"$work/of"
        read -r resident anonymous ticks <"$work/of"
        rows "$program at rest" "$((resident / 1024)) MiB resident, $((anonymous / 1024)) MiB of it anonymous" "$(echo "scale=2; 100 * $ticks / $hz / $rest" | bc) % of a core; the largest of its pods, one Dataset mounted"
    done
}

in_a_pod() {
    local workload ratio
    dataset ratio | kubectl apply -f - >/dev/null
    kubectl -n bench wait --for=condition=Ready dataset/ratio --timeout=120s >/dev/null
    # A copy on the same disk as the cache, made by a pod that reads everything once.
    on_node mkdir -p /var/lib/forebay/control
    on_node chmod 777 /var/lib/forebay/control
    { pod copy "persistentVolumeClaim: { claimName: ratio }" 'command: [sh, -c, "cp -r /data/. /control/"]' | sed '/mountPath: \/data/s|\[{|[{ name: control, mountPath: /control }, {|; s|volumes: \[{|volumes: [{ name: control, hostPath: { path: /var/lib/forebay/control } }, {|'; } | kubectl apply -f - >/dev/null
    done_at copy >/dev/null
    for workload in files:8 files:1 walk; do
        { pod "compare-${workload/:/-}" "persistentVolumeClaim: { claimName: ratio }" "args: [compare, --control, /control, --candidate, /data, --workload, \"$workload\", --pairs, \"$pairs\"]" forebay-bench | sed '/mountPath: \/data/s|\[{|[{ name: control, mountPath: /control }, {|; s|volumes: \[{|volumes: [{ name: control, hostPath: { path: /var/lib/forebay/control } }, {|'; } | kubectl apply -f - >/dev/null
        kubectl -n bench wait --for=jsonpath='{.status.phase}'=Succeeded "pod/compare-${workload/:/-}" --timeout=600s >/dev/null
        kubectl -n bench logs "compare-${workload/:/-}" >"$work/compare"
        ratio=$(python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print("%.2f" % d["ratio"])' "$work/compare")
        rows "in a pod: \`$workload\` against the node's disk" "$ratio" "later epochs of $files files on one mount"
    done
}

on_node() { e2e/cluster/node.sh exec 1 "$@"; }

in_cluster() {
    mapfile -t archives < <(e2e/images/build.sh forebay-node forebay-csi forebay-operator forebay-bench)
    trap 'kill %% 2>/dev/null; e2e/cluster/down.sh >&2' EXIT
    eval "$(e2e/cluster/up.sh 1 "${archives[@]}" 2>"$work/up.log" | tail -1)"
    PATH=$(e2e/cluster/build.sh helm):$PATH
    "$FOREBAY_RELEASE/forebay-bench" data "$work/buckets/data" --small "$files" --large 0 >/dev/null
    "$FOREBAY_RELEASE/forebay-bench" serve "$work/buckets" --listen "$machine:0" --ready "$work/endpoint" 2>"$work/serve.log" &
    until [ -s "$work/endpoint" ]; do sleep 0.1; done
    endpoint=$(cat "$work/endpoint")
    helm upgrade --install forebay charts/forebay -n forebay-system --create-namespace -f e2e/cluster/values.yaml --wait --timeout 180s \
        --set "defaultPolicy.spec.allowedSources={s3://*,http://$machine:*}" --set 'defaultPolicy.spec.tiers[0].type=Disk' --set 'defaultPolicy.spec.tiers[0].paths={/var/lib/forebay}' \
        --set 'defaultPolicy.spec.tiers[0].capacity=4Gi' --set 'defaultPolicy.spec.tiers[0].keepFreePercent=0' >/dev/null
    kubectl create namespace bench >/dev/null
    until kubectl -n bench get serviceaccount default >/dev/null 2>&1; do sleep 0.2; done
    kubectl -n bench create secret generic s3 --from-literal=AWS_ACCESS_KEY_ID=forebay --from-literal=AWS_SECRET_ACCESS_KEY=forebay-loopback-only >/dev/null
    from_apply
    in_a_pod
    at_rest
}

rows "what" "figure" "how"
rows --- --- ---
for size in "${sizes[@]}"; do operator_alone "$size"; done
in_cluster
