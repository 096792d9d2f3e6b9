//! What is Podman's own.

use super::{AS_WRITTEN, Operation, operation, seldom};

pub(in super::super) const PODMAN: &[Operation] = &[
    AS_WRITTEN,
    seldom(
        "run with ids of its own",
        r#"$run --rm --uidmap 0:200000:65536 --gidmap 0:300000:65536 box sh -c '
            id; cat /proc/self/uid_map /proc/self/gid_map; stat -c "%u %g" / /bin/busybox /dev/null /proc/1; mounts'"#,
        0,
        "200000",
    ),
    SYSTEMD_INSIDE,
    SECRET,
    HEALTH,
];

/// For a user without privileges. Not the line of README.md: a user's network needs a route on the machine, which has none.
pub(in super::super) const UNPRIVILEGED: &[Operation] = &[
    operation(
        "run with his own id",
        r#"$run --rm --userns keep-id -v $shared/out:/out box sh -c '
            exec 2>&1; id; cat /proc/self/uid_map; touch /out/file; stat -c "%u %g" / /dev/null; mounts'"#,
        0,
        "uid=1000",
    ),
    SECRET,
    HEALTH,
];

/// For a user who has a cgroup of his own. Without, Caisson lets him see his creator's read-only, but runc as he could write to it.
pub(in super::super) const DELEGATED: &[Operation] = &[SYSTEMD_INSIDE];

const SYSTEMD_INSIDE: Operation = operation(
    "run as if systemd were inside",
    "$run --rm --systemd always box sh -c 'mounts; mkdir /sys/fs/cgroup/below; env | grep ^container='",
    0,
    "container=",
);

const SECRET: Operation = seldom(
    "run with a secret",
    "echo hush | $engine secret create word - >/dev/null && $run --rm --secret word box cat /run/secrets/word; $engine secret rm word >/dev/null",
    0,
    "hush",
);

const HEALTH: Operation = seldom(
    "check the health",
    r#"$run -d --name well --stop-timeout 0 --health-interval disable --health-retries 1 --health-cmd 'test -e /well' box sh -c '
            echo ready >/ready; exec sleep 1000' &&
        $engine healthcheck run well; echo $?; $engine exec well touch /well; $engine healthcheck run well; echo $?
        $engine rm -f well"#,
    0,
    "unhealthy",
);

pub(in super::super) const POD: &[Operation] = &[
    operation(
        "create",
        "$engine pod create --name pod --network none --share ipc,net,uts,pid --memory 128m --cpus 0.5",
        0,
        "ID",
    ),
    operation(
        "run a member",
        "$engine run -d --pod pod --name one -m 64m box sh -c '
            trap \"exit 4\" TERM; echo of one >/dev/shm/note; echo ready >/ready; while :; do sleep 1000 & wait; done'",
        0,
        "ID",
    ),
    operation(
        "exec in a member",
        "$engine exec one sh -c 'cat /ready; hostname; id; cat /proc/self/cgroup /sys/fs/cgroup/memory.max'",
        0,
        "67108864",
    ),
    operation(
        "run a second member",
        "$engine run --rm --pod pod box sh -c 'cat /dev/shm/note; hostname; ls /sys/class/net; cat /proc/1/comm; exit 5'",
        5,
        "of one",
    ),
    operation(
        "where they are",
        r#"group=$(cat /proc/$($engine inspect -f '{{.State.Pid}}' one)/cgroup); group=${group#0::}; echo $group
            grep . /sys/fs/cgroup${group%/libpod*}/memory.max /sys/fs/cgroup${group%/libpod*}/cpu.max"#,
        0,
        "134217728",
    ),
    seldom(
        "ps and inspect",
        "$engine pod ps --format '{{.Name}} {{.Status}} {{.NumberOfContainers}}' &&
            $engine pod inspect -f '{{.State}} {{.NumContainers}}' pod",
        0,
        "Running",
    ),
    seldom("top", "$engine pod top pod args", 0, "sleep 1000"),
    operation(
        "pause and unpause",
        "$engine pod pause pod && $engine inspect -f '{{.State.Status}}' one && $engine pod unpause pod",
        0,
        "paused",
    ),
    seldom("kill a member", "$engine kill -s KILL one && $engine wait one", 0, "137"),
    seldom("start", "$engine start one && $engine exec one cat /ready", 0, "ready"),
    seldom(
        "stop, and start again",
        // Podman stops all members at once; who ends first, the member or the pod's pid namespace, it leaves to chance.
        "$engine pod stop -t 60 pod && $engine inspect -f '{{.State.Status}}' one &&
            $engine pod start pod && $engine exec one cat /ready",
        0,
        "exited",
    ),
    operation(
        "rm what runs",
        "$engine pod rm -f -t 0 pod && $engine ps -a -q --filter name=one",
        0,
        "ID",
    ),
];
