//! Options of `run`, seen from inside.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::runtime::{Running, finish};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{children, place, require};
use serde_json::{Value, json};

#[test]
fn a_process_is_who_it_was_asked_to_be() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], script: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    assert_eq!(run(&[], "id -u; echo $HOME; pwd"), "0\n/root\n/");
    assert_eq!(
        run(&["--user", "web"], "id -u; id -G; echo $HOME"),
        "33\n33 4\n/srv"
    );
    assert_eq!(run(&["--user", "7:9"], "id -u; id -g"), "7\n9");
    supervisor
        .ctl(&["run", "--rm", "--user", "nobody", IMAGE, "true"])
        .failure()
        .says("unable to find user nobody");
    assert_eq!(
        run(
            &["-w", "/srv", "-e", "A=1", "-h", "name"],
            "pwd; echo $A; hostname; cat /etc/hostname"
        ),
        "/srv\n1\nname\nname"
    );
    assert_eq!(run(&["--entrypoint", ""], "echo none"), "none");
    let echoed = supervisor.says(&["run", "--rm", "--entrypoint", "echo", IMAGE, "-n", "words"]);
    assert_eq!(echoed, "words");
}

#[test]
fn what_follows_the_image_is_the_programs_whatever_it_looks_like() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |entrypoint: &str, words: &[&str]| {
        let flags = [
            "run",
            "--rm=true",
            "--privileged=false",
            "--entrypoint",
            entrypoint,
            IMAGE,
        ];
        supervisor.says(&[&flags[..], words].concat())
    };
    assert_eq!(run("sh", &["-c", "echo hi"]), "hi");
    assert_eq!(run("echo", &["-d", "--privileged"]), "-d --privileged");
    assert_eq!(run("echo", &["--help"]), "--help");
    assert_eq!(run("echo", &["--", "x"]), "-- x");
}

#[test]
fn of_an_option_that_is_given_twice_the_last_counts() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let twice =
        "run --rm --rm -i -i --name one --name other -u root -u web -h one -h=two -e A=1 -e B=2";
    let mut words: Vec<_> = twice.split(' ').collect();
    words.extend([IMAGE, "sh", "-c", "id -un; hostname; echo $A$B"]);
    assert_eq!(supervisor.says(&words), "web\ntwo\n12");
    let script = "test -t 0 || echo none";
    let flags = ["run", "--rm", "-it=false", "--name", "other", IMAGE];
    let said = supervisor.says(&[&flags[..], &["sh", "-c", script]].concat());
    assert_eq!(said, "none");
    supervisor.says(&[
        "run",
        "--rm",
        "--rm=false",
        "--name",
        "stays",
        IMAGE,
        "true",
    ]);
    assert_eq!(
        supervisor.says(&["ps", "-a", "--format", "{{.Names}}"]),
        "stays"
    );
}

#[test]
fn an_error_is_written_in_one_piece() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    // Each write is a message of its own.
    let (reader, stderr) = UnixDatagram::pair().unwrap();
    let mut client = supervisor.command(&["inspect", "nosuch"]);
    client
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(OwnedFd::from(stderr));
    let (pid, since) = children::spawn(&mut client);
    assert_eq!(children::wait(pid, since).unwrap().code(), Some(1));
    let mut message = [0; 4096];
    let length = reader.recv(&mut message).unwrap();
    let line = String::from_utf8_lossy(&message[..length]);
    assert!(
        line.starts_with("caissonctl: ") && line.ends_with('\n'),
        "{line:?}"
    );
}

#[test]
fn a_container_that_cannot_begin_and_goes_with_its_end_goes() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for flags in [&["--rm"][..], &["--rm", "-d"]] {
        let words = [&["run"], flags, &[IMAGE, "/no/such"]].concat();
        assert_eq!(supervisor.ctl(&words).code(), 127);
        assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    }
}

#[test]
fn others_reach_nothing_of_what_the_daemon_keeps() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["run", "--rm", "-v", "data:/data", IMAGE, "true"]);
    let root = supervisor.scratch.path().join("root");
    for name in std::fs::read_dir(&root).unwrap() {
        let name = name.unwrap();
        let mode = name.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name:?}: {mode:o}");
    }
}

