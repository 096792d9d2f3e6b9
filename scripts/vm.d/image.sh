# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# Makes root.img: a suite's root tree with the packages of the list beside this file, on a disk with room to work in.

build_image() {
    local out=$1 suite=$2 root=$1/root
    debian_tree "$root" "$suite" --variant=minbase --include="$(paste -sd, "$parts/packages")"
    configure_root "$root"
    # Sparse: it takes what its files take. No journal, since nothing written in the machine outlives it.
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$out/root.img" 6G
    rm -rf "$root"
}

configure_root() {
    local root=$1
    mkdir -p "$root/payload" "$root/usr/lib/modules"
    echo caisson-vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost caisson-vm\n::1 localhost\n' >"$root/etc/hosts"
    systemd-machine-id-setup --root="$root" # else every boot is a first boot
    chroot "$root" useradd -m -u 1000 -s /bin/sh tester
    echo tester:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
    touch "$root/etc/.updated" "$root/var/.updated" # or the first boot rebuilds caches
    # Tests start what they want. Emulated, each of these would cost every boot seconds.
    find "$root/etc/systemd/system" -path '*.wants/*' -regextype posix-extended \
        -regex '.*/(docker|containerd|podman|apparmor|apt-daily|dpkg-db|e2scrub|fstrim|netavark|nftables|getty@|systemd-timesyncd|systemd-pstore)[^/]*' -delete
}
