//! `exec`: another process in a running container.

use integration::place::{give, write};
use integration::{Bundle, Config, Container, beyond, host, require};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

#[test]
fn exec_enters_every_namespace_and_the_cgroup() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set("/hostname", "shared");
    let container = bundle.pause();
    let seen = container.exec_report(&[], &["ls=/"]);
    for (link, namespace) in seen
        .namespaces
        .iter()
        .filter(|(link, _)| !link.ends_with("for_children"))
    {
        assert_eq!(*namespace, host::namespace(container.pid, link), "{link}");
    }
    assert_eq!(*seen.hostname, "shared");
    assert!(seen.lists["/"].contains(&"bin".to_owned()));
    assert!(
        seen.cgroup.lines().any(|line| line == "0::/"),
        "{:?}",
        seen.cgroup
    );
    assert!(seen.pid > 1);
    assert_eq!(seen.ppid, 0, "its parent is outside");
}

#[test]
fn exec_works_in_a_user_namespace_within_the_hosts_pid_namespace() {
    require!(containers, userns, busybox, static_runtime);
    // Podman without privileges calls its runtime from such a place. Here it is a container, and the runtime's is inside of it.
    let mut bundle = Bundle::with_busybox();
    bundle.config.user_namespace(100_000, 65536);
    bundle.config.no_namespace("pid").unmount("/proc");
    bundle.config.bind("/proc", "/proc", &["rbind"]);
    for list in ["/linux/maskedPaths", "/linux/readonlyPaths"] {
        bundle.config.set(list, json!([]));
    }
    bundle.config.privileged().writable();
    let binary = &bundle.runtime.binary;
    fs::copy(binary, bundle.rootfs().join("bin/runtime")).unwrap();
    let mut inner = Config::default();
    inner.args(&["/bin/busybox", "sleep", "1000"]);
    inner.remove("/linux/resources").no_namespace("cgroup");
    inner.unmount("/sys/fs/cgroup").unmount("/dev/pts");
    bundle.file("bundle/config.json", &inner.0.to_string());
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        bundle.dir(&format!("bundle/rootfs/{name}"));
    }
    let busybox = bundle.rootfs().join("bin/busybox");
    fs::copy(busybox, bundle.rootfs().join("bundle/rootfs/bin/busybox")).unwrap();
    give(&bundle.rootfs(), 100_000, 100_000);
    let script = "runtime='runtime --root /run/inner'
        $runtime run --detach --bundle /bundle inner >/dev/null </dev/null 2>&1 &&
        $runtime exec inner /bin/busybox sh -c 'echo $$ of two' && $runtime delete --force inner";
    bundle.config.args(&["/bin/sh", "-c", script]);
    let said = bundle.run().success().stdout;
    assert!(
        said.ends_with(" of two\n") && said != "1 of two\n",
        "{said}"
    );
}

#[test]
fn exec_runs_in_the_containers_cgroup() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]).pid;
    assert_eq!(host::cgroup_of(second), container.cgroup());
}

#[test]
fn exec_passes_streams_and_exit_codes_through() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for code in [0, 1, 42, 127, 254] {
        assert_eq!(
            container
                .exec(&[], &["/bin/probe", "exit", &code.to_string()])
                .code(),
            code
        );
    }
    assert_eq!(
        container
            .exec(&[], &["/bin/probe", "echo", "out"])
            .success()
            .stdout,
        "out\n"
    );
    let finished = container
        .exec(&[], &["/bin/probe", "complain", "err"])
        .success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", "err\n")
    );
    let mut cat = container
        .runtime
        .start(&["exec", &container.id, "/bin/probe", "cat"]);
    std::io::Write::write_all(cat.stdin.as_mut().unwrap(), b"in\n").unwrap();
    assert_eq!(cat.wait().success().stdout, "in\n");
    for (signal, code) in [("9", 137), ("37", 165)] {
        let killed = container.exec(&[], &["/bin/probe", "signal-self", signal]);
        assert_eq!(killed.code(), code);
    }
}