#[test]
fn an_exec_is_who_the_container_is_unless_it_is_told() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = ["--user", "web", "--group-add", "77", "-e", "HOME=/tmp"];
    let id = supervisor.detached(&flags, "sleep 1000");
    let exec = |user: &[&str], script: &str| {
        supervisor.says(&[&["exec"], user, &[&id, "sh", "-c", script]].concat())
    };
    let who = "id -u; sed -n 's/^Groups:[ \\t]*//p' /proc/self/status; echo $HOME";
    assert_eq!(exec(&[], who), "33\n4 33 77 \n/tmp");
    assert_eq!(exec(&["--user", "root"], who), "0\n0 \n/root");
    assert_eq!(exec(&["--user", "web"], who), "33\n4 33 \n/srv");
    assert_eq!(exec(&["--user", "web:log"], who), "33\n4 \n/srv");
    assert_eq!(exec(&["--user", "7:9"], who), "7\n9 \n/");
    // What it has made of its accounts counts.
    let root = ["--user", "root"];
    exec(&root, "echo new:x:50:50::/new: >>/etc/passwd");
    exec(&root, "echo more:x:60:web,new >>/etc/group");
    assert_eq!(exec(&["--user", "new"], who), "50\n50 60 \n/new");
    exec(
        &root,
        "mv /etc/passwd /srv; ln -s ../srv/passwd /etc/passwd",
    );
    assert_eq!(exec(&["--user", "new"], who), "50\n50 60 \n/new");
    // Nothing of the host's does, and no trick keeps the daemon waiting.
    let outside = supervisor
        .scratch
        .file("passwd", "outside:x:0:0::/outside:\n");
    let up = "../".repeat(40);
    for trick in [
        &format!("ln -sf {up}{} /etc/passwd", outside.display()),
        "ln -sf passwd /etc/passwd",
        "rm /etc/passwd; mkfifo /etc/passwd",
        "rm /etc/passwd; mknod /etc/passwd c 1 5",
    ] {
        exec(&["--user", "0"], trick);
        supervisor
            .ctl(&["exec", "--user", "outside", &id, "true"])
            .failure()
            .says("unable to find user outside");
    }
}

#[test]
fn rights_are_as_few_as_dockers() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], script: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    let status = |flags: &[&str], name: &str| {
        run(
            flags,
            &format!("sed -n 's/^{name}:[ \\t]*//p' /proc/self/status"),
        )
    };
    assert_eq!(status(&[], "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&["--user", "web"], "CapEff"), "0000000000000000");
    assert_eq!(
        status(&["--cap-drop", "all", "--cap-add", "chown"], "CapEff"),
        "0000000000000001"
    );
    assert_eq!(
        (
            status(&[], "Seccomp"),
            status(&["--security-opt", "seccomp=unconfined"], "Seccomp")
        ),
        ("2".into(), "0".into())
    );
    assert_eq!(
        status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"),
        "1"
    );
    for script in [
        "mount -t tmpfs none /mnt",
        "unshare -n true",
        "echo 1 >/proc/sys/kernel/printk",
        "chroot / true && false",
    ] {
        let finished = supervisor.ctl(&["run", "--rm", IMAGE, "sh", "-c", script]);
        assert_ne!(finished.code(), 0, "{script}");
    }
    supervisor
        .ctl(&["run", "--rm", "--read-only", IMAGE, "touch", "/x"])
        .failure()
        .says("read-only");
    assert_eq!(
        run(
            &["--read-only", "--tmpfs", "/t:size=1m"],
            "touch /t/x && echo fine"
        ),
        "fine"
    );
}

#[test]
fn two_that_are_the_first_to_use_a_volume_both_see_all_of_the_images_files() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let many = "mkdir /many; for i in $(seq 1 3000); do echo $i >/many/file$i; done";
    let id = supervisor.detached(&[], many);
    assert_eq!(supervisor.says(&["wait", &id]), "0");
    supervisor.says(&["commit", &id, "many"]);
    for round in 0..4 {
        let volume = format!("data{round}:/many");
        let count = ["run", "--rm", "-v", &volume, "many", "sh", "-c"];
        let count = [&count[..], &["cat /many/file* | wc -l"]].concat();
        for mut client in [(); 3].map(|()| supervisor.start(&count)) {
            let seen = client.stdout.rest();
            client.wait().success();
            assert_eq!(seen.trim(), "3000");
        }
    }
    let volumes = supervisor.scratch.path().join("root/volumes");
    assert_eq!(super::clean::names(&volumes).len(), 4);
}

