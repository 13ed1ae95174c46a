#!/usr/bin/env bash
# Starts the program of each image, as the image has it: with its base, its user and nothing else of this machine. One of another machine runs under
# qemu's emulation of its instructions.
#
#   check.sh amd64|arm64 ARCHIVE...
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../cluster/common.sh"

arch=$1
shift
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) die "no images are made for $arch: amd64 or arm64" ;;
esac
need buildah:buildah
work=$(mktemp -d)
image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
trap 'image umount --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

emulator=
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    need "qemu-user-static:qemu-$machine-static"
    emulator=/qemu
fi

[ $# -gt 0 ] || die "which images?"
for archive; do
    container=$(image from "oci-archive:$archive")
    said=$(image inspect --format '{{.OCIv1.Architecture}} {{.OCIv1.Config.User}} {{index .OCIv1.Config.Entrypoint 0}}' "$container")
    read -r of user program <<<"$said"
    [ "$of" = "$arch" ] || die "$archive is of $of, not of $arch"
    root=$(image mount "$container")
    [ -z "$emulator" ] || cp "/usr/bin/qemu-$machine-static" "$root$emulator"
    version=$(chroot --userspec="$user" "$root" $emulator "$program" --version)
    echo "$(basename "$archive"): $of, as $user: $version"
    image rm "$container" >/dev/null
done
