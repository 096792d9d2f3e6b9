//! What people do with Buildah.

use super::{MISSING, Operation, operation, seldom};

pub(in super::super) const BUILDAH: &[Operation] = &[
    operation(
        "run, as README.md says",
        "buildah from --name work localhost/box && $readme",
        0,
        "as written",
    ),
    seldom(
        "run without options",
        r#"$run work sh -c 'mounts; grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/self/status; ulimit -a; cat /proc/self/cgroup
            cd /dev; stat -c "%n %F %a %t:%T" *; env | grep -v HOSTNAME; exit 7'"#,
        7,
        "CapEff",
    ),
    operation(
        "run with options and input",
        "echo of outside | $run --user 1000:1001 --workingdir /tmp --env COLOUR=blue --volume $shared/in:/in:ro work sh -c '
            exec 2>&1; cat; id; pwd; echo $COLOUR; cat /in/note; touch /in/file'",
        1,
        "of the host",
    ),
    operation(
        "run with a terminal",
        r#"script -qec "$run -t work sh -c 'tty; stat -c %t:%T /dev/console; exit 6'" /dev/null"#,
        6,
        "/dev/pts/",
    ),
    seldom(
        "run with other capabilities",
        "$run --cap-drop CAP_KILL --cap-add CAP_SYS_TIME work grep Cap /proc/self/status",
        0,
        "CapEff",
    ),
    seldom(
        "run with a name and no network",
        "$run --hostname inside --network none work sh -c 'hostname; ls /sys/class/net'",
        0,
        "inside",
    ),
    seldom(
        "run with mounts",
        r#"$run --mount type=tmpfs,dst=/scratch,tmpfs-size=1m --mount type=bind,src=$shared/in,dst=/in,ro work sh -c '
            mounts | grep -E "^/(in|scratch) "; cat /in/note'"#,
        0,
        "of the host",
    ),
    seldom(
        "run in the host's namespaces",
        "$run --network host --pid host --ipc host --uts host work sh -c 'hostname; cat /proc/1/comm; readlink /proc/self/ns/net'",
        0,
        "caisson-vm",
    ),
    seldom("run what there is not", "$run work nosuch", 1, MISSING),
    seldom("run what cannot be executed", "$run work /etc/passwd", 1, "permission denied"),
    seldom(
        "copy a file, and run with it",
        "buildah copy -q work $shared/in/note /note && $run work cat /note",
        0,
        "of the host",
    ),
    seldom(
        "configure, and run so",
        "buildah config --env COLOUR=red --workingdir /tmp --user 1000:1001 work && $run work sh -c 'echo $COLOUR; pwd; id'",
        0,
        "uid=1000",
    ),
    seldom(
        "commit, and run that",
        "buildah commit -q work saved && buildah from --name again localhost/saved && $run again cat /note &&
            buildah rm again && buildah rmi saved | wc -l",
        0,
        "of the host",
    ),
    operation(
        "rm",
        "buildah rm work && buildah containers -q",
        0,
        "ID",
    ),
    operation("build", "$build -t built $files", 0, "uid=1000"),
    seldom(
        "build with limits",
        "$build --memory 64m --memory-swap 64m --cpu-shares 2 --ulimit nofile=100:200 --shm-size 1m --cap-drop all -f $files/Limits $files",
        0,
        "67108864",
    ),
    seldom(
        "build with a secret, a cache and a mount",
        "$build --secret id=word,src=$shared/in/note --network none -f $files/Mounts $files",
        0,
        "of the host",
    ),
    seldom(
        "build in stages, with an argument",
        "$build --build-arg WORD=given -f $files/Stages $files",
        0,
        "given",
    ),
    seldom("build what fails", "$build -f $files/Fails $files", 7, "about to fail"),
    seldom("build with layers, twice", "$build --no-cache --layers -f $files/Layers $files && $build --layers -f $files/Layers $files", 0, "Using cache"),
];

/// What is built, by the names of the files.
pub(in super::super) const CONTAINERFILES: &[(&str, &str)] = &[
    (
        "Containerfile",
        "FROM localhost/box\nRUN echo built >/built && id -u\nUSER 1000:1001\nWORKDIR /tmp\nENV COLOUR=blue\n\
         RUN id; pwd; echo $COLOUR; exec cat /built\n",
    ),
    (
        "Limits",
        "FROM localhost/box\nRUN hostname; ulimit -n; grep Cap /proc/self/status; mounts | grep shm; cat /proc/self/cgroup; \
         cd /sys/fs/cgroup; grep . memory.max memory.swap.max cpu.weight\n",
    ),
    (
        "Mounts",
        "FROM localhost/box\nRUN --mount=type=secret,id=word cat /run/secrets/word; ls /sys/class/net\n\
         RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch touch /cache/file && \
         mounts | grep -E '^/(cache|scratch) '\n",
    ),
    (
        "Stages",
        "FROM localhost/box AS first\nARG WORD\nRUN echo $WORD >/word\n\
         FROM localhost/box\nCOPY --from=first /word /word\nRUN cat /word\n",
    ),
    (
        "Fails",
        "FROM localhost/box\nRUN echo about to fail; exit 7\n",
    ),
    (
        "Layers",
        "FROM localhost/box\nRUN echo one >/one\nRUN cat /one\n",
    ),
];
