//! What people do with Podman and with Docker alike.

use super::{MISSING, Operation, operation, seldom};

pub(in super::super) const DOCKER: &[Operation] = &[operation(
    "run with a runtime by name, in the default network",
    "docker run --rm --runtime $name box sh -c 'echo hello; ls /sys/class/net; cat /proc/net/route | wc -l'",
    0,
    "hello",
)];

/// What needs no limits.
pub(in super::super) const EVERYDAY: &[Operation] = &[
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
        "run with all kinds of options and input",
        r#"echo of outside | $run --rm -i -h inside -e COLOUR=blue -u 1000:1001 --group-add 7 -w /tmp --read-only \
            --tmpfs /scratch:size=1m -v $shared/in:/in:ro -v $shared/out:/out -v data:/data \
            --ulimit nofile=100:200 --sysctl net.ipv4.ip_forward=1 $limits \
            --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges box sh -c '
            exec 2>&1; cat; hostname; echo $COLOUR; id; pwd; ulimit -n; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status
            touch /file; touch /in/file; cat /in/note; touch /out/file; mounts | grep -E "^/(in|out|data|scratch) "
            cat /proc/sys/net/ipv4/ip_forward
            cd /sys/fs/cgroup; grep . memory.max memory.swap.max cpu.max cpu.weight pids.max; exit 7'"#,
        7,
        "of the host",
    ),
    operation("remove a volume", "$engine volume rm data", 0, "data"),
    operation(
        "run with a terminal and all privileges",
        r#"script -qec "$run --rm -t --privileged box sh -c 'tty; stat -c %t:%T /dev/console; ls -d /dev/kmsg /dev/fuse
            grep -E \"^(Cap|Seccomp)\" /proc/self/status'" /dev/null"#,
        0,
        "/dev/pts/0",
    ),
    // mount(2) does not put a hierarchy over itself (EBUSY); for an unprivileged user who has no cgroup, runc masks the place then.
    seldom(
        "run in the host's namespaces, without seccomp",
        r#"${run%none}host --rm --pid host --ipc host --uts host --security-opt seccomp=unconfined box sh -c '
            hostname; cat /proc/1/comm; readlink /proc/self/ns/net; grep Seccomp /proc/self/status; mounts | grep -v /sys/fs/cgroup'"#,
        0,
        "caisson-vm",
    ),
    seldom(
        "run below an init",
        r#"$run --rm --init box sh -c 'tr "\0" " " </proc/1/cmdline; ps -o args; exit 8'"#,
        8,
        "COMMAND",
    ),
    operation("run what there is not", "$run --rm box nosuch", 127, MISSING),
    operation("run what cannot be executed", "$run --rm box /etc/passwd", 126, "permission denied"),
    operation(
        "run in the background",
        r#"$run -d --name web --ipc shareable box sh -c 'trap "echo bye; exit 3" TERM; trap "exit 9" USR1
            echo started; echo ready >/ready; while :; do sleep 1000 & wait; done'"#,
        0,
        "ID",
    ),
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
            cat; cat /ready; echo $COLOUR; id; pwd; cat /proc/self/cgroup
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
    seldom("top", "$engine top web | awk 'NR > 1 { print $8 }'", 0, "sleep"),
    seldom(
        "cp, into it and out of it",
        "$engine cp $shared/in/note web:/copy && $engine cp web:/copy - | tar -xO",
        0,
        "of the host",
    ),
    seldom(
        "run in the namespaces of another",
        r#"${run%none}container:web --rm --pid container:web --ipc container:web box sh -c '
            tr "\0" " " </proc/1/cmdline; ls /sys/class/net'"#,
        0,
        "started",
    ),
    seldom(
        "restart",
        // runc does not wait until systemd has forgotten the unit, and then cannot start it.
        "{ $engine restart -t 60 web || { [ ${runtime##*/} = runc ] && $engine start web; }; } &&
            $engine exec web cat /ready",
        0,
        "ready",
    ),
    operation("kill with a signal", "$engine kill -s USR1 web && $engine wait web", 0, "9"),
    operation(
        "start and stop",
        "$engine start web && $engine exec web cat /ready && $engine stop -t 60 web &&
            $engine inspect -f '{{.State.ExitCode}}' web",
        0,
        "3",
    ),
    operation("logs", "$engine logs web", 0, "bye"),
    operation("rm", "$engine rm web && $engine ps -a -q --filter name=web", 0, "web"),
    seldom(
        "rm what runs",
        "$run -d --name other --stop-timeout 0 box sleep 1000 && $engine rm -f other &&
            $engine ps -a -q --filter name=other",
        0,
        "other",
    ),
];

/// What needs a cgroup with controllers.
pub(in super::super) const LIMITED: &[Operation] = &[
    // Podman's conmon asks a group for it that systemd removes with its last process: now and then it comes too late, with any runtime.
    operation(
        "run out of memory",
        "for try in 1 2 3 4 5 6 7 8; do
            $run --name hog -m 64m --memory-swap 64m box tail /dev/zero; code=$?
            said=$($engine inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog); $engine rm hog >/dev/null
            case $said in true*) break ;; esac
         done; echo $said; exit $code",
        137,
        "true 137",
    ),
    operation(
        "update",
        r#"$run -d --name small --stop-timeout 0 $limits box sh -c 'echo of the first >/note; echo ready >/ready; exec sleep 1000' &&
            $engine update -m 96m --memory-swap 128m --cpus 0.25 --pids-limit 60 small &&
            $engine exec small sh -c '
                cat /ready; cd /sys/fs/cgroup; grep . memory.max memory.swap.max cpu.max cpu.weight pids.max'"#,
        0,
        "memory.max:100663296",
    ),
    seldom(
        "stats",
        "$engine stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' small | sed 's, [^ ]* /,,'",
        0,
        "small 1",
    ),
    operation(
        "where it is",
        "group=$(cat /proc/$($engine inspect -f '{{.State.Pid}}' small)/cgroup) && echo $group && $show \
            -p Description -p Slice -p Delegate -p MemoryMax -p MemorySwapMax -p TasksMax -p CPUWeight -p CPUQuotaPerSecUSec \
            -p MemoryAccounting -p CPUAccounting -p TasksAccounting -p IOAccounting ${group##*/} | sed s/libcontainer/caisson/",
        0,
        "ID",
    ),
    seldom(
        "commit, paused, and run that",
        "$engine commit --pause small saved && $run --rm saved cat /note && $engine rmi saved | wc -l",
        0,
        "of the first",
    ),
    operation(
        "pause and unpause",
        "$engine pause small && $engine inspect -f '{{.State.Status}}' small; $engine exec small true; echo $?
            $engine unpause small && $engine exec small echo awake && $engine rm -f small",
        0,
        "paused",
    ),
];
