# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# Makes vmlinuz, initrd and modules.img (a disk of /lib/modules) from a suite's cloud kernel and busybox packages.

build_kernel() {
    local out=$1 suite=$2 tree=$1/tree version
    mkdir -p "$tree/usr/lib"
    ln -s usr/lib "$tree/lib" # bookworm's package still says /lib/modules
    unpack_kernel "$tree" "$suite"
    version=$(basename "$tree"/usr/lib/modules/*)
    # sid keeps the kernel beside its modules, older suites in /boot.
    mv "$(find "$tree" -name 'vmlinuz*' -type f)" "$out/vmlinuz"
    # Once here instead of by every modprobe under emulation.
    find "$tree/usr/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 64 xz -d
    depmod -b "$tree" "$version"
    make_initrd "$tree" "$version" >"$out/initrd"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree/usr/lib/modules" "$out/modules.img" 256M
    rm -rf "$tree"
}

# Downloads with an apt root of its own: the host's sources, lists and package state stay as they are.
unpack_kernel() {
    local tree=$1 suite=$2 apt=$1/apt packages deb
    mkdir -p "$apt"/{lists/partial,cache/archives/partial}
    touch "$apt/status"
    sources_for "$suite" >"$apt/sources.list"
    private_apt() {
        "$@" -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/sources.list" \
            -o Dir::Etc::sourceparts=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=root
    }
    private_apt apt-get -qq update
    # Its version is part of a kernel package's name. Newer ones are split into several.
    mapfile -t packages < <(private_apt apt-cache --recurse --important depends linux-image-cloud-amd64 | grep -E '^linux-(image|base|binary|modules)-[0-9]')
    (cd "$apt" && private_apt apt-get -qq download "${packages[@]}" busybox-static)
    for deb in "$apt"/*.deb; do dpkg --fsys-tarfile "$deb" | tar -x -C "$tree" --keep-directory-symlink; done
    rm -r "$apt"
}

# busybox, initrd-init, and the modules that reach the disks and our ports, in the order to load them.
make_initrd() {
    local tree=$1 version=$2 dir=$1/initrd module
    mkdir -p "$dir"/{bin,dev,proc,sys,root,modules}
    install "$(find "$tree" -path "*/bin/busybox" -type f)" "$dir/bin/busybox"
    install "$parts/initrd-init" "$dir/init"
    for module in virtio_pci virtio_blk virtio_console; do
        modprobe -d "$tree" -S "$version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        cp "$module" "$dir/modules/"
        basename "$module"
    done >"$dir/modules/order"
    (cd "$dir" && find . | busybox cpio -o -H newc 2>/dev/null)
}
