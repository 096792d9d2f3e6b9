//! The systemd driver: what systemd is told, what it then knows, and that nothing of it is left.
//!
//! Runs where systemd is PID 1: `scripts/test` has a virtual machine for that. What the peers do otherwise is marked.

mod limits;
mod shim;
mod user;

use integration::place::unique;
use integration::runtime::{self, Finished, Runtime};
use integration::{Bundle, Container, beyond, host, require};
use serde_json::json;
use std::fs;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

#[test]
fn without_a_path_the_scope_has_the_containers_name() {
    require!(systemd);
    let bundle = bundle();
    let container = bundle.create();
    let unit = unit_of(&container);
    let suffix = format!("-{}.scope", container.id);
    assert!(unit.ends_with(&suffix), "{unit}");
    let group = container.cgroup();
    assert!(group.ends_with(format!("system.slice/{unit}")), "{group:?}");
}

#[test]
fn slice_prefix_and_name_are_as_configured() {
    require!(systemd);
    let mut bundle = bundle();
    let top = slice();
    let (inner, name) = (format!("{top}-inner.slice"), unique("name"));
    bundle
        .config
        .set("/linux/cgroupsPath", format!("{inner}:pre:{name}"));
    let mut container = bundle.create();
    let unit = format!("pre-{name}.scope");
    let group = container.cgroup();
    assert!(
        group.ends_with(format!("{top}.slice/{inner}/{unit}")),
        "{group:?}"
    );
    assert_eq!(show(&unit, "Slice"), inner);
    container.delete().success();
    assert!(!group.exists());
    assert_eq!(show(&unit, "LoadState"), "not-found");
    systemctl(&["stop", &format!("{top}.slice"), &inner]).success();
}

#[test]
fn without_a_prefix_the_name_stands_alone() {
    require!(systemd);
    beyond!(
        without_a_prefix_the_name_stands_alone,
        [runc("makes it '-name.scope'")]
    );
    let mut bundle = bundle();
    let name = unique("alone");
    bundle.config.set("/linux/cgroupsPath", format!("::{name}"));
    let container = bundle.create();
    assert_eq!(unit_of(&container), format!("{name}.scope"));
}

#[test]
fn a_container_can_be_a_slice() {
    require!(systemd, controller("pids"));
    beyond!(
        a_container_can_be_a_slice,
        [crun("makes a scope of the slice's name")]
    );
    let mut bundle = bundle();
    let slice = format!("{}.slice", slice());
    bundle
        .config
        .set("/linux/cgroupsPath", format!("-.slice:x:{slice}"))
        .set("/linux/resources/pids", json!({ "limit": 21 }));
    let mut container = bundle.create();
    let group = container.cgroup();
    assert!(group.ends_with(&slice), "{group:?}");
    assert_eq!(show(&slice, "TasksMax"), "21");
    assert_eq!(host::cgroup_file(&group, "pids.max"), "21");
    container.delete().success();
    assert_eq!(show(&slice, "ActiveState"), "inactive");
    assert!(!group.exists());
}

#[test]
fn other_paths_are_refused() {
    require!(systemd);
    let mut bundle = bundle();
    bundle.config.set("/linux/cgroupsPath", "/a/b");
    bundle
        .create_fails()
        .failure()
        .says("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups");
    bundle.config.set("/linux/cgroupsPath", "a--b.slice:x:y");
    bundle.create_fails().failure().says("invalid slice name");
}

#[test]
fn systemd_knows_the_scope_as_engines_expect_it() {
    require!(systemd);
    let bundle = bundle();
    let container = bundle.create();
    let unit = unit_of(&container);
    for (property, value) in [
        ("Slice", "system.slice"),
        ("Transient", "yes"),
        ("Delegate", "yes"),
        ("CPUAccounting", "yes"),
        ("MemoryAccounting", "yes"),
        ("IOAccounting", "yes"),
        ("TasksAccounting", "yes"),
        ("DefaultDependencies", "no"),
        ("ActiveState", "active"),
    ] {
        assert_eq!(show(&unit, property), value, "{property}");
    }
    let description = format!(" container {}", container.id);
    assert!(show(&unit, "Description").ends_with(&description));
}

