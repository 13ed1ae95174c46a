#!/usr/bin/env bash
# Builds Forebay's programs for machines of another kind, by Debian's cross compiler and Rust's own standard library for it, and prints the
# folder that has them. What is built is what `make images` builds for this machine; nothing of it is run here.
#
#   cross.sh amd64|arm64 TARGET-FOLDER PROGRAM...
#
# The programs are linked with the C library of this machine's distribution, as those for this machine are.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../cluster/common.sh"

arch=$1 folder=$2
shift 2
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) die "no images are made for $arch: amd64 or arm64" ;;
esac
target=$machine-unknown-linux-gnu
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    tools=$machine-linux-gnu
    need "gcc-${tools//_/-}:$tools-gcc" "libc6-dev-$arch-cross:$tools-gcc"
    rustc --print target-libdir --target "$target" | xargs test -d || rustup target add "$target" >&2
    variable=${target//-/_}
    export "CC_$variable=$tools-gcc" "AR_$variable=$tools-ar" "CARGO_TARGET_${variable^^}_LINKER=$tools-gcc"
fi
"${CARGO:-cargo}" build --release --locked --bins --target "$target" --target-dir "$folder" "${@/#/-p}" >&2
echo "$folder/$target/release"
