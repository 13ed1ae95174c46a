#!/usr/bin/env bash
# Ends the cluster that up.sh started, or as much of it as came to be, and looks whether anything is left. Takes the logs with it;
# `down.sh keep` leaves the folder.
set -uo pipefail
. "$(dirname "$0")/common.sh"
failed=0 ends=()
mkdir -p "$running" "$logs" # also where only pieces are left

for n in $(seq $nodes_max); do
    if [ -e "$running/node$n" ] || [ -e "/run/netns/$(netns_of "$n")" ] || [ -e "/sys/class/net/${prefix}v$n" ]; then
        "$harness/node.sh" down "$n" &
        ends+=($!)
    fi
done
for end in "${ends[@]}"; do wait "$end" || failed=1; done
"$harness/control-plane.sh" down || failed=1
ip link del "$bridge" 2>/dev/null
for folder in $(cgroup_folders); do find "$folder/$prefix" -depth -type d -exec rmdir {} + 2>/dev/null; done

left() {
    grep -F "$root" /proc/mounts
    ip -o link show | grep -F "$prefix"
    ip netns list | grep -F "$prefix-"
    for folder in $(cgroup_folders); do ls -d "$folder/$prefix" 2>/dev/null; done
    pgrep -af -- "(-c|--config|--data-dir)[ =]$root/"
}
if [ -n "$(left)" ]; then
    echo "down.sh: something is left:" >&2
    left >&2
    failed=1
fi
[ $failed = 0 ] || exit 1
if [ "${1:-}" = keep ]; then rm -rf "$running"; else rm -rf "$root"; fi