#[test]
fn annotations_are_properties_of_the_unit() {
    require!(systemd);
    let mut bundle = bundle();
    bundle.config.set(
        "/annotations",
        json!({
            "org.systemd.property.After": "['basic.target', 'local-fs.target']",
            "org.systemd.property.TimeoutStopSec": "uint64 123",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.DefaultDependencies": "true",
        }),
    );
    let container = bundle.create();
    let unit = unit_of(&container);
    let after = show(&unit, "After");
    for target in ["basic.target", "local-fs.target"] {
        assert!(after.split(' ').any(|other| other == target), "{after}");
    }
    assert_eq!(show(&unit, "TimeoutStopUSec"), "2min 3s");
    assert_eq!(show(&unit, "CollectMode"), "inactive-or-failed");
    assert_eq!(show(&unit, "DefaultDependencies"), "yes");
}

#[test]
fn annotations_that_are_no_properties_are_refused() {
    require!(systemd);
    for (name, value, says) in [
        ("TimeoutStopSec", "['", "value parse error"),
        ("T1", "1", "name incorrect"),
        ("NoSuchProperty", "1", "NoSuchProperty"),
    ] {
        let mut bundle = bundle();
        let key = format!("org.systemd.property.{name}");
        bundle.config.set("/annotations", json!({ key: value }));
        bundle.create_fails().failure().says(says);
    }
}

#[test]
fn a_container_can_have_a_group_below_the_scope() {
    require!(systemd, controller("pids"));
    beyond!(
        a_container_can_have_a_group_below_the_scope,
        [runc("does not know the annotations")]
    );
    let mut bundle = bundle();
    bundle
        .config
        .set(
            "/annotations",
            json!({ "run.oci.systemd.subgroup": "box", "run.oci.delegate-cgroup": "own" }),
        )
        .set("/linux/resources/pids", json!({ "limit": 1 }));
    let mut container = bundle.create();
    let own = container.cgroup();
    assert!(own.ends_with("box/own"), "{own:?}");
    let (group, scope) = (own.parent().unwrap(), own.ancestors().nth(2).unwrap());
    let unit = scope.file_name().unwrap().to_str().unwrap();
    assert_eq!(show(unit, "TasksMax"), "1");
    for group in [group, scope] {
        assert_eq!(host::cgroup_file(group, "pids.max"), "1");
        assert_eq!(host::cgroup_file(group, "cgroup.procs"), "");
    }
    assert_eq!(host::cgroup_file(&own, "pids.max"), "max");
    let more = ["update", "--pids-limit", "7", &container.id];
    container.runtime.call(&more).success();
    assert_eq!(host::cgroup_file(group, "pids.max"), "7");
    assert_eq!(show(unit, "TasksMax"), "7");
    container.start().success();
    container.call("pause", &[]).success();
    container.delete_by_force().success();
    assert!(!scope.exists());
    assert_eq!(show(unit, "LoadState"), "not-found");
}

#[test]
fn later_commands_need_no_flag() {
    require!(systemd);
    let mut bundle = bundle();
    let mut container = bundle.pause();
    let plain = Runtime {
        globals: Vec::new(),
        ..bundle.runtime.clone()
    };
    let id = container.id.clone();
    let call = |verb: &str, args: &[&str]| {
        let words = [&[verb, &id], args].concat();
        plain.call(&words).success()
    };
    let group = container.cgroup();
    let frozen = || host::cgroup_file(&group, "cgroup.events").contains("frozen 1");
    call("pause", &[]);
    assert!(frozen());
    assert_eq!(call("state", &[]).json()["status"], "paused");
    call("resume", &[]);
    assert!(!frozen());
    let pids = plain.call(&["ps", "--format", "json", &container.id]);
    assert_eq!(pids.success().json(), json!([container.pid]));
    call("kill", &["KILL"]);
    assert_eq!(container.wait(), 137);
    call("delete", &[]);
    bundle.assert_gone(&container.id);
}

#[test]
fn what_exec_starts_is_in_the_scope() {
    require!(systemd);
    let mut bundle = bundle();
    let container = bundle.pause();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(second.pid), container.cgroup());
}

