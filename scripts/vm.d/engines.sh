# shellcheck shell=bash
# A root tree with other people's engines, to run on the host's own kernel.

build_engines() {
    debian_tree "$1/tree" "$2" --variant=minbase --include=busybox-static,conmon,containerd,crun,docker-cli,docker.io,iproute2,podman,procps,runc,umoci
}
