# shellcheck shell=bash
# One run of the machine: puts the command into the initrd, starts QEMU, passes the output on, finds the exit status.
# Uses the options of scripts/vm and kernel_dir, image_dir.

boot() {
    local status
    run=$(mktemp -d)
    qemu_pid=
    trap 'end_machine' EXIT
    trap 'exit 125' INT TERM HUP
    make_job "$@"
    mkfifo "$run/output"
    truncate -s 512M "$run/scratch"
    cat "$run/output" &
    local pump=$!
    start_qemu &
    qemu_pid=$!
    wait "$qemu_pid" || true
    wait "$pump"
    if ! status=$(cat "$run/status" 2>/dev/null) || [[ -z $status ]]; then
        { tail -n 40 "$run/console" | tr -d '\r'; echo "vm: the machine ended before the command (console above)"; } >&2
        status=125
    fi
    exit "$status"
}

# The part of the initrd that differs from run to run.
make_job() {
    local job=$run/initrd.d/job
    mkdir -p "$job"
    local word
    for word; do printf "'%s' " "${word//\'/\'\\\'\'}"; done >"$job/command"
    install -m 755 "$parts/guest-run" "$job/run"
    install -m 755 "$parts/guest-init" "$job/tiny-init"
    echo /run/vm/tiny-init >"$job/init"
    (cd "$run/initrd.d" && find . | busybox cpio -o -H newc 2>/dev/null) | cat "$kernel_dir/initrd" - >"$run/initrd"
}

start_qemu() {
    local disks=()
    disk() { disks+=(-drive "file=$2,format=raw,if=none,id=$1,cache=unsafe$3" -device "virtio-blk-pci,drive=$1,serial=$1"); }
    disk root "$image_dir/root.img" ,snapshot=on
    disk modules "$kernel_dir/modules.img" ,readonly=on
    disk scratch "$run/scratch" ''
    TMPDIR=$run exec timeout -k 5 "$timeout" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -nic none \
        -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory" \
        -kernel "$kernel_dir/vmlinuz" -initrd "$run/initrd" \
        -append 'console=ttyS0 quiet panic=-1 oops=panic cgroup_no_v1=all mitigations=off' \
        -chardev "file,id=console,path=$run/console" -serial chardev:console -device virtio-serial-pci \
        -chardev "file,id=output,path=$run/output" -device virtserialport,chardev=output,name=output \
        -chardev "file,id=status,path=$run/status" -device virtserialport,chardev=status,name=status \
        "${disks[@]}" </dev/null >"$run/qemu" 2>&1
}

end_machine() {
    [[ -z $qemu_pid ]] || kill "$qemu_pid" 2>/dev/null || true
    rm -rf "$run"
}
