#!/usr/bin/env bash
# The chart: its definitions are those of crds/, it lints, it refuses a value that isn't known, and what it renders is what charts/golden has,
# for each file of charts/values. `UPDATE_GOLDEN=1` writes what may be written.
set -euo pipefail
cd "$(dirname "$0")"
helm=${HELM:-$(../e2e/cluster/build.sh helm)/helm}
trap 'rm -rf "$work"' EXIT
work=$(mktemp -d)
failed=0

complain() {
    echo "check.sh: $1" >&2
    failed=1
}

same() { # same WHAT WANTED FOUND
    if [ -n "${UPDATE_GOLDEN:-}" ]; then cp "$3" "$2"; fi
    diff -u "$2" "$3" || complain "$1 differs; look at the difference, then UPDATE_GOLDEN=1 charts/check.sh"
}

mkdir -p forebay/files/crds golden
for crd in ../crds/*.yaml; do same "$crd" "forebay/files/crds/$(basename "$crd")" "$crd"; done
[ "$(ls forebay/files/crds | wc -l)" = "$(ls ../crds/*.yaml | wc -l)" ] || complain "forebay/files/crds has a definition that crds/ hasn't"

for values in values/*.yaml; do
    name=$(basename "$values")
    "$helm" lint --quiet --strict forebay --values "$values" --kube-version 1.34 >"$work/lint" 2>&1 || { cat "$work/lint"; complain "lint with $values"; }
    # The definitions are checked above: they would hide everything else.
    "$helm" template forebay forebay --namespace forebay-system --kube-version 1.34 --values "$values" --set crds.install=false >"$work/$name"
    same "what $values renders" "golden/$name" "$work/$name"
done
"$helm" template forebay forebay --namespace forebay-system --kube-version 1.34 --show-only templates/crds.yaml >"$work/crds.yaml"
[ "$(grep -c '^kind: CustomResourceDefinition' "$work/crds.yaml")" = 2 ] || complain "the chart doesn't install two definitions"
[ "$(grep -c 'helm.sh/resource-policy: keep' "$work/crds.yaml")" = 2 ] || complain "an uninstall would take the definitions, and with them every Dataset"
grep -q '\*' <(sed -n '/^rules:/,/^---/p' golden/short.yaml) && complain "a right is a wildcard"
for wrong in operator.replica=1 csi.kubeletFolder=relative images.pullPolicy=Sometimes images.node.digest=latest; do
    if "$helm" template forebay forebay --kube-version 1.34 --set "$wrong" >/dev/null 2>&1; then complain "--set $wrong is taken"; fi
done
exit "$failed"
