//! The operations, for each engine; Podman and Docker have most of them in common.
//!
//! `$engine` is the engine's command line before a verb, `$run` the one that makes a container, `$readme` the line of README.md,
//! `$shared` a directory for volumes. Where a container's own complaints count, its script says `exec 2>&1`: what an engine
//! itself says on standard error has the runtime's words in it.
//!
//! `web` is a service that says in /ready that it is ready, and ends in its own way when it is told to.

use super::compare::{Operation, operation};

pub(super) const PODMAN: &[Operation] = &[AS_WRITTEN];

pub(super) const DOCKER: &[Operation] = &[operation(
    "run with a runtime by name",
    "docker run --rm --network none --runtime $name box echo hello",
    0,
    "hello",
)];

/// What is the same with Podman and Docker.
pub(super) const EVERYDAY: &[Operation] = &[
    operation(
        "run without options",
        r#"$run --rm box sh -c '
            grep -E "^(Cap|NoNewPrivs|Seccomp|Groups)" /proc/self/status; cat /proc/self/attr/current; ulimit -a; umask
            mounts; cd /dev; stat -c "%n %F %a %u %g %t:%T" *; ls /proc/self/fd | wc -l; ls /sys/class/net
            cat /proc/self/cgroup /proc/self/oom_score_adj; env | grep -v HOSTNAME | sort'"#,
        0,
        "0::/",
    ),
    operation(
        "run with all kinds of options",
        r#"$run --rm -h inside -e COLOUR=blue -u 1000:1001 --group-add 7 -w /tmp --read-only --tmpfs /scratch:size=1m \
            -v $shared/in:/in:ro -v $shared/out:/out --ulimit nofile=100:200 --sysctl net.ipv4.ip_forward=1 \
            -m 64m --memory-swap 64m --cpus 0.5 --cpu-shares 262144 --pids-limit 50 \
            --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges box sh -c '
            exec 2>&1; hostname; echo $COLOUR; id; pwd; ulimit -n; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status
            touch /file; touch /in/file; cat /in/note; touch /out/file; mounts | grep -E "^/(in|out|scratch) "
            cat /proc/sys/net/ipv4/ip_forward
            cd /sys/fs/cgroup; grep . memory.max memory.swap.max cpu.max cpu.weight pids.max; exit 7'"#,
        7,
        "of the host",
    ),
    operation(
        "run with a terminal and all privileges",
        r#"script -qec "$run --rm -t --privileged box sh -c 'tty; stat -c %t:%T /dev/console; ls -d /dev/kmsg /dev/fuse
            grep -E \"^(Cap|Seccomp)\" /proc/self/status'" /dev/null"#,
        0,
        "/dev/pts/0",
    ),
    operation(
        "run out of memory",
        "$run --name hog -m 64m --memory-swap 64m box tail /dev/zero; code=$?
            $engine inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog; $engine rm hog; exit $code",
        137,
        "true 137",
    ),
    operation("run what there is not", "$run --rm box nosuch", 127, MISSING),
    operation("run what cannot be executed", "$run --rm box /etc/passwd", 126, "permission denied"),
    operation(
        "run in the background",
        r#"$run -d --name web box sh -c 'trap "echo bye; exit 3" TERM; trap "exit 9" USR1
            echo started; echo ready >/ready; while :; do sleep 1000 & wait; done'"#,
        0,
        "ID",
    ),
    operation("exec", "$engine exec web cat /ready", 0, "ready"),
    operation(
        "ps and inspect",
        "$engine ps --filter name=web --format '{{.Names}} {{.State}}' &&
            $engine inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}}' web",
        0,
        "running true false 0",
    ),
    operation(
        "exec with options and input",
        r#"echo of outside | $engine exec -i -e COLOUR=red -u 1000:1001 -w /tmp web sh -c '
            cat; echo $COLOUR; id; pwd; cat /proc/self/cgroup
            grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; exit 5'"#,
        5,
        "of outside",
    ),
    operation(
        "exec with a terminal",
        r#"script -qec "$engine exec -t web sh -c 'tty; stat -c %a /dev/pts/0; exit 6'" /dev/null"#,
        6,
        "/dev/pts/",
    ),
    operation(
        "exec what there is not, and what cannot be executed",
        // Docker's codes differ from version to version, and the message goes to where the process's output would.
        r#"for file in nosuch /etc/passwd /etc; do
                said=$($engine exec web $file 2>&1); echo $?; echo "$said" | grep -o "exec: .*" | tr -d '\\"'
            done"#,
        0,
        "exec: nosuch: executable file not found in $PATH",
    ),
    operation(
        "pause and unpause",
        "$engine pause web && $engine inspect -f '{{.State.Status}}' web; $engine exec web true; echo $?
            $engine unpause web && $engine exec web echo awake",
        0,
        "awake",
    ),
    // Once caisson has `update`: $engine update -m 96m --memory-swap 96m web && $engine exec web cat /sys/fs/cgroup/memory.max
    operation(
        "restart",
        "$engine restart -t 60 web && $engine exec web cat /ready",
        0,
        "ready",
    ),
    operation(
        "kill with a signal",
        "$engine kill -s USR1 web && $engine wait web",
        0,
        "9",
    ),
    operation(
        "start and stop",
        "$engine start web && $engine exec web cat /ready && $engine stop -t 60 web &&
            $engine inspect -f '{{.State.ExitCode}}' web",
        0,
        "3",
    ),
    operation("logs", "$engine logs web", 0, "bye"),
    operation("rm", "$engine rm web && $engine ps -a -q --filter name=web", 0, "web"),
    operation(
        "rm what runs",
        "$run -d --name other --stop-timeout 0 box sleep 1000 && $engine rm -f other &&
            $engine ps -a -q --filter name=other",
        0,
        "other",
    ),
];

