#!/usr/bin/env bash
# A real API server with its etcd and nothing else, for tests of CRDs and of the operator: no kubelet, no controllers, no root needed.
# Each has a folder and ports of its own, so that many can run at once.
#
#   envtest.sh run COMMAND...       runs the command with KUBECONFIG set, and ends the server with it
#   envtest.sh up FOLDER            starts one that stays, prints the path of its kubeconfig; the folder must be new or empty
#   envtest.sh kubeconfig FOLDER    prints that path again
#   envtest.sh down FOLDER          ends it and removes the folder
#
# The user of the kubeconfig may do everything; what somebody else may do is asked with `--as`. Nothing deletes by owner references here,
# and a namespace never ends: both are the controller manager's.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# use FOLDER : the names that common.sh's functions read, for this server.
use() {
    root=$(readlink -m "$1")
    logs=$root running=$root/running
}

free_port() {
    local port
    while :; do
        port=$(shuf -i 20000-30000 -n 1)
        # Nobody answers there, so nobody listens.
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

write_secrets() {
    need openssl:openssl curl:curl
    openssl ecparam -name prime256v1 -genkey -noout -out "$root/accounts.key"
    openssl ec -in "$root/accounts.key" -pubout -out "$root/accounts.pub" 2>/dev/null
    local token
    token=$(openssl rand -hex 16)
    (umask 077 && echo "$token,admin,admin,system:masters" >"$root/tokens.csv" && echo "header = \"Authorization: Bearer $token\"" >"$root/curl.conf")
}

# try_start SECONDS : false if one of the two ended, most likely since somebody else took its port in the meantime.
try_start() {
    local etcd peers port
    etcd=$(free_port) peers=$(free_port) port=$(free_port)
    spawn etcd etcd --name forebay --data-dir "$root/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
        --listen-peer-urls "http://127.0.0.1:$peers" --initial-advertise-peer-urls "http://127.0.0.1:$peers" \
        --initial-cluster "forebay=http://127.0.0.1:$peers"
    # It signs its own certificate: the file holds it and its authority.
    spawn kube-apiserver kube-apiserver --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$port" \
        --cert-dir="$root/serving" --etcd-servers="http://127.0.0.1:$etcd" --token-auth-file="$root/tokens.csv" \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$root/accounts.pub" \
        --service-account-signing-key-file="$root/accounts.key" --service-cluster-ip-range=10.0.0.0/24 \
        --authorization-mode=RBAC --disable-admission-plugins=ServiceAccount --allow-privileged=true --profiling=false
    ended_or_ready() { gone etcd || gone kube-apiserver || ready "$port"; }
    wait_for "the API server, see $root/*.log" "$1" ended_or_ready || return 1
    ready "$port" >/dev/null || return 1
    (umask 077 && cat >"$root/kubeconfig") <<YAML
apiVersion: v1
kind: Config
clusters: [{name: envtest, cluster: {server: "https://127.0.0.1:$port", certificate-authority: $root/serving/apiserver.crt}}]
users: [{name: admin, user: {token: $(cut -d, -f1 "$root/tokens.csv")}}]
contexts: [{name: envtest, context: {cluster: envtest, user: admin}}]
current-context: envtest
YAML
}
ready() {
    curl --silent --fail --max-time 5 --config "$root/curl.conf" --cacert "$root/serving/apiserver.crt" "https://127.0.0.1:$1/readyz"
}

up() {
    mkdir -p "$root"
    [ -z "$(ls -A "$root")" ] || die "$root isn't empty; down removes a former one"
    mkdir "$running"
    PATH=$("$harness/build.sh" hyper):$PATH
    write_secrets
    local attempt
    for attempt in 1 2 3; do
        try_start 120 && return
        echo "envtest.sh: attempt $attempt failed" >&2
        stop kube-apiserver
        stop etcd
        rm -rf "$root/etcd"
    done
    tail -n 5 "$root"/*.log >&2
    return 1
}

down() {
    [ -d "$running" ] || return 0
    stop kube-apiserver 1
    stop etcd 1
    rm -rf "$root"
}

case ${1:-}:$# in
    run:1 | run:0) die "run what?" ;;
    run:*)
        shift
        folder=$(mktemp -d "${TMPDIR:-/tmp}/forebay-envtest.XXXXXX")
        use "$folder"
        spawn_with=(setpriv --pdeathsig KILL) # even if this script is killed, they don't stay
        trap down EXIT
        trap 'exit 130' INT TERM
        up
        KUBECONFIG=$root/kubeconfig "$@"
        ;;
    up:2)
        use "$2"
        up || { down; exit 1; }
        echo "$root/kubeconfig"
        ;;
    kubeconfig:2) [ -f "$2/kubeconfig" ] && readlink -f "$2/kubeconfig" ;;
    down:2)
        use "$2"
        down
        ;;
    *) die "run COMMAND..., up FOLDER, kubeconfig FOLDER or down FOLDER" ;;
esac
