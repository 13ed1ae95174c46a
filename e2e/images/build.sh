#!/usr/bin/env bash
# Builds container images without a container engine, or takes them from the cache, and prints the path of each one's OCI archive.
#
#   build.sh NAME[=TAG]...
#
# NAME is one of Forebay's programs (forebay-node, forebay-csi, forebay-operator; taken from $FOREBAY_RELEASE, where `make release` puts
# them), or one of the test cluster's own images: pause, tools, coredns. The image is called localhost/NAME:TAG, `e2e` if no TAG is said;
# two tags of one program make an upgrade.
#   BASE        what the programs' images are built on: a reference or `oci-archive:FILE`; if not said, a base made here of this machine's
#               own Debian packages, since that always has the C library that the programs were linked with and needs no registry
#   ARCH        amd64 or arm64, this machine's if not said; the programs in $FOREBAY_RELEASE have to be of it. Nothing of a program's
#               image is run while it is built, so any machine can build both.
# An archive's name carries a hash of all that goes into it. It appears by rename, complete or not at all.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
. "$top/e2e/cluster/common.sh"

need buildah:buildah mmdebstrap:mmdebstrap binutils:strip
cache=${XDG_CACHE_HOME:-$HOME/.cache}/forebay/images
mkdir -p "$cache"
work=$(mktemp -d "$cache/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The programs need the C library and the authorities that sign public certificates. The shell isn't the static one, whose C library crashes
# when it looks up a name.
base_packages=(libc6 libgcc-s1 ca-certificates)
tools_packages=("${base_packages[@]}" busybox python3)
pause_packages=(catatonit)

machine=$(dpkg --print-architecture)
arch=${ARCH:-$machine}

image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
hash_of() { sha256sum | cut -c1-16; }
sources() { find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) 2>/dev/null; }

# build KEY NAME TAG CONTEXT CONTAINERFILE [BUDFLAG...] : prints the archive.
build() {
    local archive=$cache/$2-$3-$1.tar name=$2 tag=$3 context=$4 file=$5
    shift 5
    if [ ! -f "$archive" ]; then
        image bud --isolation chroot --arch "$arch" --quiet --timestamp 0 --tag "localhost/$name:$tag" --file "$file" "$@" "$context" >/dev/null
        image push --quiet "localhost/$name:$tag" "oci-archive:$work/$name.tar:localhost/$name:$tag" >&2
        mv "$work/$name.tar" "$archive"
        find "$cache" -maxdepth 1 -name "$name-$tag-*.tar" -mtime +7 -delete
    fi
    echo "$archive"
}

# unpack FOLDER PACKAGE... : a root made of Debian's packages and what they depend on, unpacked, none of their scripts run.
unpack() {
    local folder=$1 codename
    shift
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2046
    mmdebstrap --quiet --variant=extract --architectures="$arch" --format=tar --include="$(IFS=,; echo "$*")" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$codename" "$work/root.tar" $(sources) >&2
    mkdir -p "$folder"
    tar --extract --file "$work/root.tar" --directory "$folder" --exclude='./dev/*' --exclude='./var/cache/*' --exclude='./var/lib/apt/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./etc/apt/*'
    rm "$work/root.tar"
}

# What the packages' scripts would have done, and a user who isn't root under the number that distroless gives it.
furnish() {
    mkdir -p "$1/etc/ssl/certs" "$1/tmp"
    chmod 1777 "$1/tmp"
    find "$1/usr/share/ca-certificates" -name '*.crt' -print0 | sort -z | xargs -0 cat >"$1/etc/ssl/certs/ca-certificates.crt"
    printf '%s\n' root:x:0:0:root:/root:/bin/sh nonroot:x:65532:65532:nonroot:/nonexistent:/bin/sh >"$1/etc/passwd"
    printf '%s\n' root:x:0: nonroot:x:65532: >"$1/etc/group"
}

# packages_key PACKAGE... : what an image of these packages depends on: their versions, and how it is made.
packages_key() {
    { echo "$arch"; apt-cache policy "$@" | grep -E '^[^ ]|Candidate'; declare -f build unpack furnish tools; cat "$here"/Containerfile.*; } | hash_of
}

base() {
    local key
    key=$(packages_key "${base_packages[@]}")
    if [ ! -f "$cache/base-e2e-$key.tar" ]; then
        unpack "$work/base" "${base_packages[@]}"
        furnish "$work/base"
    fi
    build "$key" base e2e "$work/base" "$here/Containerfile.root"
}

tools() {
    local key
    key=$(packages_key "${tools_packages[@]}")
    if [ ! -f "$cache/tools-$1-$key.tar" ]; then
        unpack "$work/tools" "${tools_packages[@]}"
        furnish "$work/tools"
        local applet
        for applet in $("$work/tools/bin/busybox" --list); do
            [ -e "$work/tools/bin/$applet" ] || [ -e "$work/tools/usr/bin/$applet" ] || ln -s busybox "$work/tools/bin/$applet"
        done
    fi
    build "$key" tools "$1" "$work/tools" "$here/Containerfile.root"
}

pause() {
    local key
    key=$(packages_key "${pause_packages[@]}")
    [ -f "$cache/pause-$1-$key.tar" ] || unpack "$work/pause" "${pause_packages[@]}"
    build "$key" pause "$1" "$work/pause" "$here/Containerfile.pause"
}

coredns() {
    local programs key
    programs=$("$top/e2e/cluster/build.sh" coredns)
    key=$({ basename "$programs"; declare -f build; cat "$here/Containerfile.coredns"; } | hash_of)
    build "$key" coredns "$1" "$programs" "$here/Containerfile.coredns"
}

program() {
    local name=$1 tag=$2 room=$3 binary=${FOREBAY_RELEASE:?says where the programs are: make release}/$1 key parent=${BASE:-}
    [ -x "$binary" ] || die "$binary isn't there; make release builds it"
    [ -n "$parent" ] || parent=oci-archive:$(base)
    key=$({ echo "$arch $parent"; declare -f build; cat "$binary" "$top/$room/Containerfile"; } | hash_of)
    mkdir -p "$work/$name"
    # Symbols stay, for readable backtraces; what only a debugger reads goes: it is most of the file.
    if [ -f "$cache/$name-$tag-$key.tar" ]; then
        : # nothing to put into it
    elif [ "$arch" = "$machine" ]; then
        strip --strip-debug -o "$work/$name/$name" "$binary"
    else
        cp "$binary" "$work/$name/$name"
    fi
    build "$key" "$name" "$tag" "$work/$name" "$top/$room/Containerfile" --build-arg "BASE=$parent"
}

[ $# -gt 0 ] || die "which images?"
for wanted; do
    name=${wanted%%=*} tag=e2e
    [ "$name" = "$wanted" ] || tag=${wanted#*=}
    case $name in
        pause | tools | coredns) "$name" "$tag" ;;
        forebay-node) program "$name" "$tag" cache-node ;;
        forebay-csi) program "$name" "$tag" csi-driver ;;
        forebay-operator) program "$name" "$tag" operator ;;
        forebay-bench) program "$name" "$tag" bench ;;
        *) die "no image is called $name" ;;
    esac
done