/// Podman for a user without privileges.
/// Not the line of README.md: a user's network needs a route on the machine, which has none.
pub(super) const UNPRIVILEGED: &[Operation] = &[
    operation(
        "run with options",
        r#"$run --rm -w /tmp --read-only --tmpfs /scratch:size=1m -v $shared/in:/in:ro -v $shared/out:/out \
            --cap-drop ALL box sh -c 'exec 2>&1; id; pwd; cat /proc/self/uid_map
            grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; touch /file; touch /in/file; cat /in/note; touch /out/file
            mounts; ls /sys/class/net; stat -c "%n %F %a" /dev/*; exit 7'"#,
        7,
        "of the host",
    ),
    operation(
        "run what there is not",
        "$run --rm box nosuch",
        127,
        MISSING,
    ),
    operation(
        "run in the background",
        r#"$run -d --name web box sh -c 'trap "echo bye; exit 3" TERM
            echo ready >/ready; while :; do sleep 1000 & wait; done'"#,
        0,
        "ID",
    ),
    operation(
        "exec",
        "$engine exec web sh -c 'cat /ready; id; cat /proc/self/cgroup'",
        0,
        "ready",
    ),
    operation(
        "exec with a terminal",
        r#"script -qec "$engine exec -t web tty" /dev/null"#,
        0,
        "/dev/pts/",
    ),
    operation(
        "stop and logs",
        "$engine stop -t 60 web && $engine inspect -f '{{.State.ExitCode}}' web && $engine logs web",
        0,
        "bye",
    ),
    operation("rm", "$engine rm web && $engine ps -a -q", 0, "web"),
];

pub(super) const POD: &[Operation] = &[
    operation(
        "create",
        "$engine pod create --name pod --network none --share ipc,net,uts,pid &&
            $engine run -d --pod pod --name one box sh -c 'echo of one >/dev/shm/note; echo ready >/ready; exec sleep 1000'",
        0,
        "ID",
    ),
    operation(
        "exec in a member",
        "$engine exec one sh -c 'cat /ready; hostname; id'",
        0,
        "ready",
    ),
    operation(
        "run a second member",
        "$engine run --rm --pod pod box sh -c 'cat /dev/shm/note; hostname; ls /sys/class/net; cat /proc/1/comm'",
        0,
        "of one",
    ),
    operation(
        "pause and unpause",
        "$engine pod pause pod && $engine inspect -f '{{.State.Status}}' one &&
            $engine pod unpause pod && $engine exec one echo awake",
        0,
        "awake",
    ),
    operation(
        "stop and rm",
        "$engine pod stop -t 0 pod && $engine pod rm pod && $engine ps -a -q --filter name=one",
        0,
        "ID",
    ),
];

/// containerd by its own client and shim.
pub(super) const CONTAINERD: &[Operation] = &[
    AS_WRITTEN,
    operation(
        "run without options",
        r#"$run --rm box:latest other sh -c '
            mounts; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; exit 7'"#,
        7,
        "CapEff",
    ),
    operation(
        "run with options",
        r#"$run --rm --read-only --env COLOUR=blue --cwd /tmp --user 1000:1001 --memory-limit 67108864 --cap-drop CAP_KILL \
            --mount type=bind,src=$shared/in,dst=/in,options=rbind:ro box:latest other sh -c '
            exec 2>&1; echo $COLOUR; id; pwd; touch /file; cat /in/note /sys/fs/cgroup/memory.max; grep Cap /proc/self/status'"#,
        0,
        "of the host",
    ),
    operation(
        "run with a terminal",
        r#"script -qec "$run --rm -t box:latest other tty" /dev/null"#,
        0,
        "/dev/",
    ),
    operation(
        "run what there is not",
        "$run --rm box:latest other nosuch",
        1,
        MISSING,
    ),
    operation(
        "run in the background",
        "$run -d box:latest web sh -c 'echo ready >/ready; exec sleep 1000'",
        0,
        "",
    ),
    operation(
        "exec",
        "ctr task exec --exec-id one web sh -c 'cat /ready; id; exit 5'",
        5,
        "ready",
    ),
    operation(
        "exec what there is not",
        "ctr task exec --exec-id two web nosuch",
        1,
        MISSING,
    ),
    operation(
        "ls and ps",
        "ctr task ls | awk '{ print $1, $3 }'; ctr task ps web | wc -l",
        0,
        "web RUNNING\n2",
    ),
    operation(
        "pause and resume",
        "ctr task pause web && ctr task ls | awk '{ print $1, $3 }' &&
            ctr task resume web && ctr task exec --exec-id three web echo awake",
        0,
        "awake",
    ),
    operation(
        "rm what runs",
        "ctr task rm -f web; echo $?; ctr container rm web && ctr container ls -q",
        0,
        "137",
    ),
];

pub(super) const BUILD: &[Operation] = &[
    operation(
        "run, as README.md says",
        "buildah from --name work localhost/box && $readme",
        0,
        "as written",
    ),
    operation(
        "run without options",
        r#"$run work sh -c 'mounts; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; exit 7'"#,
        7,
        "CapEff",
    ),
    operation(
        "run with options",
        "$run --user 1000:1001 --workingdir /tmp --env COLOUR=blue --volume $shared/in:/in:ro work sh -c '
            exec 2>&1; id; pwd; echo $COLOUR; cat /in/note; touch /in/file'; buildah rm work",
        0,
        "of the host",
    ),
    operation(
        "build",
        "buildah build --isolation oci --runtime $runtime -t built $dir",
        0,
        "built",
    ),
];

const AS_WRITTEN: Operation = operation("run, as README.md says", "$readme", 0, "as written");

const MISSING: &str = "executable file not found in $PATH";
