#!/usr/bin/env bash
# Prints the folder of a Python environment with everything that REQUIREMENTS names, and makes it first if it isn't there.
#   venv.sh REQUIREMENTS
# It lies outside the clone, under a key of the requirements and the interpreter; one that was cut short has no mark at its end and is made again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/$1
python=${FOREBAY_PYTHON:-python3}
torch_index=https://download.pytorch.org/whl/cpu/

command -v "$python" >/dev/null || { echo "venv.sh: no $python: install Python 3.11 or newer, or name one in FOREBAY_PYTHON" >&2; exit 69; }
key=$({ "$python" -VV; "$python" -c 'import sys; print(sys.base_prefix)'; cat "$here"/requirements.txt "$requirements"; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/forebay-build/readers
venv=$cache/$(basename "$1" .txt)-$key

if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache"
    # One builder at a time; whoever waited finds the work done. A venv can't be moved (its scripts name its path), so it is built in place and marked at the end.
    exec 9>"$venv.lock"
    flock 9
    if [ ! -e "$venv/complete" ]; then
        echo "venv.sh: installing $1 into $venv" >&2
        rm -rf "$venv"
        "$python" -m venv "$venv" >&2 || { echo "venv.sh: $python can't make an environment: install python3-venv" >&2; exit 69; }
        # PyTorch keeps its builds for the CPU in an index of its own. Where that can't be reached, PyPI's build does, with gigabytes of CUDA beside it.
        index=()
        if grep -q '^torch==' "$requirements" && "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$torch_index" 2>/dev/null; then
            index=(--extra-index-url "$torch_index")
        fi
        "$venv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check "${index[@]}" -r "$requirements" >&2
        touch "$venv/complete"
    fi
fi
echo "$venv"