#[test]
fn a_volume_outlives_containers_and_begins_with_the_images_files() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&[
        "run",
        "--rm",
        "-v",
        "data:/srv",
        IMAGE,
        "sh",
        "-c",
        "echo kept >/srv/mine",
    ]);
    let read = supervisor.says(&[
        "run",
        "--rm",
        "-v",
        "data:/d:ro",
        IMAGE,
        "sh",
        "-c",
        "cat /d/file /d/mine; touch /d/x || true",
    ]);
    assert_eq!(read, "from the image\nkept");
    let id = supervisor.says(&["create", "-v", "data:/d", IMAGE, "true"]);
    supervisor
        .ctl(&["volume", "rm", "data"])
        .failure()
        .says("in use by container");
    supervisor.says(&["rm", &id]);
    assert_eq!(supervisor.says(&["volume", "rm", "data"]), "data");
    // One without a name goes with the container that goes with its end.
    supervisor.says(&["run", "--rm", "-v", "/anonymous", IMAGE, "true"]);
    assert_eq!(supervisor.says(&["volume", "ls", "-q"]), "");
    let host = supervisor.scratch.dir("host");
    let bind = format!("{}:/h", host.display());
    supervisor.says(&[
        "run",
        "--rm",
        "-v",
        &bind,
        IMAGE,
        "sh",
        "-c",
        "echo out >/h/file",
    ]);
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "out\n");
    supervisor
        .ctl(&[
            "run",
            "--rm",
            "--mount",
            "type=bind,src=/no/such,dst=/h",
            IMAGE,
            "true",
        ])
        .failure()
        .says("does not exist");
}

#[test]
fn namespaces_are_its_own_the_hosts_or_anothers() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let namespace = |flags: &[&str], kind: &str| {
        supervisor.says(
            &[
                &["run", "--rm"],
                flags,
                &[IMAGE, "readlink", &format!("/proc/self/ns/{kind}")],
            ]
            .concat(),
        )
    };
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    assert_ne!(namespace(&[], "net"), own("net"));
    assert_eq!(namespace(&["--network", "host"], "net"), own("net"));
    assert_eq!(namespace(&["--pid", "host"], "pid"), own("pid"));
    let id = supervisor.detached(&["--name", "other"], "sleep 1000");
    let others =
        |kind: &str| supervisor.says(&["exec", &id, "readlink", &format!("/proc/self/ns/{kind}")]);
    assert_eq!(
        namespace(&["--network", "container:other"], "net"),
        others("net")
    );
    supervisor.says(&["kill", &id]);
    supervisor.says(&["wait", &id]);
    supervisor
        .ctl(&["run", "--rm", "--network", "container:other", IMAGE, "true"])
        .failure()
        .says("not running");
}

#[test]
fn limits_hold_and_who_exceeds_them_is_told() {
    require!(
        containers,
        busybox,
        controller("memory"),
        controller("pids"),
        controller("cpu")
    );
    let supervisor = Supervisor::new();
    let flags = [
        "run",
        "--rm",
        "--memory",
        "64m",
        "--pids-limit",
        "20",
        "--cpus",
        "0.5",
        IMAGE,
    ];
    let files = [
        "cat",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/pids.max",
        "/sys/fs/cgroup/cpu.max",
    ];
    assert_eq!(
        supervisor.says(&[&flags[..], &files].concat()),
        format!("{}\n20\n50000 100000", 64 << 20)
    );
    let id = supervisor.detached(&["--memory", "16m", "--memory-swap", "16m"], "sleep 1000");
    supervisor.says(&["update", "--memory", "32m", "--memory-swap", "32m", &id]);
    assert_eq!(
        supervisor.says(&["exec", &id, "cat", "/sys/fs/cgroup/memory.max"]),
        (32 << 20).to_string()
    );
    let hog = supervisor.detached(
        &["--memory", "16m", "--memory-swap", "16m"],
        "exec dd if=/dev/zero of=/dev/null bs=100M",
    );
    assert_eq!(supervisor.says(&["wait", &hog]), "137");
    assert_eq!(supervisor.field(&hog, "{{.State.OOMKilled}}"), "true");
    let stats = supervisor.says(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.MemUsage}} {{.PIDs}}",
        &id,
    ]);
    assert!(stats.ends_with("/ 32MiB 1"), "{stats}");
}

