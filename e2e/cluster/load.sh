#!/usr/bin/env bash
# Gives OCI archives to every node of the cluster, also to those that join or come back later. A name that was loaded before means the new image
# from then on; pods that run keep the old one.
#
#   load.sh ARCHIVE...
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ -d "$running" ] || die "there is no cluster in $root"
[ $# -gt 0 ] || die "which archives?"

for archive; do
    name=$(basename "$archive")
    rm -f "$root/images/${name%-*}"-*.tar # a former one of this name and tag: the last part is a hash
    cp --reflink=auto "$archive" "$root/images/"
done
for n in $(seq $nodes_max); do
    alive "node$n" || continue
    for archive; do "$harness/node.sh" exec "$n" ctr -n k8s.io images import "$root/images/$(basename "$archive")" >>"$logs/node$n-images.log"; done
done
