#!/usr/bin/env bash
# Real readers on a real mount, as a user other than root: cold, warm, with the page cache dropped, and after a new mount over the kept cache.
# Each is compared value for value with a plain local copy; then random ranges are compared from many threads. `make readers` runs it.
#   readers.sh        the light ones; with FOREBAY_TORTURE set also PyTorch and WebDataset, more data, and the other serving mode
set -euo pipefail
. "$(dirname "$0")/lib.sh"

torture=${FOREBAY_TORTURE:-}
if [ -n "$torture" ]; then
    venv=$("$here/venv.sh" requirements-torch.txt)
    scale=4 flags=(--torch) check_seconds=60 modes=(Auto Open NoOpen)
else
    venv=$("$here/venv.sh" requirements.txt)
    scale=1 flags=() check_seconds=3 modes=(Auto)
fi
python=$venv/bin/python
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here
base=$("$python" -c 'import sys; print(sys.base_prefix)')

say "making the data"
"$python" "$here/make_data.py" "$scratch/buckets/readers" --scale "$scale"
cp -r "$scratch/buckets/readers" "$scratch/local"
# The control is as read-only as the mount is, yet by a bind mount: permission bits that forbid nothing let it answer EROFS where the mount does.
chmod -R a+rwX "$scratch/local"
mount --bind "$scratch/local" "$scratch/local"
mount -o remount,bind,ro "$scratch/local"
data_bytes=$(find "$scratch/local" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
serve "$scratch/buckets"

examples=$(cd "$here/../../examples/training" && pwd)
as_nobody() { "$here/as_nobody.sh" "$venv" "$base" "$here" "$examples" "$bin" "$scratch" -- "$@"; }

# An example of examples/training: prints the same over the mount as over the copy.
example() {
    local name=$1 place=$2 expected got
    shift 2
    expected=$(as_nobody "$python" "$examples/$name.py" "$scratch/local/$place" "$@")
    got=$(as_nobody "$python" "$examples/$name.py" "$scratch/mount/$place" "$@")
    echo "$name: $got"
    [ "$got" = "$expected" ] || give_up 1 "$name printed over the mount: $got; over the copy: $expected"
}
read_all() {
    as_nobody "$python" "$here/readers.py" --local "$scratch/local" --mount "$scratch/mount" --pass "$1" "${flags[@]}"
}

for mode in "${modes[@]}"; do
    name=readers-${mode,,}
    describe "$name" s3://readers/ "serving: $mode"
    before=$(counted body_bytes)
    mount_dataset "$name" "$scratch/mount"
    read_all "$mode, cold"
    read_all "$mode, warm"
    "$python" -c 'import sys, readers; readers.drop_pages(sys.argv[1])' "$scratch/mount"
    read_all "$mode, pages dropped"
    unmount_dataset "$scratch/mount"
    mount_dataset "$name" "$scratch/mount"
    read_all "$mode, mounted again"
    example parquet tables/parts id value
    example safetensors_mmap weights/model.safetensors
    if [ -n "$torture" ]; then
        example imagefolder images 3
        example webdataset_shards shards
    fi
    as_nobody "$bin/forebay-bench" check --reference "$scratch/local" --candidate "$scratch/mount" --seconds "$check_seconds" ${FOREBAY_SEED:+--seed "$FOREBAY_SEED"}
    unmount_dataset "$scratch/mount"
    fetched=$(($(counted body_bytes) - before))
    echo "$mode: the source gave $fetched bytes for $data_bytes bytes of data"
    # Everything was read five times over two mounts; the source pays once.
    [ $((fetched * 100)) -le $((data_bytes * 101)) ] || give_up 1 "more than 1.01 x the data came from the source"
done