#[test]
fn an_init_passes_signals_on_and_ends_as_the_program_does() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done";
    let mut client = supervisor.start(&[
        "run", "--rm", "--init", "--name", "box", IMAGE, "sh", "-c", script,
    ]);
    assert_eq!(client.stdout.line(), "ready");
    supervisor.says(&["stop", "box"]);
    assert_eq!(client.wait().code(), 9);
    assert_eq!(
        supervisor
            .ctl(&["run", "--rm", "--init", IMAGE, "sh", "-c", "exit 4"])
            .code(),
        4
    );
    assert_eq!(
        supervisor
            .ctl(&["run", "--rm", "--init", IMAGE, "nothing"])
            .code(),
        127
    );
}

#[test]
fn real_time_signals_go_through_an_init() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let dies = ["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -37 $$"];
    assert_eq!(supervisor.ctl(&dies).code(), 165);
    // As an image of systemd's is stopped.
    let flags = ["--init", "--stop-signal", "SIGRTMIN+3"];
    let script = "trap 'exit 9' 37; trap 'echo 38' 38; echo ready; while true; do sleep 0.1; done";
    let id = supervisor.detached(&flags, script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    supervisor.says(&["kill", "-s", "RTMAX-26", &id]);
    assert_eq!(log.stdout.line(), "38");
    supervisor.says(&["stop", &id]);
    assert_eq!(supervisor.says(&["wait", &id]), "9");
    supervisor
        .ctl(&["create", "--stop-signal", "RTMIN+31", IMAGE, "true"])
        .failure()
        .says("no signal is called 'RTMIN+31'");
}

#[test]
fn another_runtime_can_be_asked_for() {
    require!(containers, busybox, program("runc"));
    let supervisor = Supervisor::new();
    assert_eq!(
        supervisor.says(&[
            "run",
            "--rm",
            "--runtime",
            "runc",
            IMAGE,
            "echo",
            "under runc"
        ]),
        "under runc"
    );
    supervisor
        .ctl(&["run", "--rm", "--runtime", "no-such-runtime", IMAGE, "true"])
        .failure()
        .says("no-such-runtime");
}

#[test]
fn namespaces_of_another_container_or_of_the_host_are_joined() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let of = |flags: &[&str], script: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    let namespace = |name: &str, kind: &str| {
        supervisor.says(&["exec", name, "readlink", &format!("/proc/self/ns/{kind}")])
    };
    let flags = ["--name", "shared", "--ipc", "shareable", "--shm-size", "1m"];
    supervisor.detached(&flags, "echo both >/dev/shm/file; echo ready; sleep 1000");
    supervisor.detached(&["--name", "private"], "sleep 1000");
    let mut log = supervisor.start(&["logs", "-f", "shared"]);
    assert_eq!(log.stdout.line(), "ready");
    // The files of shared memory belong to the namespace.
    let look = "readlink /proc/self/ns/ipc; cat /dev/shm/file; df -k /dev/shm | tail -1 | awk '{print $2}'";
    assert_eq!(
        of(&["--ipc", "container:shared"], look),
        format!("{}\nboth\n1024", namespace("shared", "ipc"))
    );
    let refused = ["run", "--rm", "--ipc", "container:private", IMAGE, "true"];
    supervisor.ctl(&refused).failure().says("--ipc shareable");
    let look = "readlink /proc/self/ns/pid; cat /proc/1/cmdline | tr '\\0' ' '";
    assert_eq!(
        of(&["--pid", "container:private"], look),
        format!("{}\nsleep 1000", namespace("private", "pid"))
    );
    let host = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        link.unwrap().display().to_string()
    };
    for kind in ["pid", "ipc"] {
        let look = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(of(&[&format!("--{kind}"), "host"], &look), host(kind));
        let refused = ["run", "--rm", &format!("--{kind}"), "odd", IMAGE, "true"];
        supervisor.ctl(&refused).failure().says("'odd'");
    }
    // What others still use stays theirs; a new one joins nothing that is gone.
    supervisor.says(&["rm", "-f", "shared"]);
    let refused = ["run", "--rm", "--ipc", "container:shared", IMAGE, "true"];
    supervisor.ctl(&refused).failure().says("no such container");
}

