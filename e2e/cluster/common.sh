# Sourced by the scripts of this folder: names, addresses, and how a program is started, found again and ended.
#
# All that the cluster keeps is below $root. Outside are only the bridge, the nodes' veth pairs and network namespaces, and one cgroup in
# each hierarchy, all of them called by $prefix. The addresses are fixed, so there is one cluster on a machine.
# shellcheck shell=bash disable=SC2034

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${FOREBAY_CLUSTER:-/var/tmp/forebay-cluster}
prefix=fbe2e
bridge=${prefix}0
nodes_max=5
network=${FOREBAY_CLUSTER_NETWORK:-10.213}
node_net=$network.0 # .1 is the machine and the control plane, .1N is node N
pod_cidr=$network.128.0/17
service_cidr=$network.64.0/18
dns_address=$network.64.10
pki=$root/pki
logs=$root/logs
running=$root/running
admin=$root/admin.conf
export PATH=$root/bin:/usr/sbin:/sbin:$PATH

node_address() { echo "$node_net.1$1"; }
node_pods() { echo "$network.$((128 + $1)).0/24"; }
netns_of() { echo "$prefix-node$1"; }

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# need PACKAGE:COMMAND... : installs Debian's packages of the commands that are missing.
need() {
    local pair missing=()
    for pair; do command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    echo "$(basename "$0"): installing ${missing[*]}" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2
}

# wait_for WHAT SECONDS COMMAND... : until the command succeeds, or the cluster is taken down meanwhile.
wait_for() {
    local what=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ -d "$running" ] || die "taken down while waiting for $what"
        [ "$SECONDS" -lt "$deadline" ] || { echo "$(basename "$0"): waited in vain for $what" >&2; return 1; }
        sleep 0.1
    done
}

# A process is known by its number and its start time, so that a number that was given out again isn't taken for it.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# spawn NAME COMMAND... : in the background, output to $logs/NAME.log; under $spawn_with, if that is set.
spawn_with=()
spawn() {
    local name=$1
    shift
    alive "$name" && die "$name runs already"
    setsid "${spawn_with[@]}" "$@" >>"$logs/$name.log" 2>&1 </dev/null 9>&- &
    echo "$! $(started_at $!)" >"$running/$name"
    disown # or bash reports its end
}

# pid_of NAME : the number of what spawn started, if it still runs.
pid_of() {
    local pid began
    [ -f "$running/$1" ] || return 1
    read -r pid began <"$running/$1"
    [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ] && echo "$pid"
}
alive() { pid_of "$1" >/dev/null; }
gone() { ! alive "$1"; }

# stop NAME [SECONDS] : asks what spawn started to end, insists after so long; 10 if not said.
stop() {
    local pid
    if pid=$(pid_of "$1"); then
        kill "$pid" 2>/dev/null || true
        wait_for "the end of $1" "${2:-10}" gone "$1" 2>/dev/null || kill -9 "$pid" 2>/dev/null || true
        wait_for "the end of $1" 10 gone "$1"
    fi
    rm -f "$running/$1"
}

# cgroup_folders : where a cgroup of ours has to be made: once in each hierarchy of cgroup v1, once in v2.
cgroup_folders() {
    local folder
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
        return
    fi
    for folder in /sys/fs/cgroup/*/; do [ -f "$folder/cgroup.procs" ] && echo "${folder%/}"; done
}
