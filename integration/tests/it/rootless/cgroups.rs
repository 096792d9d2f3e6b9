//! A user's containers and cgroups: mostly there is none for them, and where one was given to the user, it works as root's do.

use integration::{Bundle, beyond, host, require, user};
use serde_json::json;

#[test]
fn without_a_cgroup_of_the_users_a_container_runs_in_its_creators() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let container = bundle.pause();
    assert_eq!(
        container.cgroup(),
        host::cgroup_of(std::process::id() as i32)
    );
    assert_eq!(container.status(), "running");
}

#[test]
fn its_creators_cgroup_is_not_to_be_changed_from_inside() {
    require!(unprivileged_user);
    beyond!(
        its_creators_cgroup_is_not_to_be_changed_from_inside,
        [
            runc("mounts it as it can be"),
            crun("mounts it as it can be")
        ]
    );
    // CVE-2023-25809. The group that the command is in is the user's, the one above it is not.
    let mut bundle = Bundle::of_user();
    let delegated = bundle.delegate(&[]);
    integration::place::give_one(&delegated.0, 0, 0);
    integration::place::give_one(&delegated.0.join("cgroup.procs"), 0, 0);
    let every = ["bounding", "effective", "permitted"];
    bundle.config.capabilities(&every, &["CAP_DAC_OVERRIDE"]);
    for namespace in [true, false] {
        if !namespace {
            bundle.config.no_namespace("cgroup");
        }
        bundle
            .config
            .retain("/mounts", |mount| mount["destination"] != "/sys/fs/cgroup");
        bundle
            .config
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
        let seen = bundle.report(&["try=mkdir:/sys/fs/cgroup/new", "ls=/sys/fs/cgroup"]);
        let outcome = seen.tried("mkdir:/sys/fs/cgroup/new");
        assert_eq!(outcome, "EROFS", "cgroup namespace: {namespace}");
        assert!(host::cgroup_file(&delegated.0.join("own"), "cgroup.procs").is_empty());
        if !namespace {
            assert!(seen.lists["/sys/fs/cgroup"].is_empty());
        }
    }
}

#[test]
fn limits_without_a_cgroup_of_the_users_are_refused() {
    require!(unprivileged_user);
    beyond!(
        limits_without_a_cgroup_of_the_users_are_refused,
        [crun("runs without the limits")]
    );
    let mut bundle = Bundle::of_user();
    bundle
        .config
        .set("/linux/resources", json!({ "pids": { "limit": 10 } }));
    bundle.create_fails().failure().says("cgroup");
}

#[test]
fn a_path_without_a_cgroup_of_the_users_is_refused() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    bundle.config.set("/linux/cgroupsPath", "/the-users-own");
    bundle.create_fails().failure().says("cgroup");
}

#[test]
fn the_flag_rootless_decides_whether_a_cgroup_can_be_done_without() {
    require!(unprivileged_user);
    beyond!(
        the_flag_rootless_decides_whether_a_cgroup_can_be_done_without,
        [crun("ignores the flag")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.probe(&["echo", "ran"]);
    let with = |value: &str| {
        let mut bundle_runtime = bundle.runtime.clone();
        bundle_runtime.globals = vec![format!("--rootless={value}")];
        bundle_runtime
    };
    let path = bundle.path().display().to_string();
    bundle.save();
    for (value, works) in [("true", true), ("auto", true), ("false", false)] {
        let id = integration::place::unique("flag");
        let finished = with(value).call(&["run", "--bundle", &path, &id]);
        match works {
            true => assert_eq!(finished.success().stdout, "ran\n"),
            false => drop(finished.failure().says("cgroup")),
        }
        bundle.assert_gone(&id);
    }
}

#[test]
fn pause_without_a_cgroup_is_refused() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let container = bundle.pause();
    container.call("pause", &[]).failure().says("cgroup");
    assert_eq!(container.status(), "running");
}

#[test]
fn a_delegated_group_holds_the_containers() {
    require!(unprivileged_user);
    beyond!(
        a_delegated_group_holds_the_containers,
        [crun_before("1.21", "makes no group for a user")]
    );
    let mut bundle = Bundle::of_user();
    let delegated = bundle.delegate(&[]);
    let mut container = bundle.pause();
    let other = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(container.cgroup(), delegated.0.join(&container.id));
    assert_eq!(host::cgroup_of(other.pid), container.cgroup());
    let pids = container
        .runtime
        .call(&["ps", "--format", "json", &container.id])
        .success()
        .json();
    assert_eq!(pids.as_array().map(Vec::len), Some(2));
    container.call("pause", &[]).success();
    assert_eq!(container.status(), "paused");
    assert_eq!(host::cgroup_file(&container.cgroup(), "cgroup.freeze"), "1");
    container.call("resume", &[]).success();
    assert_eq!(container.status(), "running");
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
    assert_eq!(other.wait(), 137);
    container.delete().success();
}

#[test]
fn a_path_below_a_delegated_group_is_made() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let delegated = bundle.delegate(&[]);
    let name = integration::place::unique("path");
    bundle.config.set(
        "/linux/cgroupsPath",
        format!("/{}/{name}", delegated.0.file_name().unwrap().display()),
    );
    let container = bundle.pause();
    assert_eq!(container.cgroup(), delegated.0.join(name));
}

#[test]
fn the_containers_root_manages_its_part_of_a_delegated_group() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let _delegated = bundle.delegate(&[]);
    bundle
        .config
        .retain("/mounts", |mount| mount["destination"] != "/sys/fs/cgroup");
    bundle
        .config
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    let tries = bundle.tries(&["mkdir:/sys/fs/cgroup/below"]);
    assert_eq!(tries, ["ok"]);
}

#[test]
fn limits_hold_in_a_delegated_group() {
    require!(unprivileged_user, controller("pids"), controller("memory"));
    beyond!(
        limits_hold_in_a_delegated_group,
        [crun_before("1.21", "makes no group for a user")]
    );
    let mut bundle = Bundle::of_user();
    let _delegated = bundle.delegate(&["pids", "memory"]);
    bundle.config.set(
        "/linux/resources",
        json!({ "pids": { "limit": 20 }, "memory": { "limit": 64 << 20 } }),
    );
    let container = bundle.pause();
    assert_eq!(host::cgroup_file(&container.cgroup(), "pids.max"), "20");
    assert_eq!(
        host::cgroup_file(&container.cgroup(), "memory.max"),
        (64 << 20).to_string()
    );
    drop(container);
    bundle.config.probe(&["fork", "100"]);
    let line = bundle.run().success().stdout;
    assert!(line.trim().ends_with("EAGAIN"), "{line}");
    bundle.config.probe(&["eat", "200"]);
    assert_eq!(bundle.run().code(), 137);
}

#[test]
fn a_device_filter_that_the_user_may_not_load_is_left_out() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let _delegated = bundle.delegate(&[]);
    bundle.config.set(
        "/linux/resources/devices",
        json!([{ "allow": false, "access": "rwm" }]),
    );
    let seen = bundle.report(&["try=read:/dev/zero"]);
    assert_eq!(seen.tried("read:/dev/zero"), "ok");
    assert_eq!(*seen.uid_map, [[0, u64::from(user::UID), 1]]);
}
