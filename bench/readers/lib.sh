# Sourced by the scripts beside it: starts the S3 server, mounts a bucket with the real forebay-node, and takes all of it down again.
# Sets: here, scratch (removed at the end), endpoint. Reads: FOREBAY_BIN, the folder of the two binaries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(realpath -m "${FOREBAY_BIN:-$here/../../target/debug}")
server=''
mounted=()

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
give_up() { say "$2"; exit "$1"; }

[ "$(id -u)" = 0 ] || give_up 77 "mounting needs root: run it as root"
[ -e /dev/fuse ] || give_up 77 "this machine has no /dev/fuse: load the module fuse, or give it to the container"
for program in forebay-node forebay-bench; do
    [ -x "$bin/$program" ] || give_up 69 "no $program in $bin: run \`make build\`, or name its folder in FOREBAY_BIN"
done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/forebay-readers.XXXXXX")
chmod 755 "$scratch"
export FOREBAY_RUN=$scratch/run
# The server on loopback knows these two and no others (bench/src/serve.rs).
export AWS_ACCESS_KEY_ID=forebay AWS_SECRET_ACCESS_KEY=forebay-loopback-only
mkdir -p "$FOREBAY_RUN"

clean_up() {
    local status=$? at
    set +e
    for at in "${mounted[@]}"; do
        if mountpoint -q "$at"; then "$bin/forebay-node" unmount "$at" >/dev/null || umount "$at"; fi
    done
    for at in $(awk -v below="$scratch/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r); do umount "$at"; done
    [ -z "$server" ] || { kill "$server"; wait "$server"; } 2>/dev/null
    if [ "$status" != 0 ] && [ -d "$FOREBAY_RUN" ]; then
        say "failed; the last lines of the node's logs:"
        find "$FOREBAY_RUN" -name 'log*' -type f -exec tail -n 40 {} + >&2
    fi
    # Nothing is removed through a mount that is still there.
    if grep -q " $scratch/" /proc/mounts; then say "$scratch stays: something below it is still mounted"; else rm -rf "$scratch"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# serve FOLDER: every folder below FOLDER becomes a bucket.
serve() {
    "$bin/forebay-bench" serve "$1" --ready "$scratch/endpoint" >/dev/null &
    server=$!
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if [ -s "$scratch/endpoint" ]; then
            endpoint=$(cat "$scratch/endpoint")
            return
        fi
        kill -0 "$server" 2>/dev/null || give_up 1 "the S3 server ended before it listened"
        sleep 0.05
    done
    give_up 1 "the S3 server did not listen within 30 s"
}

# describe NAME URI [LINES OF NODE.YAML]: writes NAME's two files below $scratch/NAME; its cache is beside them.
describe() {
    local s3=''
    mkdir -p "$scratch/$1/cache"
    case $2 in s3:*) s3="  s3: { endpoint: \"$endpoint\", region: us-east-1, addressing: Path }" ;; esac
    cat >"$scratch/$1/dataset.yaml" <<END
apiVersion: forebay.dev/v1alpha1
kind: Dataset
metadata: { name: $1 }
spec:
  source: "$2"
$s3
END
    cat >"$scratch/$1/node.yaml" <<END
apiVersion: forebay.dev/v1alpha1
kind: NodeConfig
tiers:
  - { path: "$scratch/$1/cache", keepFreePercent: 2 }
${3:-}
END
}

# mount_dataset NAME FOLDER
mount_dataset() {
    mkdir -p "$2"
    mounted+=("$2")
    "$bin/forebay-node" mount "$scratch/$1/dataset.yaml" "$2" --config "$scratch/$1/node.yaml"
}

unmount_dataset() { "$bin/forebay-node" unmount "$1"; }

# counted FIELD: what the S3 server has handed out so far: gets, lists, heads, body_bytes.
counted() {
    python3 -c 'import json, sys, urllib.request; print(json.load(urllib.request.urlopen(sys.argv[1] + "/_counters"))[sys.argv[2]])' "$endpoint" "$1"
}
