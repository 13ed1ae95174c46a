#!/usr/bin/env bash
# The control plane: etcd, API server, controller manager and scheduler as processes of the machine, outside every node.
#
#   control-plane.sh up             certificates, bridge, all four, and the rights that a cluster begins with
#   control-plane.sh stop NAME      one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler
#   control-plane.sh start NAME
#   control-plane.sh down           all four and the bridge
#
# Tests stop and start single ones: the API server may be away for a minute, the nodes have to live with it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

components=(etcd kube-apiserver kube-controller-manager kube-scheduler)

certificates() {
    cat >"$root/kubeadm.yaml" <<YAML
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $node_net.1, bindPort: 6443}
nodeRegistration: {name: node1}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(kubectl version --client -o yaml | awk '/gitVersion/ { print $2 }')
certificatesDir: $pki
networking: {serviceSubnet: $service_cidr, podSubnet: $pod_cidr}
apiServer: {certSANs: [localhost, 127.0.0.1, $node_net.1]}
encryptionAlgorithm: ECDSA-P256 # ten RSA keys cost seconds
YAML
    kubeadm init phase certs all --config "$root/kubeadm.yaml"
    local who
    for who in admin super-admin controller-manager scheduler; do
        kubeadm init phase kubeconfig $who --config "$root/kubeadm.yaml" --kubeconfig-dir "$root"
    done
}

start() {
    case $1 in
        etcd)
            spawn etcd etcd --name forebay --data-dir "$root/etcd" --log-level warn --unsafe-no-fsync \
                --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 \
                --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
                --initial-cluster forebay=http://127.0.0.1:2380 \
                --cert-file "$pki/etcd/server.crt" --key-file "$pki/etcd/server.key" \
                --client-cert-auth --trusted-ca-file "$pki/etcd/ca.crt"
            ;;
        kube-apiserver)
            # It runs where no kube-proxy is, so it has to find the pods behind a webhook's Service by itself: aggregator routing.
            spawn kube-apiserver kube-apiserver --advertise-address="$node_net.1" --bind-address=0.0.0.0 --secure-port=6443 \
                --etcd-servers=https://127.0.0.1:2379 --etcd-cafile="$pki/etcd/ca.crt" \
                --etcd-certfile="$pki/apiserver-etcd-client.crt" --etcd-keyfile="$pki/apiserver-etcd-client.key" \
                --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
                --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" \
                --kubelet-client-key="$pki/apiserver-kubelet-client.key" --kubelet-preferred-address-types=InternalIP \
                --service-account-issuer=https://kubernetes.default.svc.cluster.local \
                --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
                --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
                --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
                --requestheader-username-headers=X-Remote-User \
                --proxy-client-cert-file="$pki/front-proxy-client.crt" --proxy-client-key-file="$pki/front-proxy-client.key" \
                --service-cluster-ip-range="$service_cidr" --authorization-mode=Node,RBAC \
                --enable-admission-plugins=NodeRestriction --enable-aggregator-routing=true --allow-privileged=true --profiling=false
            KUBECONFIG=$root/super-admin.conf wait_for "the API server" 120 kubectl get --raw /readyz
            ;;
        kube-controller-manager)
            spawn kube-controller-manager kube-controller-manager --kubeconfig="$root/controller-manager.conf" --bind-address=127.0.0.1 \
                --authentication-kubeconfig="$root/controller-manager.conf" --authorization-kubeconfig="$root/controller-manager.conf" \
                --client-ca-file="$pki/ca.crt" --root-ca-file="$pki/ca.crt" \
                --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
                --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --service-account-private-key-file="$pki/sa.key" \
                --use-service-account-credentials=true --leader-elect=false --allocate-node-cidrs=false --node-monitor-grace-period=20s
            ;;
        kube-scheduler)
            spawn kube-scheduler kube-scheduler --kubeconfig="$root/scheduler.conf" --bind-address=127.0.0.1 --leader-elect=false \
                --authentication-kubeconfig="$root/scheduler.conf" --authorization-kubeconfig="$root/scheduler.conf"
            ;;
        *) die "no component is called $1; there are ${components[*]}" ;;
    esac
}

first_rights() {
    KUBECONFIG=$root/super-admin.conf kubectl apply -f - <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:cluster-admins"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "kubeadm:cluster-admins"}]
---
# Since 1.36 the certificate that the API server shows to kubelets has no group of its own: without this exec and logs are forbidden.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:apiserver-kubelet-client"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kubelet-api-admin"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver-kubelet-client}]
YAML
}

up() {
    local n component
    ip link add "$bridge" type bridge
    ip addr add "$node_net.1/24" dev "$bridge"
    ip link set "$bridge" up
    # The machine knows the way to pods: webhooks, the API server's proxy, tests that speak to a pod.
    for n in $(seq $nodes_max); do ip route replace "$(node_pods "$n")" via "$(node_address "$n")" dev "$bridge"; done
    certificates >"$logs/kubeadm.log" 2>&1 || die "no certificates, see $logs/kubeadm.log"
    for component in etcd kube-apiserver; do start $component; done
    first_rights >"$logs/first-rights.log"
    for component in kube-controller-manager kube-scheduler; do start $component; done
    KUBECONFIG=$admin wait_for "the default service account" 60 kubectl -n default get serviceaccount default
}

down() {
    local component
    for component in "${components[@]}"; do stop "$component" 1 & done # nothing of it is needed again
    wait
    ip link del "$bridge" 2>/dev/null || true
}

case ${1:-} in
    up | down) "$1" ;;
    start | stop) "$1" "$2" ;;
    *) die "up, down, start NAME or stop NAME" ;;
esac
