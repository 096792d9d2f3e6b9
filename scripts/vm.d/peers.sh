# shellcheck shell=bash
# A root tree with other people's runtimes, and strace: enough to run them in, and nothing configured.

build_peers() {
    debian_tree "$1/tree" "$2" --variant=extract --include=base-files,busybox-static,crun,libc-bin,runc,strace
}