#[test]
fn inspect_shows_what_the_image_adds_and_where_volumes_are() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let changes = [
        "ENV A=image B=image",
        "USER web",
        "WORKDIR /srv",
        "CMD [\"sleep\", \"7\"]",
        "EXPOSE 80",
        "STOPSIGNAL SIGUSR1",
        "LABEL tier=front",
    ];
    supervisor.says(&["create", "--name", "base", IMAGE, "true"]);
    let mut commit = vec!["commit"];
    changes
        .iter()
        .for_each(|change| commit.extend(["-c", change]));
    commit.extend(["base", "rich:1"]);
    supervisor.says(&commit);
    supervisor.says(&["create", "--name", "plain", "rich:1"]);
    let shown = |name: &str, field: &str| {
        let text = supervisor.field(name, &format!("{{{{json .Config.{field}}}}}"));
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(shown("plain", "Env"), json!(["A=image", "B=image"]));
    assert_eq!(shown("plain", "Cmd"), json!(["sleep", "7"]));
    assert_eq!(shown("plain", "Entrypoint"), Value::Null);
    assert_eq!(shown("plain", "User"), "web");
    assert_eq!(shown("plain", "WorkingDir"), "/srv");
    assert_eq!(shown("plain", "StopSignal"), "SIGUSR1");
    assert_eq!(shown("plain", "ExposedPorts"), json!({ "80/tcp": {} }));
    assert_eq!(shown("plain", "Labels"), json!({ "tier": "front" }));
    let flags = ["-e", "A=own", "-e", "C=own", "-u", "7", "-v", "data:/data"];
    let own = ["create", "--name", "own", "--entrypoint", "sh"];
    supervisor.says(&[&own[..], &flags, &["rich:1", "-c", "true"]].concat());
    assert_eq!(shown("own", "Env"), json!(["A=own", "B=image", "C=own"]));
    assert_eq!(shown("own", "Cmd"), json!(["-c", "true"]));
    assert_eq!(shown("own", "Entrypoint"), json!(["sh"]));
    assert_eq!(shown("own", "User"), "7");
    let path = supervisor.says(&["volume", "inspect", "data", "--format", "{{.Mountpoint}}"]);
    let mounts = "{{range .Mounts}}{{.Name}} {{.Source}}{{end}}";
    assert_eq!(supervisor.field("own", mounts), format!("data {path}"));
    // It is the daemon that says so, as a start has it.
    let flags = ["create", "--name", "host", "--network", "host", "-e", "B"];
    supervisor.says(&[&flags[..], &["rich:1"]].concat());
    assert_eq!(shown("host", "Env"), json!(["A=image"]));
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(shown("host", "Hostname"), hostname.trim());
    supervisor.says(&["commit", "own", "again:1"]);
    let image = |field: &str| {
        let format = format!("{{{{json .Config.{field}}}}}");
        let text = supervisor.says(&["image", "inspect", "again:1", "--format", &format]);
        serde_json::from_str::<Value>(&text).unwrap()
    };
    for field in ["Env", "Cmd", "Entrypoint", "User", "WorkingDir"] {
        assert_eq!(image(field), shown("own", field), "{field}");
    }
}

#[test]
fn the_daemons_places_are_seen_from_where_its_client_is() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let mut relative = Command::new(place::caissonctl());
    let root = supervisor.scratch.path().join("root");
    let from_run = |path: &Path| Path::new("..").join(path.strip_prefix("/").unwrap());
    relative
        .current_dir("/run")
        .arg("--root")
        .arg(from_run(&root))
        .arg("--state")
        .arg(from_run(&supervisor.state))
        .args(["volume", "create", "here"]);
    finish(relative).success();
    assert_eq!(supervisor.says(&["volume", "ls", "-q"]), "here");
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let long = "x".repeat(65);
    let absent = supervisor.scratch.path().join("absent");
    let nowhere = format!("{}:rel", absent.display());
    for (flags, why) in [
        (&["--restart", "always:3"][..], "only on-failure"),
        (
            &["-v", "a:/data", "-v", "b:/data/"],
            "duplicate mount point",
        ),
        (
            &["-v", "a:/data", "--tmpfs", "/data"],
            "duplicate mount point",
        ),
        (&["-v", &nowhere], "an absolute path"),
        (&["-v", "/absent:"], "between the colons"),
        (&["-v", ":/data"], "between the colons"),
        (&["--cpus", "1", "--cpu-quota", "5000"], "conflicting"),
        (&["-h", "two words"], "host name"),
        (&["-h", ".x"], "host name"),
        (&["-h", &long], "host name"),
        (&["--mount", "type=bind,\"source=/a"], "quote"),
        (
            &["--stop-timeout", "1", "--stop-timeout", "y"],
            "invalid value 'y'",
        ),
        (&["--no-such-option"], "(see 'caissonctl create --help')"),
        (&["--stop-timeout", "x"], "(see 'caissonctl create --help')"),
    ] {
        let flags: Vec<String> = flags.iter().map(|word| (*word).to_owned()).collect();
        let mut words = vec!["create"];
        words.extend(flags.iter().map(String::as_str));
        words.extend([IMAGE, "true"]);
        let refused = supervisor.ctl(&words);
        assert_eq!(
            (refused.code(), refused.stderr.lines().count()),
            (125, 1),
            "{refused}"
        );
        refused.says(why);
    }
    assert!(!absent.exists());
    supervisor
        .ctl(&["image", "tag"])
        .failure()
        .says("(see 'caissonctl image tag --help')");
    let mut odd = supervisor.command(&["volume", "create"]);
    odd.arg(OsStr::from_bytes(b"v\xff"));
    let odd = finish(odd);
    assert_eq!((odd.code(), odd.stderr.lines().count()), (125, 1), "{odd}");
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    let here = supervisor.scratch.path().join("a,b");
    std::fs::create_dir(&here).unwrap();
    let mount = format!("type=bind,\"source={}\",target=/here", here.display());
    supervisor.says(&[
        "run",
        "--rm",
        "--mount",
        &mount,
        IMAGE,
        "touch",
        "/here/file",
    ]);
    assert!(here.join("file").exists());
    let forced = supervisor.ctl(&["rm", "-f", "nosuch"]);
    assert_eq!((forced.code(), &*forced.stdout), (0, ""), "{forced}");
    forced.says("no such container");
}

