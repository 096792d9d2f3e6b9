//! Containers that cannot be made: at whatever stage that shows, nothing is left.

use integration::place::{probe, unique};
use integration::{Bundle, Config, beyond, host, require};
use serde_json::{Value, json};

/// What is wrong, and how that is said in the config.
type Wrong = (&'static str, fn(&mut Config) -> &mut Config);

/// In the order in which the runtime comes across it.
const WRONG: [Wrong; 32] = [
    ("ociVersion", |c| c.set("/ociVersion", "7.0.0")),
    ("root", |c| c.set("/root/path", "missing")),
    ("seccomp action", |c| {
        c.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_WHAT" }),
        )
    }),
    ("cgroup file", |c| {
        c.set("/linux/resources/unified", json!({ "no.such": "1" }))
    }),
    ("cgroup value", |c| {
        c.set(
            "/linux/resources/unified",
            json!({ "cgroup.max.depth": "many" }),
        )
    }),
    ("namespace path", |c| {
        c.join_namespace("network", "/no/such/namespace")
    }),
    ("namespace file", |c| {
        c.join_namespace("network", "/etc/passwd")
    }),
    ("namespace kind", |c| {
        c.join_namespace("network", "/proc/self/ns/uts")
    }),
    ("overlapping maps", |c| {
        let map = json!([
            { "containerID": 0, "hostID": 1, "size": 10 }, { "containerID": 5, "hostID": 100, "size": 10 }
        ]);
        c.namespace("user")
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }),
    ("oom score", |c| c.set("/process/oomScoreAdj", 5000)),
    ("bind source", |c| c.bind("/no/such/source", "/data", &[])),
    ("file system", |c| c.mount("/data", "nosuchfs", "x", &[])),
    ("mount option", |c| {
        c.mount("/data", "tmpfs", "x", &["nonsense=1"])
    }),
    ("mount over proc", |c| {
        c.mount("/proc/sys", "tmpfs", "x", &[])
    }),
    ("mount below a file", |c| {
        c.mount("/etc/passwd/x", "tmpfs", "x", &[])
    }),
    ("device below a file", |c| {
        c.set(
            "/linux/devices",
            json!([{ "path": "/etc/passwd/x", "type": "c", "major": 1, "minor": 3 }]),
        )
    }),
    ("prestart hook", |c| hook(c, "prestart", &["exit", "3"])),
    ("createRuntime hook", |c| {
        hook(c, "createRuntime", &["exit", "3"])
    }),
    ("createContainer hook", |c| {
        hook(c, "createContainer", &["exit", "3"])
    }),
    ("killed hook", |c| {
        hook(c, "createContainer", &["signal-self", "9"])
    }),
    ("missing hook", |c| {
        c.push("/hooks/createRuntime", json!({ "path": "/no/such/hook" }))
    }),
    ("slow hook", |c| {
        hook(c, "createContainer", &["pause"]).set("/hooks/createContainer/0/timeout", 1)
    }),
    ("working directory", |c| {
        c.set("/process/cwd", "/etc/passwd")
    }),
    ("host name", |c| c.set("/hostname", "x".repeat(100))),
    ("sysctl", |c| {
        c.set("/linux/sysctl", json!({ "net.no.such": "1" }))
    }),
    ("sysctl value", |c| {
        c.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "many" }))
    }),
    ("AppArmor profile", |c| {
        c.set("/process/apparmorProfile", "no-such-profile")
    }),
    ("limit", |c| {
        c.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": u64::MAX }]),
        )
    }),
    ("limit order", |c| {
        c.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "hard": 10, "soft": 20 }]),
        )
    }),
    ("user", |c| c.set("/process/user/uid", u32::MAX)),
    ("program", |c| c.args(&["no-such-program"])),
    ("program without a right", |c| c.args(&["/etc/passwd"])),
];

fn hook<'a>(config: &'a mut Config, kind: &str, args: &[&str]) -> &'a mut Config {
    let args: Vec<&str> = [&["probe"], args].concat();
    config.push(
        &format!("/hooks/{kind}"),
        json!({ "path": probe(), "args": args }),
    )
}

