#!/usr/bin/env bash
# Compares rclone and s3fs (Debian's packages) with the local folder, by the same client as everything else.
# usage: other-systems.sh FOREBAY-BENCH FOLDER [WORKLOAD...]     FOLDER is the one of `make bench`: its buckets/ are served and read.
set -euo pipefail
bench=${1:?path of forebay-bench}
folder=$(realpath "${2:?folder of the bench}")
shift 2
workloads=("$@")
[ ${#workloads[@]} -gt 0 ] || workloads=(files:1 files:8)
local=$folder/buckets/bench/small
[ -d "$local" ] || { echo "other-systems: $local is missing: run 'make bench ROWS=steady' first"; exit 1; }

command -v rclone >/dev/null && command -v s3fs >/dev/null || {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rclone s3fs fuse3
}

work=$(mktemp -d)
server=
clean() {
    for place in "$work/rclone" "$work/s3fs"; do mountpoint -q "$place" && umount "$place" || true; done
    [ -n "$server" ] && kill "$server" || true
    rm -rf "$work"
}
trap clean EXIT
"$bench" serve "$folder/buckets" --ready "$work/endpoint" >"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 600); do [ -s "$work/endpoint" ] && break; sleep 0.1; done
endpoint=$(cat "$work/endpoint")
mkdir "$work/rclone" "$work/s3fs" "$work/rclone-cache" "$work/s3fs-cache"

RCLONE_CONFIG=/dev/null RCLONE_CONFIG_S_TYPE=s3 RCLONE_CONFIG_S_PROVIDER=Other RCLONE_CONFIG_S_ENDPOINT=$endpoint \
    RCLONE_CONFIG_S_ACCESS_KEY_ID=forebay RCLONE_CONFIG_S_SECRET_ACCESS_KEY=forebay-loopback-only \
    rclone mount s:bench/small "$work/rclone" --daemon --read-only --allow-other --vfs-cache-mode full --cache-dir "$work/rclone-cache" \
    --vfs-cache-max-size 100G --dir-cache-time 1h --attr-timeout 1h
(umask 077; echo forebay:forebay-loopback-only >"$work/s3fs-password")
s3fs bench:/small "$work/s3fs" -o "passwd_file=$work/s3fs-password,url=$endpoint,use_path_request_style,use_cache=$work/s3fs-cache,ro,allow_other,stat_cache_expire=3600"

for system in rclone s3fs; do
    pid=$(pgrep -n -f "$work/$system" || true)
    for workload in "${workloads[@]}"; do
        echo "== $system $workload (each side warmed by the dropped first round)"
        "$bench" compare --control "$local" --candidate "$work/$system" --workload "$workload" ${pid:+--pid "$pid"}
    done
done