#[test]
fn an_id_is_written_down_and_volumes_are_those_of_another() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let file = supervisor.scratch.path().join("id");
    let cidfile = format!("--cidfile={}", file.display());
    supervisor
        .ctl(&["create", &cidfile, "no-such-image"])
        .failure();
    assert!(!file.exists());
    let make = [
        "create",
        &cidfile,
        "--pull=never",
        "--name",
        "one",
        "-v",
        "data:/data",
        IMAGE,
    ];
    let id = supervisor.says(&[&make[..], &["true"]].concat());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    supervisor
        .ctl(&["create", &cidfile, IMAGE])
        .failure()
        .says("File exists");
    supervisor
        .ctl(&["create", "--pull=always", IMAGE])
        .failure()
        .says("no registries");
    let run = |from: &str, script: &str| {
        supervisor.ctl(&[
            "run",
            "--rm",
            "--volumes-from",
            from,
            IMAGE,
            "sh",
            "-c",
            script,
        ])
    };
    run("one", "echo word >/data/file").success();
    let read = run("one:ro", "cat /data/file; ! touch /data/file").success();
    assert_eq!(
        read.stdout,
        "word
"
    );
    run("one:xy", "true").failure().says("CONTAINER:ro");
}

#[test]
fn verbs_have_the_options_of_dockers() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--name", "one"], "sleep 1000");
    supervisor.says(&["create", "--name", IMAGE, IMAGE, "true"]);
    supervisor.says(&["create", "--name", "three", IMAGE, "true"]);
    let names = ["ps", "-n", "2", "--format", "{{.Names}}"];
    assert_eq!(supervisor.says(&names), format!("three\n{IMAGE}"));
    let kind = |kind: &str| {
        let found = supervisor.says(&["inspect", "--type", kind, "--format", "{{.Id}}", IMAGE]);
        found.starts_with("sha256:")
    };
    assert!(kind("image") && !kind("container"));
    supervisor
        .ctl(&["inspect", "--type", "image", "one"])
        .failure();
    supervisor.says(&["logs", "--details", "one"]);
    let processes = supervisor.says(&["top", "one", "-eo", "pid,args"]);
    assert_eq!(processes.lines().count(), 2, "{processes}");
    assert!(processes.contains("sleep 1000"), "{processes}");
    supervisor
        .ctl(&["top", &id, "-eo", "args"])
        .failure()
        .says("no PID");
}

#[test]
fn a_daemon_is_the_same_whoever_started_it() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let line = "umask 077; ulimit -Sn 300; SECRET=1 $ctl version";
    integration::runtime::finish(supervisor.in_shell(line)).success();
    supervisor.import();
    let environment = std::fs::read(format!("/proc/{}/environ", supervisor.pid())).unwrap();
    assert!(!String::from_utf8(environment).unwrap().contains("SECRET"));
    let script = "ulimit -Sn; cat /etc/hostname >/dev/null && echo read";
    let seen = supervisor.says(&["run", "--rm", "--user", "web", IMAGE, "sh", "-c", script]);
    assert_eq!(seen, "1024\nread");
}

