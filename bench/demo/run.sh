#!/usr/bin/env bash
# Real images from a real S3 server through a mount: one epoch cold, one warm, one from a plain local copy; every byte compared.
# Needs Debian or Ubuntu, root (for apt-get and mount), Rust and a C compiler. DEMO_FILES=n takes n images, DEMO_STOP=1 leaves nothing running.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."

files=${DEMO_FILES:-2000}
home=${XDG_CACHE_HOME:-$HOME/.cache}/forebay-demo
release=${FOREBAY_RELEASE:?run this by "make demo"}
node=$release/forebay-node
bench=$release/forebay-bench
python=/usr/bin/python3
mount=$home/data
export FOREBAY_RUN=$home/run
export AWS_ACCESS_KEY_ID=forebay AWS_SECRET_ACCESS_KEY=forebay-loopback-only

target=demo
. bench/demo/lib.sh

stop() {
    if mountpoint -q "$mount"; then "$node" unmount "$mount" || return 1; fi
    stop_server
}

if [ "${1:-}" = stop ]; then
    stop
    echo "The demo is stopped. Its files are in $home; remove them when you like."
    exit 0
fi

left_behind() { echo "the mount at $mount is still there: see $node status $mount"; }
trap failed ERR

mkdir -p "$home"
: >"$home/step.log"

say "check this machine"
[ "$(id -u)" = 0 ] || { echo "the demo installs packages and mounts: run it as root" >"$home/step.log"; false; }
[ -c /dev/fuse ] || { echo "there is no /dev/fuse: modprobe fuse, or give the container --device /dev/fuse" >"$home/step.log"; false; }
command -v apt-get >/dev/null || { echo "the demo takes its images and its PNG decoder from Debian packages: apt-get is missing" >"$home/step.log"; false; }
# The cache below keeps 2 % of the disk free; on a fuller one it would keep nothing, and every epoch would be a cold one.
free=$(df --output=avail -k "$home" | tail -n 1)
[ "$free" -gt $(($(df --output=size -k "$home" | tail -n 1) / 40 + 3000000)) ] || {
    echo "the disk of $home has $((free / 1000000)) GB free: the demo takes 3 GB and leaves 2 % of the disk alone; make room, or set XDG_CACHE_HOME" >"$home/step.log"
    false
}
stop

say "install openclipart-png (131 MB) and Pillow"
if ! dpkg -s openclipart-png python3-pil >/dev/null 2>&1; then
    quiet apt-get update
    quiet env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openclipart-png python3 python3-pil
fi

say "build (release; kept in $(dirname "$release") for the next time)"
if [ "${DEMO_BUILT:-}" != 1 ]; then make --no-print-directory release; fi

say "choose $files images"
rm -rf "$home/control" "$home/buckets" "$home/cache" "$home/run"
mkdir -p "$home/control" "$home/buckets/clipart" "$home/cache" "$home/run" "$mount"
dpkg -L openclipart-png | grep '\.png$' | sort >"$home/images"
total=$(wc -l <"$home/images")
[ "$total" -gt 0 ] || { echo "the package openclipart-png holds no .png file" >"$home/step.log"; false; }
awk -v total="$total" -v wanted="$files" 'int(NR * wanted / total) > int((NR - 1) * wanted / total)' "$home/images" |
    while read -r image; do
        folder=$home/control/$(basename "$(dirname "$image")")
        mkdir -p "$folder"
        # A name may be there twice in folders of the same name: the first wins.
        [ -e "$folder/$(basename "$image")" ] || cp -L "$image" "$folder/"
    done

say "start an S3 server on loopback and fill the bucket"
start_server 127.0.0.1:0
quiet "$bench" put "$home/control" --endpoint "$endpoint" --bucket clipart --prefix train/

say "mount s3://clipart/train/ at $mount"
cat >"$home/dataset.yaml" <<YAML
apiVersion: forebay.dev/v1alpha1
kind: Dataset
metadata: { name: clipart }
spec:
  source: s3://clipart/train/
  s3: { endpoint: "$endpoint", region: us-east-1, addressing: Path }
YAML
cat >"$home/node.yaml" <<YAML
apiVersion: forebay.dev/v1alpha1
kind: NodeConfig
tiers:
  - { path: "$home/cache", capacity: 50%, keepFreePercent: 2 }
YAML
quiet "$node" mount "$home/dataset.yaml" "$mount" --config "$home/node.yaml"

epoch() { "$python" bench/demo/epoch.py decode "$1" "$2" 2>"$home/step.log"; }

before=$(counter)
say "epoch 1 from the mount, cold"
cold=$(epoch "$mount" 1)
say "epoch 2 from the mount, warm"
warm=$(epoch "$mount" 2)
after=$(counter)
say "the same epoch from a plain local copy"
control=$(epoch "$home/control" 2)
say "compare every byte with the local copy"
quiet "$python" bench/demo/epoch.py verify "$mount" "$home/control"

status=$("$node" status "$mount" -o json 2>"$home/step.log")
pid_of() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" <<<"$status" | head -n 1; }
daemon=$(pid_of nodePid)
memory=0
for pid in $daemon $(pid_of holderPid); do
    memory=$((memory + $(awk '/^RssAnon:/ { print $2 }' "/proc/$pid/status")))
done

"$python" - "$cold" "$warm" "$control" "$((after - before))" "$memory" <<'PYTHON'
import json, sys
cold, warm, control = (json.loads(text) for text in sys.argv[1:4])
fetched, memory = int(sys.argv[4]), int(sys.argv[5])
print(f"\n{control['files']} PNGs, {control['bytes'] / 1e6:.0f} MB, read and decoded by Pillow; every byte is the same as in the local copy\n")
print(f"{'epoch':<22}{'files/s':>10}{'MB/s':>10}{'of local':>10}")
for name, run in (("mount, cold", cold), ("mount, warm", warm), ("local copy", control)):
    rate = run["files"] / run["seconds"]
    print(f"{name:<22}{rate:>10.0f}{run['bytes'] / 1e6 / run['seconds']:>10.1f}{rate / (control['files'] / control['seconds']):>10.2f}")
print(f"\nsource bytes / data set bytes after both epochs: {fetched / control['bytes']:.3f}")
print(f"anonymous memory of daemon and holder: {memory / 1024:.0f} MiB")
PYTHON

trap - ERR
if [ "${DEMO_STOP:-}" = 1 ]; then
    stop
    exit 0
fi
cat <<TEXT

The mount stays. Try next:
  FOREBAY_RUN=$FOREBAY_RUN $node status $mount
  kill -9 $daemon; cat $mount/*/* | sha1sum; cat $home/control/*/* | sha1sum      # the daemon dies, no read fails
  make demo-stop
TEXT
