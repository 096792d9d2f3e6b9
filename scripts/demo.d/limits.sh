# shellcheck shell=bash disable=SC2034,SC2154 # read by and from the other parts of the demo
# Which limits this machine can enforce, as `resources` of config.json and as options of caissonctl, and what the container's cgroup will
# say of them.

hierarchy='' resources='' options=() limits=()

find_limits() {
    local place disk
    for place in /sys/fs/cgroup/unified /sys/fs/cgroup; do [[ ! -f $place/cgroup.controllers ]] || hierarchy=$place; done
    [[ -n $hierarchy ]] || { echo "demo: this machine has no cgroup v2 hierarchy" >&2; exit 1; }
    limit cpu '"cpu": {"quota": 50000, "period": 100000}' 'cpu.max: 50000 100000' --cpus 0.5
    limit memory '"memory": {"limit": 268435456, "swap": 268435456}' 'memory.max: 268435456' --memory 256m --memory-swap 256m
    limit pids '"pids": {"limit": 64}' 'pids.max: 64' --pids-limit 64
    disk=$(disk_of "$work")
    if [[ -n $disk ]]; then
        limit io "\"blockIO\": {\"throttleWriteBpsDevice\": [{\"major\": ${disk%:*}, \"minor\": ${disk#*:}, \"rate\": 8388608}]}" \
            "io.max: $disk rbps=max wbps=8388608 riops=max wiops=max" --device-write-bps "/dev/$(basename "$(readlink "/sys/dev/block/$disk")"):8m"
    else
        echo "no limit of io: $work is on no disk"
    fi
}

# limit CONTROLLER RESOURCE FILE-LINE OPTION...
limit() {
    local old
    if [[ " $(<"$hierarchy/cgroup.controllers") " == *" $1 "* ]]; then
        resources+=", $2" limits+=("$3") options+=("${@:4}")
        return
    fi
    old=$(awk -v name="$1" '/ - cgroup / && ("," $NF ",") ~ ("," (name == "io" ? "blkio" : name) ",") { print $5; exit }' /proc/self/mountinfo)
    echo "no limit of $1: on this machine the controller $([[ -n $old ]] && echo "belongs to cgroup v1, at $old" || echo "does not exist")"
}

# The number of the disk that a directory is on; limits are for disks, not for partitions.
disk_of() {
    local device
    device=/sys/dev/block/$(findmnt --noheadings --output MAJ:MIN --target "$1" | tr -d ' ')
    [[ ! -e $device/partition ]] || device=$(readlink -f "$device")/..
    [[ ! -e $device/dev ]] || cat "$device/dev"
}