#[test]
fn exec_has_the_configured_process_properties() {
    require!(containers);
    beyond!(
        exec_has_the_configured_process_properties,
        [crun(
            "ignores the configured process unless a process file is given"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.dir("srv");
    bundle.config.set(
        "/process/user",
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o027 }),
    );
    bundle.config.set("/process/cwd", "/srv").env("FROM=config");
    bundle.config.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_SIGPENDING", "soft": 50, "hard": 60 }]),
    );
    let container = bundle.pause();
    let seen = container.exec_report(&[], &[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.groups, [7]);
    assert_eq!(*seen.cwd, "/srv");
    assert_eq!(
        (seen.var("FROM"), seen.var("HOME")),
        (Some("config"), Some("/home/worker"))
    );
    assert_eq!(*seen.rlimits["RLIMIT_SIGPENDING"], [50, 60]);
    assert!(*seen.no_new_privs);
    assert_eq!(seen.caps.bounding.len(), 3);
}

#[test]
fn exec_has_the_configured_umask() {
    require!(containers);
    beyond!(
        exec_has_the_configured_umask,
        [
            runc_before("1.2", "sets 022"),
            crun("ignores what is configured, some versions only if a process file is given")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/process/user/umask", 0o027);
    let container = bundle.pause();
    assert_eq!(container.exec_report(&[], &[]).umask, 0o027);
    // A file that says nothing of it.
    let process =
        json!({ "user": { "uid": 0, "gid": 0 }, "args": ["/bin/probe", "report"], "cwd": "/" });
    let finished = exec_process(&container, &bundle, &process).success();
    assert_eq!(integration::bundle::seen(&finished).umask, 0o027);
}

#[test]
fn flags_of_exec_override_the_configuration() {
    require!(containers);
    beyond!(
        flags_of_exec_override_the_configuration,
        [crun_before(
            "1.28",
            "ignores the configured process unless a process file is given"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.dir("srv");
    bundle
        .config
        .set("/process/noNewPrivileges", false)
        .env("KEPT=1")
        .env("CHANGED=old");
    let container = bundle.pause();
    let flags = [
        "--user",
        "1000:1001",
        "--cwd",
        "/srv",
        "--env",
        "CHANGED=new",
        "--env",
        "ADDED=a=b",
        "--no-new-privs",
    ];
    let seen = container.exec_report(&flags, &[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.cwd, "/srv");
    assert_eq!(
        (seen.var("KEPT"), seen.var("CHANGED"), seen.var("ADDED")),
        (Some("1"), Some("new"), Some("a=b"))
    );
    assert!(*seen.no_new_privs);
    let seen = container.exec_report(&["-u", "7"], &[]);
    assert_eq!((seen.uid, seen.gid), ([7; 3], [0; 3]));
}

#[test]
fn exec_takes_additional_groups() {
    require!(containers);
    beyond!(
        exec_takes_additional_groups,
        [crun("knows no --additional-gids")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let seen = container.exec_report(
        &["--additional-gids", "100", "--additional-gids", "65533"],
        &[],
    );
    assert_eq!(*seen.groups, [100, 65533]);
}

#[test]
fn exec_adds_capabilities() {
    require!(containers);
    beyond!(
        exec_adds_capabilities,
        [crun(
            "ignores the configured process unless a process file is given"
        )]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let caps = container.exec_report(&["--cap", "CAP_NET_RAW"], &[]).caps;
    let expected: BTreeSet<String> = [
        "CAP_AUDIT_WRITE",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(
        (&*caps.bounding, &*caps.effective, &*caps.permitted),
        (&expected, &expected, &expected)
    );
    // CVE-2022-29162: not the inheritable set.
    assert!(caps.inheritable.is_empty(), "{:?}", caps.inheritable);
}

/// CVE-2022-29162: whatever the container has, what is added is not inheritable, so that the kernel does not raise it as ambient.
#[test]
fn exec_adds_no_inheritable_capabilities() {
    require!(containers);
    beyond!(
        exec_adds_no_inheritable_capabilities,
        [crun(
            "ignores the configured process unless a process file is given"
        )]
    );
    let sets = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/user/uid", 1000)
        .capabilities(&sets, &["CAP_KILL"]);
    let container = bundle.pause();
    let flags = ["--cap", "CAP_NET_RAW"];
    let finished = container
        .exec(&flags, &["/bin/probe", "report"])
        .says("can't raise ambient capability CAP_NET_RAW: ");
    let caps = integration::bundle::seen(&finished).caps;
    assert!(caps.bounding.contains("CAP_NET_RAW"));
    let kill = BTreeSet::from(["CAP_KILL".to_owned()]);
    for set in [
        &caps.inheritable,
        &caps.permitted,
        &caps.effective,
        &caps.ambient,
    ] {
        assert_eq!(**set, kill);
    }
}

/// As in a config: engines built for a newer kernel name capabilities that this one does not have.
#[test]
fn exec_leaves_out_capabilities_that_nobody_knows() {
    require!(containers);
    beyond!(
        exec_leaves_out_capabilities_that_nobody_knows,
        [crun("refuses them")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let flags = ["--cap", "CAP_WHAT", "--cap", "CAP_NET_RAW"];
    let finished = container.exec(&flags, &["/bin/probe", "report"]).success();
    let seen = integration::bundle::seen(&finished);
    assert!(seen.caps.effective.contains("CAP_NET_RAW"));
    finished.says("CAP_WHAT");
}

/// Scripts pass variables that may be empty.
#[test]
fn an_empty_flag_of_exec_is_none() {
    require!(containers);
    beyond!(
        an_empty_flag_of_exec_is_none,
        [crun("takes an empty directory for one")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/process/cwd", "/tmp");
    let container = bundle.pause();
    for flag in ["--user=", "--cwd=", "--process-label=", "--apparmor="] {
        let seen = container.exec_report(&[flag], &[]);
        assert_eq!((&**seen.cwd, seen.uid), ("/tmp", [0; 3]), "{flag}");
    }
}

#[test]
fn users_of_exec_are_numbers_in_range() {
    require!(containers);
    beyond!(
        users_of_exec_are_numbers_in_range,
        [
            runc("takes 4294967296 as root"),
            crun("CVE-2026-30892: takes what it cannot parse as root")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for user in [
        "1000:x",
        "1000:1000:1000",
        "4294967296",
        "-1",
        "0x10",
        "1000 ",
        ":5",
        "1000:-1",
    ] {
        let finished = container.exec(&["--user", user], &["/bin/probe", "exit", "0"]);
        assert_eq!(finished.code(), 255, "{user:?}: {finished}");
    }
}

#[test]
fn exec_takes_the_whole_process_from_a_file() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.dir("srv");
    let container = bundle.pause();
    let process = json!({
        "user": { "uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077 },
        "args": ["probe", "report"],
        "env": ["PATH=/bin", "ONLY=this"],
        "cwd": "/srv",
        "capabilities": { "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"] },
        "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
        "noNewPrivileges": true,
    });
    let seen = integration::bundle::seen(&exec_process(&container, &bundle, &process).success());
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.groups, [5, 6]);
    assert_eq!(*seen.cwd, "/srv");
    assert_eq!(seen.args, ["probe", "report"]);
    assert_eq!(
        (seen.var("ONLY"), seen.var("TERM"), seen.var("HOME")),
        (Some("this"), None, Some("/home/worker"))
    );
    let kill = BTreeSet::from(["CAP_KILL".to_owned()]);
    assert_eq!(
        (
            &*seen.caps.bounding,
            &*seen.caps.effective,
            &*seen.caps.ambient
        ),
        (&kill, &kill, &kill)
    );
    assert_eq!(*seen.rlimits["RLIMIT_CORE"], [0, 0]);
    assert!(*seen.no_new_privs);
}

#[test]
fn a_process_file_without_capabilities_gives_the_containers() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["/bin/probe", "report"], "cwd": "/", "noNewPrivileges": true });
    let seen = integration::bundle::seen(&exec_process(&container, &bundle, &process).success());
    assert_eq!(
        *seen.caps.bounding,
        *container.exec_report(&[], &[]).caps.bounding
    );
    assert!(
        seen.caps.inheritable.is_empty() && seen.caps.ambient.is_empty(),
        "{:?}",
        seen.caps
    );
}

#[test]
fn a_process_file_without_limits_has_the_callers() {
    require!(containers);
    let mut bundle = Bundle::new();
    let limit = |kind: &str| json!({ "type": kind, "soft": 50, "hard": 60 });
    bundle
        .config
        .push("/process/rlimits", limit("RLIMIT_SIGPENDING"));
    let container = bundle.pause();
    let mut process =
        json!({ "user": {}, "args": ["/bin/probe", "report"], "cwd": "/", "env": [] });
    let own = getrlimit(Resource::RLIMIT_SIGPENDING).unwrap();
    for rlimits in [Value::Null, json!([]), json!([limit("RLIMIT_CORE")])] {
        process["rlimits"] = rlimits;
        let finished = exec_process(&container, &bundle, &process).success();
        let seen = integration::bundle::seen(&finished);
        assert_eq!(
            *seen.rlimits["RLIMIT_SIGPENDING"],
            [own.0, own.1],
            "{process}"
        );
    }
}

#[test]
fn a_process_file_without_new_privileges_has_none() {
    require!(containers);
    // What is written in Go leaves a `false` out.
    let mut bundle = Bundle::new();
    bundle.config.set("/process/noNewPrivileges", true);
    let container = bundle.pause();
    let process = json!({ "args": ["/bin/probe", "report"], "cwd": "/" });
    let seen = integration::bundle::seen(&exec_process(&container, &bundle, &process).success());
    assert!(!*seen.no_new_privs);
}

#[test]
fn exec_has_the_containers_oom_score_adjustment() {
    require!(containers);
    beyond!(
        exec_has_the_containers_oom_score_adjustment,
        [crun("leaves the runtime's")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/process/oomScoreAdj", 333);
    let container = bundle.pause();
    assert_eq!(*container.exec_report(&[], &[]).oom_score_adj, 333);
}

#[test]
fn exec_detached_returns_at_once_and_writes_the_pid() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let process = container.exec_detached(&[], &["/bin/probe", "pause", "33"]);
    assert!(host::alive(process.pid));
    assert_ne!(process.pid, container.pid);
    assert_eq!(
        host::namespace(process.pid, "pid"),
        host::namespace(container.pid, "pid")
    );
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), Signal::SIGTERM).unwrap();
    // An engine is the subreaper and gets the exit status. The process may not have blocked the signal yet.
    assert!([33, 143].contains(&process.wait()));
}

#[test]
fn exec_writes_the_pid_in_the_foreground_too() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let pid_file = bundle.scratch.name("foreground.pid");
    container
        .exec(&["--pid-file", &pid_file], &["/bin/probe", "exit", "0"])
        .success();
    assert!(
        fs::read_to_string(&pid_file)
            .unwrap()
            .parse::<i32>()
            .is_ok()
    );
}

#[test]
fn exec_forwards_signals() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let mut exec = container
        .runtime
        .start(&["exec", &container.id, "/bin/probe", "pause", "8"]);
    assert_eq!(exec.stdout.line(), "ready");
    exec.signal(Signal::SIGUSR1);
    assert_eq!(exec.stdout.line(), "signal 10");
    exec.signal(Signal::SIGTERM);
    assert_eq!(exec.wait().code(), 8);
    assert_eq!(container.status(), "running");
}

#[test]
fn a_failed_exec_says_what_was_not_found_and_leaves_the_container_alone() {
    require!(containers);
    beyond!(
        a_failed_exec_says_what_was_not_found_and_leaves_the_container_alone,
        [crun_from(
            "1.9",
            "calls a file that is not executable an operation that is not permitted"
        )]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container
        .exec(&[], &["no-such-program"])
        .failure()
        .says("no-such-program")
        .says("not found in $PATH");
    container
        .exec(&[], &["/bin/no-such-program"])
        .failure()
        .says("/bin/no-such-program")
        .says("no such file or directory");
    container
        .exec(&[], &["/etc/passwd"])
        .failure()
        .says("permission denied");
    assert_eq!(container.status(), "running");
}

#[test]
fn a_failed_exec_exits_with_255() {
    require!(containers);
    beyond!(a_failed_exec_exits_with_255, [crun("exits with 1")]);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    assert_eq!(container.exec(&[], &["no-such-program"]).code(), 255);
    assert_eq!(container.exec(&[], &[]).code(), 255);
    assert_eq!(
        container
            .exec(&["--cwd", "/etc/passwd"], &["/bin/probe", "exit", "0"])
            .code(),
        255
    );
    container.kill("KILL").success();
    container.wait();
    assert_eq!(
        container.exec(&[], &["/bin/probe", "exit", "0"]).code(),
        255
    );
    assert_eq!(
        container.runtime.call(&["exec", "nobody", "true"]).code(),
        255
    );
}

#[test]
fn exec_works_before_start() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let container = bundle.create();
    assert_eq!(
        container
            .exec(&[], &["/bin/probe", "echo", "early"])
            .success()
            .stdout,
        "early\n"
    );
    assert_eq!(container.status(), "created");
}

#[test]
fn exec_refuses_a_stopped_container() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.kill("KILL").success();
    container.wait();
    container.exec(&[], &["/bin/probe", "exit", "0"]).failure();
}

#[test]
fn exec_refuses_a_paused_container_unless_told_otherwise() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container.call("pause", &[]).success();
    assert_eq!(container.status(), "paused");
    container
        .exec(&[], &["/bin/probe", "exit", "0"])
        .failure()
        .says("paused");
    container.call("resume", &[]).success();
    assert_eq!(container.status(), "running");
    container.exec(&[], &["/bin/probe", "exit", "0"]).success();
}

#[test]
fn exec_that_ignores_the_pause_runs_after_resume() {
    require!(containers);
    beyond!(
        exec_that_ignores_the_pause_runs_after_resume,
        [crun("knows no --ignore-paused")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container.call("pause", &[]).success();
    container
        .exec(&[], &["/bin/probe", "exit", "0"])
        .failure()
        .says("--ignore-paused");
    let exec = container.runtime.start(&[
        "exec",
        "--ignore-paused",
        &container.id,
        "/bin/probe",
        "exit",
        "5",
    ]);
    container.call("resume", &[]).success();
    assert_eq!(exec.wait().code(), 5);
}

#[test]
fn many_execs_run_side_by_side() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let codes: Vec<String> = (10..18).map(|code| code.to_string()).collect();
    let execs: Vec<_> = codes
        .iter()
        .map(|code| {
            container
                .runtime
                .start(&["exec", &container.id, "/bin/probe", "exit", code])
        })
        .collect();
    for (exec, code) in execs.into_iter().zip(codes) {
        assert_eq!(exec.wait().code().to_string(), code);
    }
}

#[test]
fn exec_joins_a_cgroup_below_the_containers() {
    require!(containers);
    beyond!(
        exec_joins_a_cgroup_below_the_containers,
        [crun_race("does not wait until all processes have ended")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let group = container.cgroup().join("below");
    fs::create_dir(&group).unwrap();
    let process = container.exec_detached(&["--cgroup", "below"], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(process.pid), group);
    container
        .exec(&["--cgroup", "missing"], &["/bin/probe", "exit", "0"])
        .failure()
        .says("missing");
}

#[test]
fn ps_lists_the_pids_of_all_processes() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]).pid;
    let list = container
        .runtime
        .call(&["ps", "--format", "json", &container.id])
        .success()
        .json();
    let pids: BTreeSet<i64> = list
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    assert_eq!(
        pids,
        BTreeSet::from([i64::from(container.pid), i64::from(second)])
    );
}

#[test]
fn ps_prints_a_table_with_the_processes_of_the_container() {
    require!(containers, path("/bin/ps"));
    beyond!(
        ps_prints_a_table_with_the_processes_of_the_container,
        [crun("prints only the pids")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let table = container.call("ps", &[]).success().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].contains("PID") && lines[0].contains("CMD"),
        "{table}"
    );
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[1].contains(&container.pid.to_string()) && lines[1].contains("probe pause"),
        "{table}"
    );
}

fn exec_process(container: &Container, bundle: &Bundle, process: &Value) -> integration::Finished {
    let file = bundle.scratch.path().join("process.json");
    write(&file, process.to_string());
    container
        .runtime
        .call(&["exec", "--process", file.to_str().unwrap(), &container.id])
}
