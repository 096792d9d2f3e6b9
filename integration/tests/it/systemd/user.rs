//! The systemd driver for a user without privileges: his own systemd makes the scope.

use integration::place::{self, unique};
use integration::runtime;
use integration::{Bundle, Container, host, require};
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user of the virtual machine.
const UID: u32 = 1000;

#[test]
fn the_users_systemd_makes_the_scope() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    let container = bundle.pause();
    assert_in_the_users_scope(&container);
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(second.pid), container.cgroup());
}

#[test]
fn in_a_scope_of_his_own_he_needs_nobody_to_move_processes() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    bundle.runtime.wrapper = ["systemd-run", "--user", "--scope", "--quiet", "--"]
        .map(Into::into)
        .into();
    let container = bundle.pause();
    assert_in_the_users_scope(&container);
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(second.pid), container.cgroup());
}

#[test]
fn his_exec_follows_an_init_that_has_moved_below_a_group_that_takes_no_process() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/resources/pids", json!({ "limit": 44 }));
    let container = bundle.pause();
    let group = container.cgroup();
    let inner = group.join("inner");
    std::fs::create_dir(&inner).unwrap();
    place::give(&inner, UID, UID);
    host::set(&inner.join("cgroup.procs"), &container.pid.to_string());
    host::set(&group.join("cgroup.subtree_control"), "+pids");
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(second.pid), inner);
}

#[test]
fn his_limits_are_in_force() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 67_108_864 }))
        .set("/linux/resources/pids", json!({ "limit": 44 }));
    let mut container = bundle.pause();
    let group = container.cgroup();
    assert_eq!(host::cgroup_file(&group, "memory.max"), "67108864");
    assert_eq!(host::cgroup_file(&group, "pids.max"), "44");
    assert_eq!(show(&unit_of(&container), "MemoryMax"), "67108864");
    container.call("pause", &[]).success();
    assert_eq!(container.status(), "paused");
    container.call("resume", &[]).success();
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
    let unit = unit_of_group(&group);
    container.delete().success();
    assert_eq!(show(&unit, "LoadState"), "not-found");
}

#[test]
fn his_bus_will_do_as_well() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    bundle.runtime.env = vec![(
        "DBUS_SESSION_BUS_ADDRESS".to_owned(),
        format!("unix:path=/run/user/{UID}/bus"),
    )];
    let mut container = bundle.pause();
    assert_in_the_users_scope(&container);
    container.delete_by_force().success();
}

#[test]
fn without_his_systemd_the_error_says_so() {
    require!(systemd, unprivileged_user, throwaway_machine);
    let mut bundle = bundle();
    bundle.runtime.env.clear();
    bundle.create_fails().failure();
    bundle.runtime.env = vec![("XDG_RUNTIME_DIR".to_owned(), "/nonexistent".to_owned())];
    bundle.create_fails().failure();
}

fn bundle() -> Bundle {
    // The manager is there when the command returns.
    let mut linger = Command::new("loginctl");
    linger.args(["enable-linger", "tester"]);
    runtime::finish(linger).success();
    let mut start = Command::new("systemctl");
    start.args(["start", &format!("user@{UID}.service")]);
    runtime::finish(start).success();

    let mut bundle = Bundle::new();
    bundle.runtime = bundle.runtime.with(&["--systemd-cgroup"]);
    bundle.runtime.user = Some((UID, UID));
    let runtime_dir = format!("/run/user/{UID}");
    bundle.runtime.env = vec![("XDG_RUNTIME_DIR".to_owned(), runtime_dir)];
    bundle.config.user_namespace(UID, 1);
    let mounts = bundle.config.0["mounts"].as_array_mut().unwrap();
    for mount in mounts {
        if let Some(options) = mount["options"].as_array_mut() {
            // Of groups, he has his own only.
            options.retain(|option| option != "gid=5");
        }
    }
    let name = unique("user");
    bundle
        .config
        .set("/linux/cgroupsPath", format!("user.slice:it:{name}"));
    place::give(bundle.scratch.path(), UID, UID);
    bundle
}

fn assert_in_the_users_scope(container: &Container) {
    let group = container.cgroup();
    let manager = format!("user.slice/user-{UID}.slice/user@{UID}.service/user.slice");
    assert!(
        group.starts_with(host::hierarchy().join(manager)),
        "{group:?}"
    );
    let unit = unit_of(container);
    assert_eq!(show(&unit, "ActiveState"), "active");
    assert_eq!(show(&unit, "Delegate"), "yes");
}

fn unit_of(container: &Container) -> String {
    unit_of_group(&container.cgroup())
}

fn unit_of_group(group: &std::path::Path) -> String {
    group.file_name().unwrap().to_string_lossy().into_owned()
}

fn show(unit: &str, property: &str) -> String {
    let mut command = Command::new("systemctl");
    command
        .args(["--user", "show", "--value", "--property", property, unit])
        .env("XDG_RUNTIME_DIR", format!("/run/user/{UID}"))
        .uid(UID)
        .gid(UID);
    let finished = runtime::finish(command).success();
    finished.stdout.trim_end().to_owned()
}