#[test]
fn only_the_container_is_in_its_scope() {
    require!(systemd);
    let mut bundle = bundle();
    bundle.config.probe(&["pause"]);
    let container = bundle.create();
    let procs = || host::cgroup_file(&container.cgroup(), "cgroup.procs");
    assert_eq!(procs(), container.pid.to_string());
    container.start().success();
    assert_eq!(procs(), container.pid.to_string());
}

#[test]
fn the_scope_is_gone_when_the_container_is() {
    require!(systemd);
    let mut bundle = bundle();
    let mut container = bundle.pause();
    let unit = unit_of(&container);
    container.delete_by_force().success();
    assert_eq!(show(&unit, "LoadState"), "not-found");
    bundle.config.probe(&["exit", "3"]);
    assert_eq!(bundle.run().code(), 3); // It has removed its own.
}

#[test]
fn a_scope_that_failed_is_removed_too() {
    require!(systemd);
    let mut bundle = bundle();
    // The first process of a pid namespace is spared the signal to end that it has no handler for (the runtime has one until the start), and
    // to be killed then is to fail.
    bundle.config.probe(&["linger", "600000"]).set(
        "/annotations",
        json!({ "org.systemd.property.TimeoutStopUSec": "uint64 1" }),
    );
    let mut container = bundle.create();
    container.start().success();
    let unit = unit_of(&container);
    let no_reload = no_reload();
    systemctl(&["stop", &unit]);
    container.wait();
    assert_eq!(show(&unit, "ActiveState"), "failed");
    drop(no_reload);
    container.delete().success();
    assert_eq!(show(&unit, "LoadState"), "not-found");
}

#[test]
fn the_remains_of_a_scope_that_failed_are_no_obstacle() {
    require!(systemd);
    let name = unique("failed");
    let unit = format!("{name}.scope");
    let mut command = Command::new("systemd-run");
    command.args([
        "--scope",
        "--unit",
        &unit,
        "--property",
        "RuntimeMaxSec=100ms",
        "sleep",
        "100",
    ]);
    let no_reload = no_reload();
    runtime::finish(command);
    systemctl(&["stop", &unit]);
    assert_eq!(show(&unit, "ActiveState"), "failed");
    drop(no_reload);
    let mut bundle = bundle();
    let (prefix, rest) = name.split_once('-').unwrap();
    bundle
        .config
        .set("/linux/cgroupsPath", format!(":{prefix}:{rest}"));
    let container = bundle.create();
    assert_eq!(unit_of(&container), unit);
    assert_eq!(show(&unit, "ActiveState"), "active");
}

#[test]
fn a_scope_of_others_is_left_alone() {
    require!(systemd);
    beyond!(
        a_scope_of_others_is_left_alone,
        [crun("goes on in the scope of the other")]
    );
    let mut bundle = bundle();
    let name = unique("taken");
    bundle
        .config
        .set("/linux/cgroupsPath", format!(":it:{name}"));
    let first = bundle.pause();
    bundle.create_fails().failure();
    assert_eq!(first.status(), "running");
    assert_eq!(show(&format!("it-{name}.scope"), "ActiveState"), "active");
}

#[test]
fn a_scope_of_others_that_took_the_name_of_one_that_is_gone_is_left_alone() {
    require!(systemd);
    beyond!(
        a_scope_of_others_that_took_the_name_of_one_that_is_gone_is_left_alone,
        [runc("stops it"), crun("stops it")]
    );
    let mut bundle = bundle();
    let name = unique("reused");
    let unit = format!("it-{name}.scope");
    bundle
        .config
        .set("/linux/cgroupsPath", format!(":it:{name}"));
    let mut container = bundle.pause();
    let group = container.cgroup();
    container.kill("KILL").success();
    container.wait();
    systemctl(&["stop", &unit]);
    assert!(!group.exists());
    let slice = format!("{}.slice", slice());
    let mut other = Command::new("systemd-run");
    other.args(["--scope", "--quiet", "--unit", &unit, "--slice", &slice]);
    other.args(["sh", "-c", "echo there; exec sleep 1000"]);
    let mut other = runtime::Running::start(other);
    assert_eq!(other.stdout.line(), "there");
    container.delete().success();
    assert_eq!(show(&unit, "ActiveState"), "active");
    systemctl(&["stop", &unit]).success();
    other.wait_for_exit();
    systemctl(&["stop", &slice]).success();
}

