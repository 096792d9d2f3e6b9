# shellcheck shell=bash disable=SC2154 # scripts/demo sets the paths
# The Debian system that is the lower layer, and a copy of it whose files belong to the ids of a user namespace.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# shellcheck source=../vm.d/host.sh
. "$scripts/vm.d/host.sh" # sources_for

# make_system DIR
make_system() {
    [[ ! -d $1 ]] || return 0
    echo "demo: making a Debian system in $1 (a minute or two, once)"
    rm -rf "$1.part"
    mkdir -p "$1.part"
    # From the archive that the host's own packages come from.
    debootstrap --variant=minbase --keyring="$keyring" trixie "$1.part" "$(sources_for trixie | awk '{ print $3 }')" >"$1.log" 2>&1 ||
        { tail -n 20 "$1.log" >&2; return 1; }
    rm -f "$1.part"/var/cache/apt/archives/*.deb # a seventh of it
    mv -T "$1.part" "$1"
}

# make_shifted FROM TO FIRST: id N becomes FIRST + N. Layers that are mounted with their ids mapped would do without a copy;
# the overlay of the annotations has none such.
make_shifted() {
    [[ ! -d $2 ]] || return 0
    echo "demo: making a copy of it for a user namespace"
    rm -rf "$2.part"
    mkdir -p "$2.part"
    map() { find "$from" -printf "$1" | sort -u | awk -v first="$first" '{ print "+" $1, "+" $1 + first }'; }
    local from=$1 first=$3
    tar -C "$1" --numeric-owner --owner-map=<(map '%U\n') --group-map=<(map '%G\n') -c . | tar -C "$2.part" --numeric-owner -xp
    mv -T "$2.part" "$2"
}
