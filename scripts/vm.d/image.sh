# shellcheck shell=bash
# Makes root.img: a suite's root tree with the packages of the list beside this file, on an ext4 disk with room to work in.

build_image() {
    local out=$1 suite=$2 root=$1/root list=$1/sources.list
    sources_for "$suite" >"$list"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$(paste -sd, "$parts/packages")" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
        "$suite" "$root" "$list"
    configure_root "$root"
    # Sparse: it takes what its files take. No journal, since nothing written in the machine outlives it.
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$out/root.img" 6G
    rm -rf "$root"
}

configure_root() {
    local root=$1
    mkdir -p "$root/payload"
    echo caisson-vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost caisson-vm\n::1 localhost\n' >"$root/etc/hosts"
    chroot "$root" systemd-machine-id-setup # else every boot is a first boot
    chroot "$root" useradd -m -u 1000 -s /bin/sh tester
    echo tester:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
    # Started by the tests that want them. Emulated, each of these would cost every boot seconds.
    find "$root/etc/systemd/system" -type l -path '*.wants/*' -regextype posix-extended \
        -regex '.*/(docker|containerd|podman|apparmor|apt-daily|dpkg-db|e2scrub|fstrim|nftables|remote-fs|systemd-timesyncd|systemd-networkd|systemd-pstore).*' -delete
}