#[test]
fn a_failed_create_leaves_no_unit() {
    require!(systemd);
    let mut bundle = bundle();
    let name = unique("fails");
    let unit = format!("it-{name}.scope");
    bundle
        .config
        .set("/linux/cgroupsPath", format!(":it:{name}"));
    bundle.config.args(&["no-such-program"]);
    bundle.create_fails().failure();
    assert_eq!(show(&unit, "LoadState"), "not-found");
    // After systemd has started the unit, before there is an init.
    bundle.config.probe(&["pause"]).set(
        "/linux/resources/unified",
        json!({ "cgroup.max.depth": "nonsense" }),
    );
    bundle.create_fails().failure();
    assert_eq!(show(&unit, "LoadState"), "not-found");
}

#[test]
fn a_create_that_was_killed_leaves_what_delete_cleans_up() {
    require!(systemd);
    beyond!(
        a_create_that_was_killed_leaves_what_delete_cleans_up,
        [
            runc("has not saved its state by then, so that delete knows nothing"),
            crun("has not saved its state by then, so that delete knows nothing")
        ]
    );
    let mut bundle = bundle();
    let name = unique("crash");
    let unit = format!("it-{name}.scope");
    bundle
        .config
        .set("/linux/cgroupsPath", format!(":it:{name}"));
    let fifo = bundle.scratch.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    bundle.config.push(
        "/hooks/createRuntime",
        json!({ "path": integration::place::probe(), "args": ["probe", "cat", fifo] }),
    );
    let id = unique("killed");
    let create = bundle.start("create", &[], &id);
    let opened = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    assert_eq!(show(&unit, "ActiveState"), "active");
    create.signal(nix::sys::signal::Signal::SIGKILL);
    create.wait_for_exit();
    drop(opened);
    bundle.runtime.call(&["delete", "--force", &id]).success();
    bundle.assert_gone(&id);
    assert_eq!(show(&unit, "LoadState"), "not-found");
    bundle.config.remove("/hooks").probe(&["exit", "0"]);
    bundle.call("run", &[], &id).success();
}

#[test]
fn without_systemd_the_error_says_so() {
    require!(root, path("/usr/bin/unshare"));
    beyond!(
        without_systemd_the_error_says_so,
        [crun("says only that it cannot open sd-bus")]
    );
    let mut bundle = bundle();
    let hide = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    bundle.runtime.wrapper = ["unshare", "--mount", "sh", "-c", hide, "sh"]
        .map(Into::into)
        .into();
    let finished = bundle.call("create", &[], &unique("none"));
    finished
        .failure()
        .says("systemd not running on this host, cannot use systemd cgroups manager");
}

/// A bundle for the systemd driver.
fn bundle() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.runtime = bundle.runtime.with(&["--systemd-cgroup"]);
    bundle
}

/// The name of a slice that nobody else has, without its suffix. Dashes would make it one in others.
fn slice() -> String {
    unique("it").replace('-', "_")
}

fn unit_of(container: &Container) -> String {
    let group = container.cgroup();
    group.file_name().unwrap().to_string_lossy().into_owned()
}

/// A property of a unit, as systemd tells it.
fn show(unit: &str, property: &str) -> String {
    let finished = systemctl(&["show", "--value", "--property", property, unit]);
    finished.success().stdout.trim_end().to_owned()
}

fn systemctl(args: &[&str]) -> Finished {
    let mut command = Command::new("systemctl");
    command.args(args);
    runtime::finish(command)
}

/// systemd does not keep over a reload why a scope is being stopped: one that is killed for it meanwhile has not failed then.
static RELOADS: RwLock<()> = RwLock::new(());

fn no_reload() -> RwLockReadGuard<'static, ()> {
    RELOADS.read().unwrap_or_else(PoisonError::into_inner)
}

fn daemon_reload() {
    let _alone = RELOADS.write().unwrap_or_else(PoisonError::into_inner);
    systemctl(&["daemon-reload"]).success();
}
