//! Containers of a user without privileges, who has no right but to make user namespaces.

mod cgroups;
mod ids;
mod mounts;
mod nested;

use integration::console::{ConsoleSocket, OnTerminal};
use integration::{Bundle, Config, beyond, host, place, require, runtime, user};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn the_config_that_spec_writes_runs() {
    require!(unprivileged_user);
    let bundle = Bundle::of_user();
    let path = bundle.path();
    std::fs::remove_file(path.join("config.json")).ok(); // There is none yet.
    let spec = ["spec", "--rootless", "--bundle", path.to_str().unwrap()];
    bundle.runtime.call(&spec).success();
    let text = std::fs::read_to_string(path.join("config.json")).unwrap();
    let mut config = Config(serde_json::from_str::<Value>(&text).unwrap());
    config
        .set("/process/terminal", false)
        .probe(&["report", "try=read:/dev/null", "stat=/"]);
    let mut bundle = bundle;
    bundle.config = config;
    let seen = integration::bundle::seen(&bundle.run().success());
    assert_eq!((seen.uid, seen.gid), ([0; 3], [0; 3]));
    // crun adds the subordinate ids.
    assert_eq!(seen.uid_map[0], [0, u64::from(user::UID), 1]);
    assert_eq!(seen.gid_map[0], [0, u64::from(user::GID), 1]);
    assert_eq!(seen.tried("read:/dev/null"), "ok");
    assert_eq!(seen.stat("/").uid, 0);
}

#[test]
fn the_state_is_in_the_users_runtime_directory() {
    require!(unprivileged_user);
    beyond!(
        the_state_is_in_the_users_runtime_directory,
        [crun("leaves it to be cleaned away")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.probe(&["pause"]);
    bundle.save();
    let root = bundle.scratch.path().join("run").join(name());
    bundle.runtime.root.clone_from(&root);
    let (path, id) = (bundle.path(), place::unique("box"));
    let create = bundle
        .runtime
        .bare_command(&["create", "--bundle", path.to_str().unwrap(), &id]);
    runtime::finish(create).success();
    let data = std::fs::metadata(&root).unwrap();
    // The sticky bit keeps systemd-tmpfiles and others from cleaning it away (XDG Base Directory specification).
    assert_eq!(
        (data.permissions().mode() & 0o7777, data.uid()),
        (0o1700, user::UID)
    );
    let state = runtime::finish(bundle.runtime.bare_command(&["state", &id]))
        .success()
        .json();
    assert_eq!(state["status"], "created");
    let list = runtime::finish(bundle.runtime.bare_command(&["list", "--quiet"])).success();
    assert_eq!(list.stdout.trim(), id);
    runtime::finish(bundle.runtime.bare_command(&["delete", "--force", &id])).success();
    bundle.assert_gone(&id);
}

#[test]
fn a_container_is_created_started_and_deleted() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    bundle.config.probe(&["pause", "7"]);
    let mut container = bundle.create();
    assert_eq!(container.status(), "created");
    container.start().success();
    assert_eq!(container.stdout.line(), "ready");
    assert_eq!(container.status(), "running");
    let owner = std::fs::metadata(format!("/proc/{}/stat", container.pid)).unwrap();
    assert_eq!(owner.uid(), user::UID);
    let list = bundle.runtime.call(&["list", "--quiet"]).success();
    assert_eq!(list.stdout.trim(), container.id);
    container.kill("TERM").success();
    assert_eq!(container.wait(), 7);
    assert_eq!(container.status(), "stopped");
    container.delete().success();
}

#[test]
fn exec_joins_a_container() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let container = bundle.pause();
    let seen = container.exec_report(&["--env", "A=1"], &[]);
    assert_eq!((seen.uid, seen.gid), ([0; 3], [0; 3]));
    assert_eq!(seen.var("A"), Some("1"));
    for kind in ["user", "mnt", "pid", "ipc", "uts"] {
        assert_eq!(
            seen.namespaces[kind],
            host::namespace(container.pid, kind),
            "{kind}"
        );
    }
    assert_eq!(container.exec(&[], &["/bin/probe", "exit", "9"]).code(), 9);
}

