#!/usr/bin/env bash
# Builds the programs of the test cluster from Go modules, or takes them from the cache.
#
#   build.sh [PROGRAM...]     hyper, helm, coredns, csi-sanity; all of them if none is said
#
# Prints the folder that holds them. Its name is a hash of all that decides their bytes, so another Kubernetes is another folder, and a
# program that is there is right. It gets there by rename, complete or not at all; a second caller waits for the first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

command -v go >/dev/null || { echo "build.sh: Go $(awk '$1 == "go" { print $2 }' go.mod) or newer is needed, from go.dev/dl" >&2; exit 1; }
export CGO_ENABLED=0 GOWORK=off GOFLAGS="${GOFLAGS:-} -mod=readonly -buildvcs=false -trimpath"

package_of() {
    case $1 in
        hyper) echo ./hyper ;;
        coredns) echo ./coredns ;;
        helm) echo helm.sh/helm/v3/cmd/helm ;;
        csi-sanity) echo github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity ;;
        *) echo "build.sh: no program is called $1" >&2; return 64 ;;
    esac
}

version_of() { awk -v module="$1" '$1 == module { print $2 }' go.mod; }

# Kubernetes and Helm read versions from variables that only the linker can set. Without them a kubelet says v0.0.0, kubeadm refuses, and Helm
# renders charts for Kubernetes 1.20.
linker_flags() {
    local version minor package value
    version=$(version_of k8s.io/kubernetes)
    minor=$(cut -d. -f2 <<<"$version")
    printf -- '-s -w'
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        for value in "gitVersion=$version" gitMajor=1 "gitMinor=$minor" gitTreeState=clean gitCommit=unknown \
            buildDate=2026-01-01T00:00:00Z; do printf ' -X %s.%s' "$package" "$value"; done
    done
    for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
        printf ' -X %s.%s' "$package" k8sVersionMajor=1 "$package" "k8sVersionMinor=$minor"
    done
    printf ' -X helm.sh/helm/v3/internal/version.version=%s' "$(version_of helm.sh/helm/v3)"
}

flags=$(linker_flags)
key=$({ go version; go env GOOS GOARCH GOAMD64 GOARM64; echo "$flags"; cat go.mod go.sum hyper/main.go coredns/main.go; } | sha256sum | cut -c1-16)
out=${XDG_CACHE_HOME:-$HOME/.cache}/forebay/cluster/$key
mkdir -p "$out"
[ $# -gt 0 ] || set -- hyper helm coredns csi-sanity
for program; do
    package=$(package_of "$program")
    [ ! -x "$out/$program" ] || continue
    exec 9>"$out/.$program.lock"
    flock 9
    [ ! -x "$out/$program" ] || continue
    echo "build.sh: building $program, once for these versions" >&2
    go build -ldflags "$flags" -o "$out/.$program.part" "$package" >&2
    mv "$out/.$program.part" "$out/$program"
done
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubeadm kubectl; do
    [ -L "$out/$name" ] || ln -sfn hyper "$out/$name"
done
echo "$out"
