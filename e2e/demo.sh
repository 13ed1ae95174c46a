#!/usr/bin/env bash
# From nothing to a pod that reads: a Kubernetes of one node on this machine, an S3 server, the chart, a Dataset, a pod that reads every file. What the
# pod read is compared with what the server has. Stays up, to be looked at; `demo.sh stop` ends it all.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=/var/tmp/forebay-pod-demo
machine=10.213.0.1

stop() {
	[ ! -f "$folder/server.pid" ] || kill "$(cat "$folder/server.pid")" 2>/dev/null || true
	e2e/cluster/down.sh
	rm -rf "$folder"
}
[ "${1:-}" != stop ] || { stop; exit; }
: "${FOREBAY_RELEASE:?run it by make pod-demo}"
stop 2>/dev/null

step() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

step "A cluster of one node, with Forebay's images"
mapfile -t archives < <(e2e/images/build.sh forebay-node forebay-csi forebay-operator)
settings=$(e2e/cluster/up.sh 1 "${archives[@]}" | tail -1)
eval "$settings"
PATH=$(e2e/cluster/build.sh helm):$PATH

step "An S3 server on this machine, with a bucket of 2,000 files"
mkdir -p "$folder"
"$FOREBAY_RELEASE/forebay-bench" data "$folder/buckets/my-bucket" --small 2000 --large 0 >/dev/null
setsid "$FOREBAY_RELEASE/forebay-bench" serve "$folder/buckets" --listen "$machine:0" --ready "$folder/endpoint" >"$folder/server.log" 2>&1 &
echo $! >"$folder/server.pid"
until [ -s "$folder/endpoint" ]; do sleep 0.1; done
endpoint=$(cat "$folder/endpoint")

step "helm install"
helm install forebay charts/forebay --namespace forebay-system --create-namespace -f e2e/cluster/values.yaml --wait --timeout 180s \
	--set "defaultPolicy.spec.allowedSources={s3://*,$endpoint}" >"$folder/helm.log"
head -1 "$folder/helm.log"

step "The Secret, the Dataset, the pod"
until kubectl get serviceaccount default >/dev/null 2>&1; do sleep 0.2; done
kubectl create secret generic s3 --from-literal=AWS_ACCESS_KEY_ID=forebay --from-literal=AWS_SECRET_ACCESS_KEY=forebay-loopback-only
cat >"$folder/dataset.yaml" <<YAML
apiVersion: forebay.dev/v1alpha1
kind: Dataset
metadata: { name: imagenet }
spec:
  source: s3://my-bucket/
  secretRef: { name: s3 }
  s3: { endpoint: "$endpoint", region: us-east-1, addressing: Path }
  preload: { when: Once }
YAML
cat >"$folder/pod.yaml" <<'YAML'
apiVersion: v1
kind: Pod
metadata: { name: train }
spec:
  restartPolicy: Never
  securityContext: { runAsUser: 1000, runAsNonRoot: true }
  containers:
    - name: main
      image: localhost/tools:e2e
      imagePullPolicy: Never
      command: [sh, -c, "cd /data && find . -type f | LC_ALL=C sort | xargs cat | sha256sum; find . -type f | wc -l"]
      volumeMounts: [{ name: data, mountPath: /data, readOnly: true }]
  volumes: [{ name: data, persistentVolumeClaim: { claimName: imagenet, readOnly: true } }]
YAML
cat "$folder/dataset.yaml" "$folder/pod.yaml"
show kubectl apply -f "$folder/dataset.yaml" -f "$folder/pod.yaml"
show kubectl wait dataset/imagenet --for=condition=Warm --timeout=120s
show kubectl wait pod/train --for=jsonpath='{.status.phase}'=Succeeded --timeout=120s
show kubectl get datasets
show kubectl logs train
there=$(cd "$folder/buckets/my-bucket" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum)
read=$(kubectl logs train | sed -n 1p)
[ "$there" = "$read" ] || { echo "the pod read other bytes than the bucket has: $there" >&2; exit 1; }

step "Every byte is what the bucket has. Look around, and end it by make pod-demo-stop:"
echo "$settings"