#[test]
fn what_a_container_finds_is_as_open_whatever_mask_the_daemon_was_started_under() {
    require!(containers, busybox);
    for mask in ["077", "000"] {
        let supervisor = Supervisor::without_image();
        let words = supervisor.daemon_command(&[]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("umask {mask}; exec \"$0\" \"$@\"")])
            .arg(words.get_program())
            .args(words.get_args());
        let mut daemon = Running::start(shell);
        assert_eq!(daemon.stdout.line(), "ready");
        supervisor.import();
        let made = supervisor.scratch.name("made/here");
        let flags = ["-v", "data:/data", "-v", &format!("{made}:/made")];
        let id = supervisor.detached(&flags, "umask; exec sleep 1000");
        let script = "umask; cd /etc; stat -c %a hosts hostname resolv.conf /data /made; cat hosts hostname resolv.conf >/dev/null && echo read";
        let seen = supervisor.says(&["exec", "--user", "1000", &id, "sh", "-c", script]);
        assert_eq!(seen, "0022\n644\n644\n644\n755\n755\nread", "{mask}");
        let mut log = supervisor.start(&["logs", "-f", &id]);
        assert_eq!(log.stdout.line(), "0022");
        supervisor.says(&["rm", "-f", &id]);
        log.wait();
        supervisor.crash();
        daemon.wait();
    }
}

#[test]
fn a_client_that_starts_the_daemon_keeps_its_own_mask() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    supervisor.crash();
    std::fs::remove_dir_all(&supervisor.state).unwrap();
    let saved = supervisor.scratch.name("saved.tar");
    let line = format!("umask 077; $ctl save -o {saved} {IMAGE}");
    integration::runtime::finish(supervisor.in_shell(&line)).success();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(saved.as_ref()), 0o600);
    // Containers with ids of their own go through it.
    assert_eq!(mode(&supervisor.state), 0o711);
    let run = ["run", "--rm", "--userns", "auto", IMAGE, "echo", "here"];
    assert_eq!(supervisor.says(&run), "here");
}

#[test]
fn who_shares_a_network_shares_its_names() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = [
        "--name",
        "first",
        "--hostname",
        "of-first",
        "--add-host",
        "db:10.0.0.1",
    ];
    supervisor.detached(&flags, "sleep 1000");
    supervisor.detached(
        &["--name", "second", "--network", "container:first"],
        "sleep 1000",
    );
    let script = "hostname; cat /etc/hostname /etc/hosts";
    let of = |container: &str| supervisor.says(&["exec", container, "sh", "-c", script]);
    let names = of("first");
    assert!(
        names.starts_with("of-first\nof-first\n") && names.contains("10.0.0.1\tdb"),
        "{names}"
    );
    assert_eq!(of("second"), names);
    assert_eq!(
        supervisor.field("second", "{{.Config.Hostname}}"),
        "of-first"
    );
    supervisor.says(&[
        "exec",
        "first",
        "sh",
        "-c",
        "echo 10.0.0.2 late >>/etc/hosts",
    ]);
    assert!(of("second").contains("late"));
    let third = [
        "run",
        "--network",
        "container:second",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    assert_eq!(supervisor.says(&third), of("first"));
    for option in [
        ["--hostname", "own"],
        ["--add-host", "a:1.1.1.1"],
        ["--dns", "1.1.1.1"],
    ] {
        let words = [
            &["create", "--network", "container:first"],
            &option[..],
            &[IMAGE, "true"],
        ]
        .concat();
        supervisor
            .ctl(&words)
            .failure()
            .says("conflicting options: ");
    }
}

#[test]
fn a_container_is_in_the_control_group_that_is_named() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let parent = place::unique("parent");
    let inner = format!("{parent}/inner.slice/");
    let id = supervisor.detached(&["--cgroup-parent", &inner], "sleep 1000");
    let pid = supervisor.field(&id, "{{.State.Pid}}");
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = group.lines().find_map(|line| line.strip_prefix("0::"));
    let expected = format!("/{parent}/inner.slice/{id}");
    assert_eq!(group, Some(&*expected));
    // By its group, a process is known to be the container's.
    supervisor.says(&["cp", &format!("{id}:/etc"), &supervisor.scratch.name("etc")]);
    let said = supervisor.field(&id, "{{.HostConfig.CgroupParent}}");
    assert_eq!(said, inner);
    supervisor.says(&["rm", "-f", &id]);
    // Others may have theirs there, too: only the container's own goes.
    for group in [format!("{parent}/inner.slice"), parent] {
        fs::remove_dir(Path::new("/sys/fs/cgroup").join(group)).unwrap();
    }
    for (parent, said) in [
        ("a/../b", "'a/../b'"),
        ("system.slice:caisson:name", "'system.slice:caisson:name'"),
        ("a\nb", "'a\\nb'"),
    ] {
        supervisor
            .ctl(&["create", "--cgroup-parent", parent, IMAGE, "true"])
            .failure()
            .says(&format!("{said} is no path of a control group"));
    }
}

