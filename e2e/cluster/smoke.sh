#!/usr/bin/env bash
# Shows that the cluster of up.sh is one, before a product is blamed for what its ground lacks.
#
#   smoke.sh [ARCHIVE]      ARCHIVE: the image of forebay-node (images/build.sh prints it), to run it in pods, too
set -euo pipefail
. "$(dirname "$0")/common.sh"
export KUBECONFIG=$admin
archive=${1:-}
passed() { printf 'ok %3d s  %s\n' "$SECONDS" "$*"; }
nodes=$(kubectl get nodes -o name | wc -l)
in_client() { kubectl exec client -- "$@"; }

clean() {
    kubectl delete --ignore-not-found --wait=true -f "$harness/manifests/network.yaml" -f "$harness/manifests/forebay-node.yaml" >/dev/null
    kubectl delete --ignore-not-found apiservice v1.reach.forebay.test >/dev/null
}
trap clean EXIT

kubectl apply -f "$harness/manifests/network.yaml" >/dev/null
kubectl rollout status daemonset/web --timeout=120s >/dev/null
kubectl wait --for=condition=Ready pod/client --timeout=60s >/dev/null
passed "a pod on each of $nodes nodes, as uid $(in_client id -u), with probes and exec"

# Python, since Debian's busybox crashes in `wget -T`.
every_node_answers() {
    local answers
    answers=$(in_client python3 -c '
import urllib.request as web
for _ in range(60): print(web.urlopen("http://web.default.svc.cluster.local/index.html", timeout=2).read().decode().strip())')
    [ "$(sort -u <<<"$answers" | wc -l)" = "$nodes" ]
}
wait_for "an answer of every node through the Service" 60 every_node_answers
passed "the Service by its DNS name reaches the pods of all nodes"

in_client python3 -c '
import ssl, urllib.request as web
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
ask = web.Request("https://kubernetes.default.svc/version", headers={"Authorization": "Bearer " + open(folder + "token").read()})
print(web.urlopen(ask, context=ssl.create_default_context(cafile=folder + "ca.crt"), timeout=10).read().decode())' | grep -q gitVersion
passed "the API server from a pod, with its token and the cluster's CA"

# An APIService makes the API server dial a Service, as a webhook would: it gets an answer, and complains that it isn't HTTPS.
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.reach.forebay.test}
spec: {group: reach.forebay.test, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: web, namespace: default, port: 80}}
YAML
dialled() { kubectl get apiservice v1.reach.forebay.test -o 'jsonpath={.status.conditions[0].message}' | grep 'HTTP response to HTTPS client'; }
wait_for "the API server to dial a Service" 30 dialled
passed "a Service from the API server"

if [ -n "$archive" ]; then
    "$harness/load.sh" "$archive"
    passed "forebay-node's image on every node"
    kubectl apply -f "$harness/manifests/forebay-node.yaml" >/dev/null
    kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/version --timeout=60s >/dev/null
    kubectl logs version | grep -q '^forebay-node [0-9]'
    passed "$(kubectl logs version) without root, capabilities or a writable root"
    kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/reader --timeout=90s >/dev/null
    [ "$(kubectl logs reader | grep -c ': OK$')" = 8 ]
    passed "its FUSE mount in one pod, read and checked by another as uid $(kubectl logs reader | tail -n 1)"
    if grep /smoke/ /proc/mounts; then die "the mount is on the machine itself"; fi
    kubectl delete pod mounter >/dev/null
    unmounted() { ! "$harness/node.sh" exec 1 grep /smoke/mount /proc/mounts; }
    wait_for "the mount's end" 30 unmounted
    passed "no mount left, none ever on the machine itself"
fi
