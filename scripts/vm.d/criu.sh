# shellcheck shell=bash
# A root tree with CRIU and its libraries, and nothing configured.

build_criu() {
    debian_tree "$1/tree" "$2" --variant=extract --include=criu
}
