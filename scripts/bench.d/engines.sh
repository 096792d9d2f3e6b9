# shellcheck shell=bash
# Engines beside each other, in the tree of build_engines, and what they took. For scripts that bench.d/engines runs there, in /tmp.

# Waits for what a command says of a daemon.
until_ready() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.2; done
    echo "bench: $* fails" >&2
    exit 1
}

start_engines() {
    containerd >containerd.log 2>&1 &
    until_ready ctr version
    # The network is not what is measured, and there is none here.
    dockerd --containerd /run/containerd/containerd.sock --bridge none --iptables=false --ip6tables=false >dockerd.log 2>&1 &
    until_ready docker info
    # The limit that Podman has otherwise wants a controller.
    printf '[containers]\npids_limit = 0\n' >containers.conf
    export CONTAINERS_CONF=/tmp/containers.conf
    {
        docker version --format 'docker {{.Server.Version}}'
        docker info --format '  {{.Driver}}, {{.DefaultRuntime}}, cgroup v{{.CgroupVersion}} {{.CgroupDriver}}'
        podman version --format '{{.Client.Version}}' | sed 's/^/podman /'
        podman info --format '  {{.Store.GraphDriverName}}, {{.Host.OCIRuntime.Name}}, cgroup {{.Host.CgroupsVersion}} {{.Host.CgroupManager}}'
        containerd --version
        ctl version
    } 2>&1
}

ctl() { bin/caissonctl --root /var/lib/caisson "$@"; }

# measured NAME COMMAND...: a round of NAME
measured() {
    local name=$1 start=${EPOCHREALTIME//[!0-9]/}
    shift
    "$@"
    echo $((${EPOCHREALTIME//[!0-9]/} - start)) >>"times.$name"
}

# report WHAT NAME...: in words, beside the first of the names
report() {
    local what=$1 name
    shift
    for name; do
        printf '%-10s %s: median %7.1f ms, least %7.1f ms; of %s: %s, %s\n' "$name" "$what" \
            "$(ratio "$(middle "$name")" 1000)" "$(ratio "$(least "$name")" 1000)" \
            "$1" "$(ratio "$(middle "$name")" "$(middle "$1")")" "$(ratio "$(least "$name")" "$(least "$1")")"
    done
}

least() { sort -n "times.$1" | head -n 1; }
middle() { sort -n "times.$1" | sed -n "$((($(wc -l <"times.$1") + 1) / 2))p"; }
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }
