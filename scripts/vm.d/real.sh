# shellcheck shell=bash disable=SC2154 # who sources it sets the options and paths
# Images as people have them, of Debian's packages: web.tar, of more than thirty layers, and database.tar; archives of OCI.

# build_real DIR SUITE TREE: with the Podman of build_engines's tree.
build_real() {
    local dir=$1 name
    mkdir -p "$dir/disk/tmp"
    cp -r "$parts/real" "$dir/disk/tmp/real"
    debian_tree "$dir/disk/tmp/base.tar" "$2" --variant=minbase
    unshare --mount --pid --ipc --uts --fork --kill-child "$parts/enter" "$3" "$dir/disk" /tmp/real/build
    for name in web database; do mv "$dir/disk/tmp/$name.tar" "$dir"; done
    rm -r "$dir/disk"
}
