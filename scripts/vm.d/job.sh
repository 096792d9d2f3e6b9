# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# What differs from run to run: the command with the guest's scripts, and the payload.

# An initrd to be unpacked over the kernel's. The guest's scripts travel here so that editing them rebuilds no disk.
make_job() {
    local job=$run/initrd.d/job word
    mkdir -p "$job"
    install "$parts/guest-run" "$job/run"
    if [[ $init == systemd ]]; then
        install -D -m 644 "$parts/caisson-vm.service" -t "$job/systemd/system"
        mkdir "$job/systemd/system/multi-user.target.wants"
        ln -s ../caisson-vm.service "$job/systemd/system/multi-user.target.wants/"
        echo /lib/systemd/systemd >"$job/init"
    else
        install "$parts/guest-init" "$job/tiny-init"
        echo /run/vm/tiny-init >"$job/init"
    fi
    { printf exec; for word; do printf " '%s'" "${word//\'/\'\\\'\'}"; done } >"$job/command"
    (cd "$run/initrd.d" && find . | busybox cpio -o -H newc 2>/dev/null)
}

# A disk with the contents of one directory, or with several directories by their names.
make_payload() {
    local tree=$1 size
    if [[ $# -gt 1 ]]; then
        tree=$run/payload.d
        mkdir "$tree"
        cp -a "$@" "$tree"
    fi
    # Room for file system tables and for what the command writes: the file is sparse, so plenty.
    size=$(($(du -sm "$tree" | cut -f 1) * 3 + 128))
    truncate -s "${size}M" "$run/payload"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" "$run/payload"
}
