# shellcheck shell=bash disable=SC2154 # scripts/test sets the options and paths
# One run of something that has tests, what it is run in, and the sum of all runs.

logs=$scripts/../target/test-logs
rm -rf "$logs"
mkdir -p "$logs"

# run NAME COMMAND...: keeps the output in a log, says how it went, and shows what failed. Always succeeds.
run() {
    local name=$1 log=$logs/$1 status=0 start=$SECONDS
    shift
    "$@" </dev/null >"$log" 2>&1 || status=$?
    echo "run ended with status $status" >>"$log"
    if [[ $status != 0 ]]; then
        # From libtest's own list of failures on; whatever else failed said so last.
        if grep -q '^failures:$' "$log"; then sed -n '/^failures:$/,$p' "$log"; else tail -n 60 "$log"; fi
    fi
    printf '== %s: %s (%d s)\n' "$name" "$(count "$log" | tail -n 1)" $((SECONDS - start))
}

run_natively() {
    local hybrid=/sys/fs/cgroup/unified
    run native isolated pure "$@" "${left_out[@]}"
    # The peers would use the hierarchies of version 1 there, which are the machine's own.
    [[ -d $hybrid && -z ${RUNTIME-} ]] || return 0
    # What differs there is where a container's group is; the rest of the suite would only say the same again.
    [[ $# -gt 0 ]] || set -- lifecycle:: run:: kill:: exec:: groups:: cgroup
    run hybrid isolated hybrid CGROUP=$hybrid "$@"
}

# isolated LAYOUT [NAME=VALUE]... [TEST-ARG]...
isolated() {
    local layout=$1 variables=()
    shift
    while [[ ${1-} == *=* ]]; do variables+=("$1"); shift; done
    "$scripts/test.d/isolated" "$layout" env SECCOMP_PROFILES="$programs/profiles" IMAGES="$programs/../images" "${variables[@]}" "$programs/it" --test-threads=2 "$@"
}

# Downloads and unpacks while compilers have the CPUs. What fails here is done again, and fails, when the machine is wanted.
prepare_machines() {
    local kernel
    for kernel in "${kernels[@]}" trixie; do
        "$scripts/vm" build --kernel "$kernel" --peers "${vm_peers-trixie}" || return 0
    done >/dev/null 2>&1
}

# What of the suite is run by one of two machines with the oldest kernel; the other runs the rest. One would be busy when all else is done.
half=(rootless:: mounts:: binds:: overlay:: cve:: paths:: namespaces:: idmap:: cgroup:: lifecycle::)

# halves KERNEL PEERS
halves() {
    beside run "vm-$1-half" machine "$1" "$2"
    half_of=rest beside run "vm-$1-rest" machine "$1" "$2"
}

# machine KERNEL PEERS [TEST-ARG]...: without systemd, whose boot takes longer, and without the tests that need it.
machine() {
    local kernel=$1 peers=$2 only=() module
    shift 2
    if [[ $# == 0 ]]; then
        # Engines take as long as all the rest: they have a machine of their own. Emulated, what traces each system call or runs hundreds
        # of containers would take longer still, and says what it says on the machine itself.
        set -- --skip engines:: --skip crash:: --skip differential::
        if [[ -n $all && -z $long ]]; then
            # The oldest kernel meets the fallbacks. A newer one is left what the machine could not run.
            if [[ $kernel == "${kernels[0]-}" ]]; then
                # Minutes for what needs no controller, is the same with any kernel, and was just seen on the machine.
                for module in attack checkpoint:: concurrency:: failing:: seccomp_diff:: check:: console:: errors:: hooks:: ids:: images:: list:: log:: \
                    rdt:: shim start_up:: supervisor:: trace::; do set -- "$@" --skip "$module"; done
                if [[ -z ${half_of-} ]]; then
                    only=("${half[@]}")
                else
                    for module in "${half[@]}"; do set -- "$@" --skip "$module"; done
                fi
            else
                mapfile -t only < <(skipped native)
                # With controllers, the shim has more to tell.
                only+=(shim)
            fi
        fi
    fi
    boot tiny "$kernel" "$peers" "${only[@]}" "$@" --skip systemd::
}

# skipped LOG: the names of the tests that said there what the machine lacks.
skipped() { sed -nE 's/^skipped: .* \[([^ ]+)\]$/\1/p' "$logs/$1" | sort -u; }

# run_with_systemd KERNEL PEERS [TEST-ARG]...: all that wants systemd, in one machine: its boot takes long. But the engines out of Podman's house
# and those on our own shim take a third of the time each, and have others, so that two machines are busy until the end.
podman=(engines::podman engines::a_pod_of_podman engines::buildah)
shim=(engines::shim engines::cri)
run_with_systemd() {
    local kernel=$1 peers=$2 name
    shift 2
    if [[ $# == 0 ]]; then
        if [[ -n $systemd ]]; then set -- systemd:: lifecycle:: groups::; fi
        if [[ -n $engines ]]; then
            beside run "vm-podman-$kernel" boot systemd "$kernel" "$peers" "${podman[@]}"
            beside run "vm-shim-$kernel" boot systemd "$kernel" "$peers" "${shim[@]}"
            set -- "$@" engines::
            for name in "${podman[@]}" "${shim[@]}"; do set -- "$@" --skip "$name"; done
        fi
    fi
    beside run "vm-systemd-$kernel" boot systemd "$kernel" "$peers" "$@" "${left_out[@]}"
}

# beside COMMAND...: in the background, when less than two others are there. Emulated, one CPU each does more than two for one machine.
beside() {
    while [[ $(jobs -rp | wc -l) -ge 2 ]]; do wait -n; done
    "$@" &
}

# run_engines KERNEL PEERS [TEST-ARG]...: without systemd; nothing if the arguments say which tests to run, and these are no engines'.
run_engines() {
    local kernel=$1 peers=$2
    shift 2
    [[ $# -gt 0 ]] || set -- engines::
    [[ "$*" == *engines::* ]] || return 0
    run "engines-$kernel" machine "$kernel" "$peers" "$@"
}

# boot INIT KERNEL PEERS [TEST-ARG]...
boot() {
    local init=$1 kernel=$2 peers=$3 runtime=${RUNTIME-} timeout=3000 variables=()
    shift 3
    # The machine has its own.
    if [[ $peers == sid ]]; then runtime=${runtime##*/}; fi
    if [[ " $* " == *" engines::"* && " $* " != *" --skip engines:: "* ]]; then
        # An operation is several commands of an engine, and each of them several programs.
        variables=(DEADLINE=300)
        # All operations with all engines take twice as long as what is done without options.
        if [[ -z $all || -n $long ]]; then timeout=6000 variables+=(OPERATIONS=every); fi
    fi
    # On the disk: before 6.3, what is on a tmpfs cannot be id-mapped. With one thread the names of tests and what they say would share lines.
    "$scripts/vm" --init "$init" --kernel "$kernel" --peers "$peers" --cpus 1 --timeout "$timeout" --payload "$programs" -- \
        env --default-signal TMPDIR=/var/tmp SECCOMP_PROFILES=/payload/profiles ${runtime:+RUNTIME="$runtime"} ${CUTS:+CUTS="$CUTS"} "${variables[@]}" \
        /payload/it --test-threads=2 "$@" --skip supervisor::real
}

# The last line is 'N passed, N failed, N skipped'; before it, the names of the tests that ran nowhere.
count() { awk -f "$scripts/test.d/count.awk" "$@"; }

sum_up() {
    local sum passed failed skipped nowhere=()
    mapfile -t nowhere < <(count "$logs"/* | head -n -1)
    sum=$(count "$logs"/* | tail -n 1)
    read -r passed _ failed _ skipped _ <<<"$sum"
    if [[ ${#nowhere[@]} -gt 0 && -n $all ]]; then
        printf 'skipped wherever it ran: %s\n' "${nowhere[@]}"
        failed=$((failed + ${#nowhere[@]})) skipped=$((skipped - ${#nowhere[@]}))
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [[ $failed == 0 ]]
}
