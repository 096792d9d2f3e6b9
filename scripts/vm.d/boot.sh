# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# One run of the machine: starts QEMU, passes the command's output on while it comes, finds its exit status.

boot() {
    local end=0 pump
    run=$(mktemp -d) machine_pid=
    trap end_machine EXIT
    trap 'exit 125' INT TERM HUP
    make_job "$@" | cat "$kernel_dir/initrd" - >"$run/initrd"
    if [[ ${#payload[@]} -gt 0 ]]; then make_payload "${payload[@]}"; fi
    truncate -s 512M "$run/scratch"
    mkfifo "$run/output"
    cat "$run/output" &
    pump=$!
    start_machine </dev/null >"$run/qemu" 2>&1 &
    machine_pid=$!
    wait "$machine_pid" || end=$?
    machine_pid=
    : <>"$run/output" # frees the pump if QEMU never opened its end
    wait "$pump" || true # our reader may have gone
    if [[ -s $run/status ]]; then exit "$(<"$run/status")"; fi
    {
        cat "$run/qemu"
        if [[ -f $run/console ]]; then tail -n 80 "$run/console" | tr -d '\r'; fi
        if [[ $end == 124 || $end == 137 ]]; then echo "vm: no end after $timeout s"; else echo "vm: the machine ended before the command"; fi
    } >&2
    exit 125
}

start_machine() {
    local qemu words=()
    mapfile -t qemu < <(qemu_command "$qemu_dir")
    disk() { words+=(-drive "id=$1,file=$2,format=raw,if=none,cache=unsafe$3" -device "virtio-blk-pci,drive=$1,serial=$1"); }
    disk root "$image_dir/root.img" ,snapshot=on
    disk modules "$kernel_dir/modules.img" ,readonly=on
    disk scratch "$run/scratch" ''
    if [[ -f $run/payload ]]; then disk payload "$run/payload" ''; fi
    port() { words+=(-chardev "file,id=$1,path=$run/$1" -device "virtserialport,chardev=$1,name=$1"); }
    words+=(-device virtio-serial-pci)
    port output
    port status
    export TMPDIR=$run # for what snapshot=on writes
    # The signal reaches QEMU through timeout if this script is killed.
    exec setpriv --pdeathsig TERM timeout -k 5 "$timeout" "${qemu[@]}" -nodefaults -no-user-config -display none -no-reboot -nic none \
        -accel "$(accelerator)" -cpu "$(cpu_model)" -smp "$cpus" -m "$memory" -kernel "$kernel_dir/vmlinuz" -initrd "$run/initrd" \
        -append 'console=ttyS0 quiet panic=-1 oops=panic cgroup_no_v1=all mitigations=off init_on_alloc=0 systemd.getty_auto=0' \
        -chardev "file,id=console,path=$run/console" -serial chardev:console "${words[@]}"
}

# Emulated, a page cleared with one `rep stosb` costs thousands of steps, and a fifth level of page tables one more look for each miss: without
# these features the kernel and libc have ways that take a quarter less of the time of fork and exec.
cpu_model() {
    if [[ $(accelerator) == kvm ]]; then echo max; else echo max,erms=off,fsrm=off,la57=off; fi
}

end_machine() {
    if [[ -n $machine_pid ]]; then kill "$machine_pid" && wait "$machine_pid"; fi
    rm -rf "$run"
}
