# Sourced by the demos: says each step, tells which one failed and why, and runs the S3 server. They set `home` (their folder), `bench` (the program) and
# `target` (how they are called), and have a function `stop` that ends what they started.

step="begin"
say() { step=$1; printf '%s\n' "== $1"; }
# Runs a command quietly; what it says is shown when it fails.
quiet() { "$@" >"$home/step.log" 2>&1; }

failed() {
    code=$?
    # A subshell only ends; its parent tells.
    [ "$BASHPID" = $$ ] || exit "$code"
    trap - ERR
    echo
    echo "make $target failed at the step: $step"
    [ -s "$home/step.log" ] && { echo "what it said last:"; tail -n 15 "$home/step.log" | sed 's/^/    /'; }
    stop >/dev/null 2>&1 || left_behind
    exit "$code"
}
# What to say when even `stop` fails.
left_behind() { :; }

# At $1, as in 127.0.0.1:0, over the folders of $home/buckets; sets `endpoint`.
start_server() {
    rm -f "$home/endpoint"
    setsid "$bench" serve "$home/buckets" --listen "$1" --ready "$home/endpoint" >"$home/server.log" 2>&1 </dev/null &
    echo $! >"$home/server.pid"
    for _ in $(seq 300); do [ -s "$home/endpoint" ] && break; sleep 0.1; done
    [ -s "$home/endpoint" ] || { cp "$home/server.log" "$home/step.log"; return 1; }
    endpoint=$(cat "$home/endpoint")
}

stop_server() {
    local pid
    [ -s "$home/server.pid" ] || return 0
    pid=$(cat "$home/server.pid")
    # Only if that number still is our server.
    if [ -e "/proc/$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "forebay-bench serve"; then kill "$pid"; fi
    rm -f "$home/server.pid"
}

# Bytes of objects that the server has handed out.
counter() { python3 -c "import json,sys,urllib.request;print(json.load(urllib.request.urlopen(sys.argv[1]))['body_bytes'])" "$endpoint/_counters"; }
