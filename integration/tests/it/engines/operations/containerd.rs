//! containerd by its own client and shim.
//!
//! `$run` makes a container `other`, `$web` one that is called `web`. No operation has input: of input that ends before its task is there, `ctr`
//! does not tell the shim.

use super::{AS_WRITTEN, MISSING, Operation, operation, seldom};

pub(in super::super) const CONTAINERD: &[Operation] = &[
    AS_WRITTEN,
    operation(
        "run without options",
        r#"$run --rm box:latest other sh -c '
            mounts; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; ulimit -a; cd /dev; stat -c "%n %F %a %t:%T" *
            ls /sys/class/net; cat /proc/self/cgroup /proc/self/oom_score_adj; env; exit 7'"#,
        7,
        "CapEff",
    ),
    operation(
        "run with options",
        r#"$run --rm --read-only --env COLOUR=blue --cwd /tmp --user 1000:1001 --hostname inside \
            --memory-limit 67108864 --cpus 0.5 --cpu-shares 262144 --cap-drop CAP_KILL --cap-add CAP_SYS_TIME --seccomp \
            --mount type=bind,src=$shared/in,dst=/in,options=rbind:ro --mount type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m \
            box:latest other sh -c '
            exec 2>&1; echo $COLOUR; id; pwd; hostname; touch /file; touch /in/file; cat /in/note
            grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; mounts | grep -E "^/(in|scratch) "'"#,
        0,
        "of the host",
    ),
    operation(
        "run with a terminal",
        r#"said=$(script -qec "$run --rm -t box:latest other sh -c 'tty; stat -c %t:%T /dev/console; exit 3'" /dev/null); code=$?
            echo "$said" | grep -o -E "/dev/(pts/.|console)|88:."; exit $code"#,
        3,
        "/dev/",
    ),
    seldom(
        "run with all privileges",
        r#"$run --rm --privileged box:latest other sh -c '
            grep -E "^(Cap|Seccomp)" /proc/self/status; ls -d /dev/kmsg /dev/fuse; mounts | grep -E "^/sys"'"#,
        0,
        "/dev/fuse",
    ),
    seldom(
        "run in the host's network, with a device",
        "$run --rm --net-host --device /dev/fuse box:latest other sh -c '
            readlink /proc/self/ns/net; stat -c %t:%T /dev/fuse; hostname; exec 3<>/dev/fuse; echo $?'",
        0,
        "a:e5",
    ),
    seldom(
        "run with ids of its own",
        "$run --rm --uidmap 0:200000:65536 --gidmap 0:300000:65536 --remap-labels box:latest other sh -c '
            id; cat /proc/self/uid_map /proc/self/gid_map; mounts'",
        0,
        "200000",
    ),
    seldom(
        "run out of memory",
        "$run --rm --memory-limit 67108864 box:latest other tail /dev/zero",
        137,
        "",
    ),
    operation("run what there is not", "$run --rm box:latest other nosuch", 1, MISSING),
    seldom(
        "run what cannot be executed",
        "$run --rm box:latest other /etc/passwd; code=$?; ctr container ls -q; exit $code",
        1,
        "permission denied",
    ),
    operation(
        "run in the background",
        "$web -d --memory-limit 67108864 --cpus 0.5 box:latest web sh -c '
            trap \"exit 9\" USR1; echo ready >/ready; while :; do sleep 1000 & wait; done'",
        0,
        "",
    ),
    operation(
        "exec",
        "ctr task exec --exec-id one --user 1000:1001 --cwd /tmp web sh -c '
            cat /ready; id; pwd; cat /proc/self/cgroup; exit 5'",
        5,
        "ready",
    ),
    seldom(
        "exec with a terminal",
        // Of a terminal whose process ends before its size is set, ctr complains, or not.
        r#"said=$(script -qec "ctr task exec --exec-id two -t web sh -c 'tty; exit 6'" /dev/null); code=$?
            echo "$said" | grep -o /dev/pts/.; exit $code"#,
        6,
        "/dev/pts/",
    ),
    seldom("exec what there is not", "ctr task exec --exec-id three web nosuch", 1, MISSING),
    operation(
        "ls, ps and metrics",
        "ctr task ls | awk '{ print $1, $3 }'; ctr task ps web | wc -l
            ctr task metrics web | awk '/limit|pids.current/ { print $1, $2 }'",
        0,
        "67108864",
    ),
    operation(
        "where it is",
        r#"group=$(cat /proc/$(ctr task ls | awk '$1 == "web" { print $2 }')/cgroup) && echo $group &&
            cd /sys/fs/cgroup${group#0::} && grep . memory.max cpu.max pids.max && $show -p Description -p Slice -p Delegate -p MemoryMax -p TasksMax ${group##*/} | sed s/libcontainer/caisson/"#,
        0,
        "memory.max:67108864",
    ),
    operation(
        "pause and resume",
        "ctr task pause web && ctr task ls | awk '{ print $1, $3 }' &&
            ctr task resume web && ctr task exec --exec-id four web echo awake",
        0,
        "PAUSED",
    ),
    operation("rm what runs", "ctr task rm web", 1, "must be stopped"),
    seldom(
        "rm -f, and start again",
        "ctr task rm -f web && ctr task start -d web && ctr task exec --exec-id five web cat /ready",
        0,
        "ready",
    ),
    operation(
        "kill all",
        "ctr task kill -a -s KILL web; ctr task rm -f web; echo $?; ctr container rm web && ctr container ls -q",
        0,
        "137",
    ),
    seldom(
        "kill with a signal",
        // Its line is there once the trap is; ours, if it ends before.
        r#"mkfifo $shared/started; exec 3<>$shared/started
            { $run --rm --mount type=bind,src=$shared,dst=/shared,options=rbind:rw box:latest other sh -c '
                trap "exit 9" USR1; echo ready >/shared/started; while :; do sleep 1000 & wait; done'
                code=$?; echo ended >&3; exit $code; } &
            read said <&3; echo $said; rm $shared/started; ctr task kill -s USR1 other; wait $!"#,
        9,
        "ready",
    ),
];