/// `create` and `run` check by themselves that no state, cgroup, mount or process bears the container's name.
#[test]
fn create_and_run_leave_nothing() {
    require!(containers, userns);
    beyond!(
        create_and_run_leave_nothing,
        [runc("accepts some of it"), crun("accepts some of it")]
    );
    host::in_own_mounts(|| {
        for wrong in WRONG {
            leaves_nothing(wrong);
        }
    });
}

fn leaves_nothing((what, change): Wrong) {
    let mut bundle = Bundle::new();
    let top = unique("failing");
    bundle
        .config
        .set("/linux/cgroupsPath", format!("/{top}/pod/box"))
        .probe(&["exit", "0"]);
    change(&mut bundle.config);
    let mounts = host::mounts().len();
    let id = unique("fails");
    for verb in ["create", "run"] {
        let finished = bundle.call(verb, &[], &id);
        assert_eq!(finished.code(), 1, "{what}: {finished}");
        assert!(!finished.stderr.is_empty(), "{what}: {finished}");
        bundle.assert_gone(&id);
        // Nor the groups above its own, which were made for it.
        let group = host::hierarchy().join(&top);
        assert!(!group.exists(), "{what}: {}", group.display());
    }
    assert_eq!(host::mounts().len(), mounts, "{what}");
    // The same name can be used for what is right.
    bundle.config = Config::default();
    bundle.config.probe(&["exit", "0"]);
    bundle.call("run", &[], &id).success();
    bundle.assert_gone(&id);
}

/// Found when the container is complete but for this.
#[test]
fn a_pid_file_that_cannot_be_written_leaves_nothing() {
    require!(containers);
    let bundle = Bundle::new();
    for path in ["/no/such/directory/pid", "/proc/pid", "/dev"] {
        let finished = bundle.call("create", &["--pid-file", path], "pidless");
        finished.failure();
        bundle.assert_gone("pidless");
        let finished = bundle.call("run", &["--pid-file", path], "pidless");
        finished.failure();
        bundle.assert_gone("pidless");
    }
}

/// A container whose start fails has stopped, and can be deleted.
#[test]
fn a_failed_start_leaves_a_stopped_container() {
    require!(containers);
    beyond!(
        a_failed_start_leaves_a_stopped_container,
        [
            runc("runs poststart hooks without looking at how they end"),
            crun("runs poststart hooks without looking at how they end")
        ]
    );
    for (kind, path) in [
        ("startContainer", "/bin/probe".into()),
        ("poststart", probe()),
    ] {
        let mut bundle = Bundle::new();
        let failing = json!({ "path": path, "args": ["probe", "exit", "3"] });
        bundle.config.push(&format!("/hooks/{kind}"), failing);
        bundle.config.probe(&["pause"]);
        let mut container = bundle.create();
        container.start().failure().says(kind);
        container.wait();
        assert_eq!(container.status(), "stopped");
        container.delete().success();
        let id = unique("run");
        bundle.call("run", &[], &id).failure().says(kind);
        bundle.assert_gone(&id);
    }
}

/// A failing exec leaves its container as it was.
#[test]
fn a_failed_exec_leaves_the_container_alone() {
    require!(containers);
    beyond!(
        a_failed_exec_leaves_the_container_alone,
        [crun_race("ends before its process has ended")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let before = host::processes(&container.id).len();
    let state: Value = container.state();
    for (flags, args) in [
        (&[][..], &["no-such-program"][..]),
        (&[], &["/etc/passwd"]),
        (&["--cwd", "/no/such/directory"], &["/bin/probe"]),
        (&["--apparmor", "no-such-profile"], &["/bin/probe"]),
        (
            &["--console-socket", "/no/such/socket", "--tty", "--detach"],
            &["/bin/probe"],
        ),
        (&["--pid-file", "/no/such/directory/pid"], &["/bin/probe"]),
        (&["--cgroup", "no/such/group"], &["/bin/probe"]),
    ] {
        container.exec(flags, args).failure();
        assert_eq!(
            host::processes(&container.id).len(),
            before,
            "{flags:?} {args:?}"
        );
    }
    assert_eq!(container.state(), state);
    container.exec(&[], &["/bin/probe", "exit", "0"]).success();
}
