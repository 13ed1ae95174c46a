#!/usr/bin/env bash
# The end-to-end suite: a cluster of two nodes with Forebay's images, the chart, the tests, and nothing left at the end.
# With KUBECONFIG set, the cluster that it names is used; it needs the images of IMAGES and nodes called node1 and node2.
#   KEEP=1   leaves the cluster up, to look at it
set -euo pipefail
cd "$(dirname "$0")/.."
: "${FOREBAY_RELEASE:?run it by make e2e}"

if [ -z "${KUBECONFIG:-}" ]; then
	mapfile -t archives < <(e2e/images/build.sh forebay-node forebay-csi forebay-operator)
	[ -n "${KEEP:-}" ] || trap 'e2e/cluster/down.sh' EXIT
	settings=$(e2e/cluster/up.sh "${NODES:-2}" "${archives[@]}" | tail -1)
	eval "$settings"
	# Helm is a program of its own beside Kubernetes'.
	PATH=$(e2e/cluster/build.sh helm):$PATH
fi
told=$(mktemp)
# One after the other: they share the cluster.
run() {
	cargo test --locked -p forebay-e2e --test it -- --test-threads=1 "$@" 2>&1 | tee "$told"
}
# Names of the tests that failed in the last run.
fell() {
	awk '/^failures:$/ { names = ""; next } /^    [a-z_:0-9]+$/ { names = names $1 "\n" } END { printf names }' "$told"
}
# What fails is run once more and said at the end: cores that are shared starve one test now and then, and a fault fails both times. Many at once are a
# fault.
run_again() {
	run "$@" && return
	local failed_before
	mapfile -t failed_before < <(fell)
	[ ${#failed_before[@]} -gt 0 ] && [ ${#failed_before[@]} -le "$AGAIN_MAX" ] || return 1
	echo "::: once more: ${failed_before[*]}"
	run --exact "${failed_before[@]}" || return 1
	echo "::: FAILED the first time, passed the second: ${failed_before[*]}"
}
AGAIN_MAX=3
failed=0
run_again --skip uninstall "$@" || failed=$?
[ $failed = 0 ] && { run_again uninstall || failed=$?; }
rm -f "$told"
if [ $failed != 0 ]; then
	echo "::: state of the cluster" >&2
	kubectl get pods,datasets,cachepolicies -A -o wide >&2 || true
	for component in operator node csi; do
		kubectl -n forebay-system logs -l "app.kubernetes.io/component=$component" --tail=60 --prefix --all-containers >&2 || true
	done
fi
exit $failed
