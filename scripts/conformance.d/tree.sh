# shellcheck shell=bash disable=SC2154 # scripts/conformance sets the options and paths
# The tree that the suites are run in: Debian sid with the runtimes, the suites' sources, and what was built of them.

build_tree() {
    local tree=$1/tree archive
    archive=$(sources_for sid)
    debian_tree "$tree" sid --variant=minbase --include="$(paste -sd, "$own/packages")" \
        --customize-hook="printf '%s\n%s\n' '$archive' '${archive/#deb/deb-src}' >\"\$1/etc/apt/sources.list\"" \
        --customize-hook="cp $keyring \"\$1/usr/share/keyrings/\"; cp $own/prepare $own/tap.go \"\$1/root/\"" \
        --customize-hook="chroot \"\$1\" /root/prepare"
}
