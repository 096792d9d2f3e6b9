# shellcheck shell=bash
# QEMU from trixie, in a tree of its own: bookworm's 7.2 emulates fork and exec three times slower, and corrupts the flags after
# cmpxchg16b with two CPUs, of which Linux 6.12 dies within seconds.

build_qemu() {
    debian_tree "$1/tree" trixie --variant=extract --include=qemu-system-x86
}

# Prints the words that start it, one a line: with its own loader and libraries it runs on any host without a chroot.
qemu_command() {
    local usr=$1/tree/usr
    printf '%s\n' "$usr/lib64/ld-linux-x86-64.so.2" --library-path "$usr/lib/x86_64-linux-gnu:$usr/lib/x86_64-linux-gnu/pulseaudio" \
        "$usr/bin/qemu-system-x86_64" -L "$usr/share/qemu" -L "$usr/share/seabios"
}

# /dev/kvm is no proof: where the host hides the CPU's virtualisation, it is there but cannot run a stock kernel.
accelerator() {
    if [[ -w /dev/kvm ]] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then echo kvm; else echo tcg,thread=multi; fi
}
