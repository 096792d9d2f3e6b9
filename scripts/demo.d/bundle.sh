# shellcheck shell=bash disable=SC2154 # from the other parts of the demo
# The configuration of a container.

make_config() {
    local namespaces='' mappings=''
    if [[ -n $userns ]]; then
        namespaces=', {"type": "user"}'
        mappings="\"uidMappings\": [{\"containerID\": 0, \"hostID\": $first_id, \"size\": 65536}],
        \"gidMappings\": [{\"containerID\": 0, \"hostID\": $first_id, \"size\": 65536}],"
    fi
    cat <<JSON
{
    "ociVersion": "1.2.0",
    "hostname": "$name",
    "root": {"path": "rootfs"},
    "annotations": {
        "dev.caisson.overlay.lower": "$lower",
        "dev.caisson.overlay.upper": "$work/$name/upper",
        "dev.caisson.overlay.work": "$work/$name/work"
    },
    "process": {
        "args": ["/bin/sh"],
        "cwd": "/root",
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": true,
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=16m"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
    ],
    "hooks": {
        "createRuntime": [{"path": "/bin/cp", "args": ["cp", "/proc/self/mountinfo", "$work/mounts-during"]}]
    },
    "linux": {
        "cgroupsPath": "/caisson-demo-$$",
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}$namespaces],
        $mappings
        "resources": {"devices": [{"allow": false, "access": "rwm"}]$resources},
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    }
}
JSON
}
