# shellcheck shell=bash disable=SC2154 # scripts/vm sets the options and paths
# Builds each artefact once. A key is a name and a hash of the files that define the artefact, so editing boot.sh rebuilds nothing.

# cached NAME BUILDER ARG...: prints the directory of NAME, which BUILDER fills (it gets the directory and ARGs) if it does not exist yet.
cached() {
    name=$1 # not local, like part: the trap below runs after our return
    local builder=$2 target hash
    shift 2
    # shellcheck disable=SC2046  # a list of words
    hash=$(cd "$parts" && sha256sum $(sources_of "$builder") | sha256sum)
    target=$cache/$name-${hash:0:16}
    part=$target.part
    if [[ ! -d $target ]]; then
        mkdir -p "$cache"
        exec 9>"$target.lock"
        flock 9
    fi
    if [[ ! -d $target ]]; then # nobody else built it while we waited
        echo "vm: building $name (a minute or two, once)" >&2
        rm -rf "$part" # what a killed build left
        mkdir "$part"
        trap 'tail -n 30 "$part/build.log" >&2; echo "vm: building $name failed" >&2; rm -rf "$part"' EXIT
        "$builder" "$part" "$@" >"$part/build.log" 2>&1
        trap - EXIT
        mv -T "$part" "$target"
        # What no version of the scripts has used for a week.
        find "$cache" -maxdepth 1 -name "$name-*" -mtime +7 -exec rm -r {} +
    fi
    touch "$target"
    echo "$target"
}

sources_of() {
    case $1 in
        build_kernel) echo host.sh kernel.sh initrd-init ;;
        build_image) echo host.sh image.sh packages ;;
        build_qemu) echo host.sh qemu.sh ;;
        build_peers) echo host.sh peers.sh ;;
        build_engines) echo host.sh engines.sh ;;
        build_tree) echo host.sh ../conformance.d/{tree.sh,packages,prepare,tap.go} ;;
        build_criu) echo host.sh criu.sh ;;
        build_real) echo host.sh real.sh enter real/{build,install,Containerfile.web,Containerfile.database,database,nginx.conf,serve.py} ;;
    esac
}