#[test]
fn a_new_volume_has_the_images_links_fifos_and_devices_too() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let make = "cd /srv; mkfifo -m 620 fifo; mknod -m 604 zero c 1 5; ln -s fifo link; chown -h 33:4 fifo link;
        touch -hd '2001-02-03 04:05:06' *";
    supervisor.says(&["run", "--name", "first", IMAGE, "sh", "-c", make]);
    supervisor.says(&["commit", "first", "made:1"]);
    let look = [
        "made:1",
        "sh",
        "-c",
        "stat -c '%n %F %a %u:%g %t,%T %Y' /srv/*",
    ];
    let seen = |flags: &[&str]| supervisor.says(&[&["run", "--rm"], flags, &look].concat());
    let image = seen(&[]);
    assert_eq!(image.lines().count(), 4, "{image}");
    assert_eq!(seen(&["-v", "data:/srv"]), image);
}

#[test]
fn a_part_of_a_volume_is_mounted_and_no_link_leads_out_of_it() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let fill = "cd /d; mkdir -p a/b; echo in >a/b/file; echo f >single; ln -s / out; ln -s ../../../../.. up; ln -s /a in";
    supervisor.says(&["run", "--rm", "-v", "data:/d", IMAGE, "sh", "-c", fill]);
    let part = |path: &str| format!("type=volume,src=data,dst=/p,volume-subpath={path}");
    let seen = |path: &str, command: &[&str]| {
        let run = ["run", "--rm", "--mount", &part(path), IMAGE];
        supervisor.ctl(&[&run[..], command].concat())
    };
    for (path, command, said) in [
        ("a/b", &["cat", "/p/file"][..], "in\n"),
        ("in/b", &["cat", "/p/file"], "in\n"),
        ("up/./a", &["cat", "/p/b/file"], "in\n"),
        ("single", &["cat", "/p"], "f\n"),
        ("out", &["ls", "/p"], "a\nin\nout\nsingle\nup\n"),
    ] {
        assert_eq!(seen(path, command).success().stdout, said, "{path}");
    }
    seen("none", &["true"]).failure().says("No such file");
    for path in ["../data", "/a", "a/../.."] {
        seen(path, &["true"])
            .failure()
            .says("a path within the volume");
    }
    for mount in ["type=bind,src=/", "type=volume"] {
        let mount = format!("{mount},dst=/p,volume-subpath=a");
        let refused = supervisor.ctl(&["create", "--mount", &mount, IMAGE, "true"]);
        refused.failure().says("only a volume with a name");
    }
    // It is there for cp, too, and goes with nothing but its mount.
    let id = supervisor.detached(&["--mount", &part("a")], "sleep 1000");
    supervisor.says(&["exec", &id, "touch", "/p/b/new"]);
    supervisor.says(&["stop", "-t", "0", &id]);
    supervisor.says(&[
        "cp",
        &format!("{id}:/p/b/new"),
        &supervisor.scratch.name("new"),
    ]);
    supervisor.says(&["start", &id]);
    supervisor.crash();
    supervisor.says(&["rm", "-f", &id]);
    assert_eq!(supervisor.bundles(), [""; 0]);
    assert_eq!(seen("a/b", &["ls", "/p"]).success().stdout, "file\nnew\n");
}

#[test]
fn a_negative_number_is_one_behind_a_space_too() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.says(&["create", "--stop-timeout", "-1", IMAGE, "true"]);
    assert_eq!(supervisor.field(&id, "{{.Config.StopTimeout}}"), "-1");
    supervisor.says(&["stop", "-t", "-1", &id]);
    let refused = supervisor
        .ctl(&["create", "--shm-size", "-1", IMAGE])
        .failure();
    refused.says("cannot be negative");
}
