# shellcheck shell=bash
# What the host must have: the tools, and the Debian mirror it already uses. Changes nothing of the host but installing packages.

install_host_tools() {
    local pair missing=()
    for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap busybox:busybox-static mke2fs:e2fsprogs depmod:kmod \
        xz:xz-utils flock:util-linux; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    apt_update_once
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# A fresh machine has no package lists, and without them apt does not know whose archive a source is.
apt_update_once() {
    [[ -n $(apt-get indextargets 'Created-By: Packages' 'Origin: Debian') ]] || apt-get -qq update >&2
}

# A one-line sources.list for another suite from the archive that the host's own packages come from.
sources_for() {
    local uri
    apt_update_once
    # Suites with a dash (-security, -updates) live in archives that do not have the others.
    # shellcheck disable=SC2016  # apt, not the shell, expands these
    uri=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | awk '$1 !~ /-/ { print $2; exit }')
    [[ -n $uri ]] || { echo "vm: no Debian archive in apt's sources" >&2; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $1 main"
}
