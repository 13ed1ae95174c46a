#!/usr/bin/env bash
# Runs a command as the user `nobody`, who can reach the folders given even where one above them is root's alone (as ~ often is).
#   as_nobody.sh FOLDER... -- COMMAND...
# In a mount namespace of its own, each closed folder is covered by an empty one, in which the folders given appear again. Nothing changes outside.
set -euo pipefail

if [ "${1:-}" != --in-namespace ]; then
    [ "$(id -u)" = 0 ] || { echo "as_nobody.sh: only root can become another user" >&2; exit 77; }
    exec unshare --mount --propagation private -- bash "$0" --in-namespace "$@"
fi
shift
folders=()
while [ "$1" != -- ]; do folders+=("$(realpath "$1")"); shift; done
shift

# The topmost folder above $1 that others may not enter; nothing where all are open.
closed_above() {
    local found='' at=$1
    while [ "$at" != / ]; do
        [ $((0$(stat -c %a "$at") & 1)) = 1 ] || found=$at
        at=$(dirname "$at")
    done
    echo "$found"
}

stage=$(mktemp -d)
mount -t tmpfs -o mode=0755 tmpfs "$stage"
covered=()
for at in "${!folders[@]}"; do
    closed=$(closed_above "${folders[at]}")
    [ -n "$closed" ] || continue
    [ "$closed" != "${folders[at]}" ] || { echo "as_nobody.sh: others may not enter $closed itself" >&2; exit 77; }
    covered[at]=$closed
    mkdir "$stage/$at"
    mount --rbind "${folders[at]}" "$stage/$at"
done
printf '%s\n' "${covered[@]}" | sort -u | while read -r closed; do
    [ -z "$closed" ] || mount -t tmpfs -o mode=0755 tmpfs "$closed"
done
for at in "${!covered[@]}"; do
    mkdir -p "${folders[at]}"
    mount --rbind "$stage/$at" "${folders[at]}"
done
export HOME=/tmp
cd /
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