#[test]
fn the_processes_of_a_container_without_a_cgroup_are_its_first() {
    require!(unprivileged_user);
    beyond!(
        the_processes_of_a_container_without_a_cgroup_are_its_first,
        [
            runc("knows no process without a cgroup"),
            crun("knows no process without a cgroup")
        ]
    );
    let mut bundle = Bundle::of_user();
    let container = bundle.pause();
    let pids = container
        .runtime
        .call(&["ps", "--format", "json", &container.id])
        .success()
        .json();
    assert_eq!(pids, json!([container.pid]));
}

#[test]
fn a_terminal_is_sent_to_the_console_socket() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    bundle
        .config
        .set("/process/terminal", true)
        .probe(&["report", "stat=/dev/pts/0"]);
    let socket = console_socket(&bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let container = bundle
        .create_with(&flags)
        .unwrap_or_else(|finished| panic!("{finished}"));
    let (_, mut terminal) = socket.receive();
    container.start().success();
    let seen: integration::Seen = serde_json::from_str(&terminal.output.line()).unwrap();
    assert_eq!(seen.terminals.len(), 3);
    assert!(seen.terminals[&0].controlling);
    assert_eq!(seen.stat("/dev/pts/0").uid, 0);
}

#[test]
fn exec_has_a_terminal_of_the_containers() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let container = bundle.pause();
    let socket = console_socket(&bundle);
    let flags = ["--tty", "--console-socket", socket.path.to_str().unwrap()];
    container.exec_detached(&flags, &["/bin/probe", "report"]);
    let (_, mut terminal) = socket.receive();
    let seen: integration::Seen = serde_json::from_str(&terminal.output.line()).unwrap();
    assert_eq!(*seen.terminals[&0].path, "/dev/pts/0");
    let command =
        container
            .runtime
            .command(&["exec", "-t", &container.id, "/bin/probe", "exit", "6"]);
    assert_eq!(OnTerminal::start(command, 24, 80).wait().code(), Some(6));
}

#[test]
fn kill_reaches_every_process_of_a_pid_namespace() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let mut container = bundle.pause();
    let other = container.exec_detached(&[], &["/bin/probe", "pause"]);
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
    assert_eq!(other.wait(), 137);
}

#[test]
fn hooks_run_as_the_user() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let notes = bundle.scratch.dir("notes");
    place::give(&notes, user::UID, user::GID);
    let probe = bundle.rootfs().join("bin/probe");
    for (kind, program) in [
        ("prestart", probe.to_str().unwrap()),
        ("createRuntime", probe.to_str().unwrap()),
        ("createContainer", probe.to_str().unwrap()),
        ("poststart", probe.to_str().unwrap()),
        ("poststop", probe.to_str().unwrap()),
    ] {
        let file = notes.join(kind);
        let hook = json!({ "path": program, "args": ["probe", "note", file, kind] });
        bundle.config.set(&format!("/hooks/{kind}"), json!([hook]));
    }
    bundle.config.probe(&["echo", "ran"]);
    assert_eq!(bundle.run().success().stdout, "ran\n");
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let note =
            std::fs::metadata(notes.join(kind)).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(note.uid(), user::UID, "{kind}");
        assert!(note.len() > 0, "{kind}");
    }
}

#[test]
fn seccomp_is_loaded_with_and_without_new_privileges() {
    require!(unprivileged_user);
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::of_user();
        let rule = json!({ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 61 });
        bundle
            .config
            .set(
                "/linux/seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
            )
            .set("/process/noNewPrivileges", no_new_privileges);
        let seen = bundle.report(&["try=syscall:getpriority"]);
        assert_eq!(seen.tried("syscall:getpriority"), "ENODATA");
        assert_eq!(*seen.no_new_privs, no_new_privileges);
    }
}

