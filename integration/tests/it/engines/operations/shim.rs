//! What of containerd goes through its shim, by containerd's own client.
//!
//! `$run` makes containers with the shim under test, or with runc's.

use super::{MISSING, Operation, operation, seldom};

pub(in super::super) const SHIM: &[Operation] = &[
    operation("run, as README.md says", "$readme", 0, "as written"),
    // What has not been copied when the container ends, runc's shim may lose: of this and of the files below.
    operation(
        "run with much output",
        "$run --rm --mount type=bind,src=$shared,dst=/shared,options=rbind:ro box:latest other sh -c '
                head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2
                until [ $(wc -c </shared/stdout) = 300000 ] && [ $(wc -c </shared/stderr) = 200000 ]; do sleep 0.1; done
                exit 3' >$shared/stdout 2>$shared/stderr; code=$?
            wc -c <$shared/stdout; wc -c <$shared/stderr; exit $code",
        3,
        "300000",
    ),
    operation(
        "run with a terminal",
        r#"said=$(script -qec "stty rows 33 cols 99; $run --rm -t box:latest other sh -c '
                tty; trap \"stty size; exit 3\" WINCH; [ \"\$(stty size)\" != \"33 99\" ] || kill -WINCH \$\$
                while :; do sleep 1000 & wait; done'" /dev/null)
            code=$?; echo "$said" | grep -o -E "/dev/(pts/.|console)|33 99"; exit $code"#,
        3,
        "33 99",
    ),
    operation(
        "run with the output in a file",
        "rm -f $shared/log; $run --rm --mount type=bind,src=$shared,dst=/shared,options=rbind:ro --log-uri file://$shared/log box:latest other sh -c '
            echo one; echo two >&2; until [ $(wc -l </shared/log) = 2 ]; do sleep 0.1; done; exit 3'
            code=$?; sort $shared/log; exit $code",
        3,
        "two",
    ),
    operation(
        "run with a program that takes the output",
        r#"rm -f $shared/taken
            printf '%s\n' '#!/bin/sh' "exec >$shared/taken" 'exec 5>&-' 'echo $CONTAINER_NAMESPACE $CONTAINER_ID "$@"; cat <&3' \
                >$shared/logger; chmod +x $shared/logger
            $run --rm --log-uri "binary://$shared/logger?colour=blue" box:latest other sh -c 'echo one; exit 3'
            code=$?; cat $shared/taken; exit $code"#,
        3,
        "default other colour blue",
    ),
    operation("run what there is not", "$run --rm box:latest other nosuch", 1, MISSING),
    operation(
        "run in the background",
        r#"$run -d --memory-limit 67108864 box:latest web sh -c '
            trap "exit 9" USR1; echo started; echo ready >/ready; while :; do sleep 1000 & wait; done' &&
            ctr task exec --exec-id zero web cat /ready"#,
        0,
        "ready",
    ),
    operation(
        "exec",
        "ctr task exec --exec-id one --user 1000:1001 --cwd /tmp web sh -c '
            id; pwd; cat /proc/self/cgroup; exit 5'",
        5,
        "uid=1000(worker) gid=1001",
    ),
    operation(
        "exec with a terminal",
        // Of a terminal whose process ends before its size is set, ctr complains, or not.
        r#"said=$(script -qec "ctr task exec --exec-id two -t web sh -c 'tty; exit 6'" /dev/null); code=$?
            echo "$said" | grep -o /dev/pts/.; exit $code"#,
        6,
        "/dev/pts/",
    ),
    operation("exec what there is not", "ctr task exec --exec-id three web nosuch", 1, MISSING),
    operation(
        "exec in the background, and kill it",
        "ctr task exec -d --exec-id four web sleep 1000 && ctr task ps web | wc -l &&
            ctr task kill --exec-id four -s KILL web && ctr task ls | awk '{ print $1, $3 }'",
        0,
        "RUNNING",
    ),
    operation(
        "metrics",
        // Values are not compared, but for limits.
        "ctr task metrics web | awk 'NR > 2 { print $1 } /limit|pids.current/ { print $2 } /memory.usage|cpu.usage_usec/ { print ($2 > 0) }'",
        0,
        "67108864",
    ),
    operation(
        "pause and resume",
        "ctr task pause web && ctr task ls | awk '{ print $1, $3 }' &&
            ctr task resume web && ctr task exec --exec-id five web echo awake",
        0,
        "PAUSED",
    ),
    operation("rm what runs", "ctr task rm web", 1, "must be stopped"),
    operation(
        "kill with a signal, and rm",
        "ctr task kill -s USR1 web && ctr task attach web; echo $?; ctr task ls -q; ctr container rm web && ctr container ls -q",
        0,
        "9",
    ),
    operation(
        "attach to what waits for input",
        r#"mkfifo $shared/input; exec 3<>$shared/input; rm $shared/input
            $run -d box:latest web sh -c 'read word; echo got $word; read word; echo and $word; exit 4' &&
            { ctr task attach web <&3 & } && echo this >&3 && echo that >&3; wait $!
            code=$?; ctr container rm web; exit $code"#,
        4,
        "and that",
    ),
    seldom(
        "run out of memory",
        "$run --rm --memory-limit 67108864 box:latest other tail /dev/zero",
        137,
        "",
    ),
    seldom(
        "rm -f of what runs",
        "$run -d box:latest web sleep 1000 && ctr task rm -f web; echo $?; ctr container rm web; ctr task ls -q",
        0,
        "137",
    ),
];

