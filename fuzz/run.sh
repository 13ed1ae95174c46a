#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS, beginning with what is in `seeds/` and what earlier runs found: `run.sh CARGO_FUZZ CORPUS BUILD`, the
# program and two folders outside the clone. What breaks a target stays in `artifacts/`: mend the bug, and keep the input in `seeds/TARGET/`,
# from where every `make test` runs it too (cache-node/tests/it/fuzz_smoke.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo_fuzz=$1 corpus=$2 build=$3
seconds=${FUZZ_SECONDS:-60}
# cargo-fuzz's flags are those of a nightly compiler; with this the stable one takes them.
export RUSTC_BOOTSTRAP=1
# The versions that the product is built with, and those of the fuzzer itself.
cp Cargo.lock fuzz/Cargo.lock
options=(--sanitizer address --codegen-units 16 --target-dir "$build")
"$cargo_fuzz" build "${options[@]}"

# The checks write files, thousands a second: into memory, where there is any.
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" forebay-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
declare -A more=([config_decode]=examples [manifest_decode]=cache-node/manifest/tests/golden)
failed=()
for target in $("$cargo_fuzz" list); do
	echo "::: $target, $seconds s"
	seeds=("$corpus/$target")
	for folder in "fuzz/seeds/$target" ${more[$target]:-}; do
		[ -d "$folder" ] && seeds+=("$folder")
	done
	mkdir -p "${seeds[0]}"
	# A leak would be found by the sanitizer at the end. A run that takes a minute is an endless loop, also on a busy machine.
	TMPDIR=$scratch "$cargo_fuzz" run "${options[@]}" "$target" "${seeds[@]}" -- \
		-max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "an input breaks ${failed[*]}: see fuzz/artifacts" >&2
	exit 1
fi
