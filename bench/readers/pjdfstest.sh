#!/usr/bin/env bash
# Runs the part of pjdfstest that applies to a read-only mount. pjdfstest.list says which part, why not the rest, and what was found.
# The suite is installed from crates.io into the cache outside the clone, under a key of its version and the compiler.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

version=0.2.2
key=$({ echo "$version"; rustc -vV; } | sha256sum | cut -c1-16)
tool=${XDG_CACHE_HOME:-$HOME/.cache}/forebay-build/pjdfstest-$key
if [ ! -x "$tool/bin/pjdfstest" ]; then
    # It links to libacl; where only the library itself is installed and not its development files, one link makes up for them.
    acl=$(find /usr/lib /lib /usr/lib64 -name 'libacl.so*' 2>/dev/null | sort | head -n 1)
    [ -n "$acl" ] || give_up 69 "no libacl on this machine: install libacl1-dev"
    mkdir -p "$scratch/lib"
    ln -s "$acl" "$scratch/lib/libacl.so"
    RUSTFLAGS="-L $scratch/lib" CARGO_TARGET_DIR=$scratch/target cargo install --quiet --locked "pjdfstest@$version" --root "$tool" --no-track
    rm -rf "$scratch/target"
fi

place=$scratch/place
mkdir "$place"
/bin/mount -t tmpfs tmpfs "$place"
settings() {
    printf '[features]\nposix_fallocate = {}\nrename_ctime = {}\nutime_now = {}\nutimensat = {}\n[settings]\nnaptime = 0.001\nallow_remount = %s\n' "$1"
    printf '[dummy_auth]\nentries = [["nobody", "nogroup"], ["daemon", "daemon"]]\n'
}
settings false >"$scratch/names.toml"
settings true >"$scratch/erofs.toml"
plain() { sed 's/\x1b\[[0-9;]*m//g'; }

# Every name there is: run on a tmpfs, where it matters only that they are told.
"$tool/bin/pjdfstest" -c "$scratch/names.toml" -p "$place" 2>&1 | plain | awk '$2 ~ /^(ok|skipped|FAILED)$/ && $1 ~ /::/ { print $1 }' | sort >"$scratch/names" || true
[ "$(wc -l <"$scratch/names")" -gt 300 ] || give_up 1 "pjdfstest told fewer than 300 names: has its output changed?"

# Each name against the list.
awk -v list="$here/pjdfstest.list" '
    BEGIN {
        while ((getline line < list) > 0) {
            split(line, word, " ")
            if (word[1] == "run" || word[1] == "not") {
                pattern = word[2]
                gsub(/\*/, ".*", pattern)
                what[++rules] = word[1]; source[rules] = word[2]; match_by[rules] = "^" pattern "$"
            }
        }
    }
    {
        for (rule = 1; rule <= rules && $1 !~ match_by[rule]; rule++) ;
        if (rule > rules) { print "pjdfstest.list: " $1 " stands nowhere: say whether it runs, or why not" > "/dev/stderr"; wrong = 1; next }
        used[rule]++
        if (what[rule] == "run") print $1
    }
    END {
        for (rule = 1; rule <= rules; rule++) if (!used[rule]) { print "pjdfstest.list: no test is called " source[rule] > "/dev/stderr"; wrong = 1 }
        exit wrong
    }' "$scratch/names" >"$scratch/chosen"

# What pjdfstest finds as `mount`.
mkdir "$scratch/shim" "$scratch/tree" "$scratch/real"
describe pjdfstest "file://$scratch/tree"
cat >"$scratch/shim/mount" <<END
#!/usr/bin/env bash
set -euo pipefail
case \$2 in
remount,ro)
    rm -rf "$scratch/tree" "$scratch/pjdfstest/cache"
    mkdir "$scratch/pjdfstest/cache"
    cp -r "\$3" "$scratch/tree"
    # A source has files only: what is to be seen as a folder needs one.
    find "$scratch/tree" -type d -empty -exec touch {}/placeholder \;
    "$bin/forebay-node" mount "$scratch/pjdfstest/dataset.yaml" "$scratch/real" --config "$scratch/pjdfstest/node.yaml" >&2
    /bin/mount --bind "$scratch/real" "\$3"
    grep " \$3 fuse" /proc/mounts >>"$scratch/mounts"
    ;;
remount,rw)
    umount "\$3"
    "$bin/forebay-node" unmount "$scratch/real" >&2
    ;;
*) exit 64 ;;
esac
END
chmod +x "$scratch/shim/mount"
mounted+=("$scratch/real")

failed=0
while read -r name; do
    # One process a test: one that fails may leave a file open, and then the next can't be made read-only.
    if PATH=$scratch/shim:$PATH "$tool/bin/pjdfstest" -c "$scratch/erofs.toml" -p "$place" -e "pjdfstest::tests::$name" >"$scratch/output" 2>&1 &&
        plain <"$scratch/output" | awk -v name="$name" '$1 == name && $2 == "ok" { found = 1 } END { exit !found }'; then
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        plain <"$scratch/output" | sed 's/^/        /'
    fi
done <"$scratch/chosen"
# Had the suite found another `mount`, it would have tested the tmpfs.
[ "$(wc -l <"$scratch/mounts")" = "$(wc -l <"$scratch/chosen")" ] || give_up 1 "the tests did not run on a Forebay mount each"
echo "pjdfstest $version: $(($(wc -l <"$scratch/chosen") - failed)) of $(wc -l <"$scratch/chosen") passed on a mount, $(($(wc -l <"$scratch/names") - $(wc -l <"$scratch/chosen"))) don't apply (pjdfstest.list says why)"
[ "$failed" = 0 ]