/// What of Docker goes through the shim.
pub(in super::super) const DOCKED: &[Operation] = &[
    operation(
        "run below an init, with input",
        r#"echo of outside | $run --rm --init -i box sh -c 'cat; tr "\0" " " </proc/1/cmdline; exit 8'"#,
        8,
        "of outside",
    ),
    operation("run what there is not", "$run --rm box nosuch", 127, MISSING),
    operation(
        "run out of memory",
        "$run --name hog -m 64m --memory-swap 64m box tail /dev/zero; code=$?
            $engine inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog; $engine rm hog; exit $code",
        137,
        "true 137",
    ),
    operation(
        "run in the background",
        r#"$run -d --name web $limits box sh -c 'trap "echo bye; exit 3" TERM; trap "exit 9" USR1
            echo started; echo ready >/ready; while :; do sleep 1000 & wait; done' && $engine exec web cat /ready"#,
        0,
        "ready",
    ),
    operation(
        "exec with input",
        "echo of outside | $engine exec -i -u 1000:1001 -w /tmp web sh -c 'cat; id; pwd; exit 5'",
        5,
        "of outside",
    ),
    operation(
        "exec with a terminal and input",
        r#"said=$(script -qec "stty rows 33 cols 99; $engine exec -it web sh -c '
                trap \"stty size; exit 6\" WINCH; [ \"\$(stty size)\" != \"33 99\" ] || kill -WINCH \$\$
                while :; do sleep 1000 & wait; done'" /dev/null </dev/null); code=$?; echo "$said" | grep -o "33 99"; exit $code"#,
        6,
        "33 99",
    ),
    operation(
        "exec what there is not",
        r#"said=$($engine exec web nosuch 2>&1); echo $?; echo "$said" | grep -o "exec: .*" | tr -d '\\"'"#,
        0,
        MISSING,
    ),
    operation(
        "stats and top",
        "$engine stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' web | sed 's, [^ ]* /,,'
            $engine top web | awk 'NR > 1 { print $8 }'",
        0,
        "web 2",
    ),
    operation(
        "update",
        "$engine update -m 96m --memory-swap 128m --cpus 0.25 --pids-limit 60 web && $engine exec web sh -c '
            cd /sys/fs/cgroup; grep . memory.max memory.swap.max cpu.max cpu.weight pids.max'",
        0,
        "memory.max:100663296",
    ),
    operation(
        "pause and unpause",
        "$engine pause web && $engine inspect -f '{{.State.Status}}' web; $engine exec web true; echo $?
            $engine unpause web && $engine exec web echo awake",
        0,
        "awake",
    ),
    operation(
        "restart",
        // runc does not wait until systemd has forgotten the unit, and then cannot start it.
        "{ $engine restart -t 60 web || { [ ${runtime##*/} = runc ] && $engine start web; }; } &&
            $engine exec web cat /ready",
        0,
        "ready",
    ),
    operation(
        "kill with a signal, and logs",
        "$engine kill -s USR1 web && $engine wait web && $engine logs web && $engine rm web",
        0,
        "bye",
    ),
];
