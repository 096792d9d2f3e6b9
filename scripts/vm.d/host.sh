# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# What the host must have: the tools, and the Debian archive that its own apt already uses. Installs packages and changes nothing else.

install_host_tools() {
    local pair log missing=()
    for pair in mmdebstrap:mmdebstrap busybox:busybox-static mke2fs:e2fsprogs depmod:kmod xz:xz-utils setpriv:util-linux; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [[ -f $keyring ]] || missing+=(debian-archive-keyring)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    know_archives
    log=$(DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install "${missing[@]}" 2>&1) ||
        { echo "$log" >&2; return 1; }
}

# A root tree of a suite at DIR. More arguments go to mmdebstrap, which takes a quarter of debootstrap's time.
debian_tree() {
    local dir=$1 suite=$2 option no_docs=() validity=()
    shift 2
    for option in doc man info locale bash-completion; do no_docs+=(--dpkgopt="path-exclude=/usr/share/$option/*"); done
    # A host that accepts a frozen mirror, whose lists have expired, must accept it for the other suites too.
    mapfile -t validity < <(apt-config dump | sed -nE 's/^(Acquire::Check-(Valid-Until|Date) .*)/--aptopt=\1/p')
    sources_for "$suite" >"$dir.list"
    mmdebstrap --quiet --mode=root "${no_docs[@]}" "${validity[@]}" "$@" "$suite" "$dir" "$dir.list"
    rm "$dir.list"
}

# A sources.list for another suite of the archive that the host's own packages come from.
sources_for() {
    local uri
    know_archives
    # Suites with a dash (-security, -updates) live in archives that lack the others.
    # shellcheck disable=SC2016  # for apt, not the shell, to expand
    uri=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
        awk '$1 !~ /-/ && !n++ { print $2 }')
    [[ -n $uri ]] || { echo "vm: no Debian archive in apt's sources" >&2; return 1; }
    echo "deb [signed-by=$keyring] $uri $1 main"
}

# A fresh machine has no package lists, and apt knows from them whose archive a source is.
know_archives() {
    [[ -n $(apt-get indextargets 'Created-By: Packages' 'Origin: Debian') ]] || apt-get -qq update >&2
}