#[test]
fn sysctls_of_own_namespaces_are_set() {
    require!(unprivileged_user);
    beyond!(
        sysctls_of_own_namespaces_are_set,
        [runc("refuses user.*"), crun("refuses user.*")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.namespace("network").set(
        "/linux/sysctl",
        json!({ "user.max_pid_namespaces": "11", "kernel.msgmax": "4096", "net.ipv4.ip_default_ttl": "33" }),
    );
    let seen = bundle.report(&[
        "sysctl=user.max_pid_namespaces",
        "sysctl=kernel.msgmax",
        "sysctl=net.ipv4.ip_default_ttl",
    ]);
    assert_eq!(*seen.sysctls["user.max_pid_namespaces"], "11");
    assert_eq!(*seen.sysctls["kernel.msgmax"], "4096");
    assert_eq!(*seen.sysctls["net.ipv4.ip_default_ttl"], "33");
}

#[test]
fn the_network_is_the_hosts_or_an_own_one() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    assert_eq!(
        bundle.report(&[]).namespaces["net"],
        host::namespace("self", "net")
    );
    bundle.config.namespace("network");
    let seen = bundle.report(&[]);
    assert_ne!(seen.namespaces["net"], host::namespace("self", "net"));
    // IFF_UP
    assert_eq!(seen.interfaces["lo"] & 1, 1);
}

#[test]
fn rlimits_up_to_the_users_own_are_set_and_others_refused() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    bundle.config.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]),
    );
    assert_eq!(*bundle.report(&[]).rlimits["RLIMIT_NOFILE"], [100, 200]);
    let all = u64::MAX;
    bundle.config.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NICE", "soft": all, "hard": all }]),
    );
    bundle.create_fails().failure();
}

#[test]
fn a_failed_create_leaves_nothing_with_the_user() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    // crun leaves a directory in the state's place: what `create_fails` takes away for it is not what this test is about.
    beyond!(
        a_failed_create_leaves_nothing_with_the_user,
        [crun("leaves its state behind, or names no path")]
    );
    let before = everything(&bundle);
    bundle.config.args(&["/bin/there-is-no-such-program"]);
    bundle.create_fails().failure().says("no such file");
    bundle
        .config
        .probe(&["pause"])
        .mount("/tmp/x", "no-such-file-system", "x", &[]);
    bundle.create_fails().failure().says("/tmp/x");
    let hook = json!({ "path": bundle.rootfs().join("bin/probe"), "args": ["probe", "exit", "3"] });
    bundle
        .config
        .unmount("/tmp/x")
        .set("/hooks/createRuntime", json!([hook]));
    bundle.create_fails().failure().says("exit status 3");
    let added: Vec<_> = everything(&bundle)
        .into_iter()
        .filter(|path| !before.contains(path))
        .collect();
    let rootfs = bundle.rootfs();
    // Mount points that were made in the root stay, as they do everywhere.
    let left: Vec<_> = added
        .iter()
        .filter(|path| !path.starts_with(&rootfs) && **path != bundle.runtime.root)
        .filter(|path| !path.ends_with("bundle/config.json"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_the_right_to_make_user_namespaces_the_knob_is_named() {
    require!(unprivileged_user, program("unshare"));
    beyond!(
        without_the_right_to_make_user_namespaces_the_knob_is_named,
        [runc("names no knob"), crun("names no knob")]
    );
    let mut bundle = Bundle::of_user();
    // The limit of a user namespace of its own: that of the machine is everybody's.
    let script = r#"echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps -all --inh-caps -all "$@""#;
    let unshare = ["unshare", "--user", "--map-current-user", "--keep-caps"];
    let wrapper = unshare.into_iter().chain(["sh", "-c", script, "sh"]);
    bundle.runtime.wrapper.extend(wrapper.map(Into::into));
    bundle.create_fails().failure().says("/proc/sys/user/max_");
}

#[test]
fn without_a_user_namespace_the_config_is_refused() {
    require!(unprivileged_user);
    beyond!(
        without_a_user_namespace_the_config_is_refused,
        [crun("takes some namespaces of the caller instead")]
    );
    let mut bundle = Bundle::of_user();
    bundle
        .config
        .no_namespace("user")
        .remove("/linux/uidMappings")
        .remove("/linux/gidMappings");
    bundle.create_fails().failure().says("user namespace");
}

fn console_socket(bundle: &Bundle) -> ConsoleSocket {
    let socket = ConsoleSocket::listen(bundle.scratch.path().join("tty.sock"));
    place::give_one(&socket.path, user::UID, user::GID);
    socket
}

/// The name of the runtime's directory: its own.
fn name() -> &'static str {
    integration::peer::under_test().0
}

/// Every path in the test's directory.
fn everything(bundle: &Bundle) -> Vec<std::path::PathBuf> {
    let mut found = vec![bundle.scratch.path().to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() && !found[at].is_symlink() {
            let entries = std::fs::read_dir(&found[at]).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    found
}
