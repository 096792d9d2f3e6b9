//! The container's cgroup as a group: where it is, when it is refused, freezing it, and what of a config leaves it alone.
//!
//! The values of limits are `cgroup`'s; that the kernel acts on them is `limits`'s.

use integration::place::unique;
use integration::{Bundle, Container, beyond, host, require};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_group_is_at_the_configured_path() {
    require!(containers);
    let mut bundle = Bundle::new();
    let path = format!("/{}", unique("absolute"));
    bundle
        .config
        .set("/linux/cgroupsPath", path.as_str())
        .probe(&["pause"]);
    let mut container = bundle.create();
    let group = PathBuf::from(format!("{}{path}", host::hierarchy().display()));
    assert_eq!(container.cgroup(), group);
    container.delete().success();
    assert!(!group.exists());
}

#[test]
fn parents_of_the_group_are_made() {
    require!(containers);
    let mut bundle = Bundle::new();
    let top = host::hierarchy().join(unique("top"));
    let path = format!("/{}/middle/leaf", top.file_name().unwrap().display());
    bundle.config.set("/linux/cgroupsPath", path.as_str());
    let mut container = bundle.create();
    assert_eq!(container.cgroup(), top.join("middle/leaf"));
    container.delete().success();
    assert!(!top.join("middle/leaf").exists());
    for left in [top.join("middle"), top] {
        fs::remove_dir(left).ok(); // Whether the runtime leaves parents is its own business.
    }
}

#[test]
fn without_a_path_the_group_has_the_containers_name() {
    require!(containers);
    let bundle = Bundle::new();
    let container = bundle.create();
    assert!(
        container.cgroup().to_str().unwrap().contains(&container.id),
        "{:?}",
        container.cgroup()
    );
}

#[test]
fn a_path_cannot_climb_out_of_the_hierarchy() {
    require!(containers);
    beyond!(
        a_path_cannot_climb_out_of_the_hierarchy,
        [crun("makes the directory, at /")]
    );
    let mut bundle = Bundle::new();
    let name = unique("climb");
    bundle
        .config
        .set("/linux/cgroupsPath", format!("/../../../../{name}"))
        .probe(&["exit", "0"]);
    bundle.run(); // It may be refused, or cleaned.
    let made = [
        Path::new("/"),
        Path::new("/sys"),
        Path::new("/sys/fs"),
        host::hierarchy(),
    ]
    .map(|parent| parent.join(&name));
    let made: Vec<&PathBuf> = made
        .iter()
        .filter(|path| fs::remove_dir(path).is_ok())
        .collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn an_empty_group_that_exists_is_used() {
    require!(containers);
    let mut bundle = Bundle::new();
    let group = host::hierarchy().join(unique("existing"));
    fs::create_dir(&group).unwrap();
    bundle.config.set(
        "/linux/cgroupsPath",
        format!("/{}", group.file_name().unwrap().display()),
    );
    let container = bundle.create();
    assert_eq!(container.cgroup(), group);
    drop(container);
    fs::remove_dir(&group).ok(); // The runtime removes it as its own, or leaves it as another's.
}

#[test]
fn a_group_with_processes_in_it_is_refused() {
    require!(containers);
    beyond!(
        a_group_with_processes_in_it_is_refused,
        [
            runc_before("1.2", "only warns"),
            crun("puts two containers into one group")
        ]
    );
    let mut bundle = Bundle::new();
    let path = format!("/{}", unique("occupied"));
    bundle.config.set("/linux/cgroupsPath", path.as_str());
    let first = bundle.pause();
    bundle.create_fails().failure().says("not empty");
    assert_eq!(first.status(), "running");
}

#[test]
fn a_frozen_group_is_refused() {
    require!(containers);
    beyond!(
        a_frozen_group_is_refused,
        [crun("hangs or starts a frozen container")]
    );
    let mut bundle = Bundle::new();
    let group = host::hierarchy().join(unique("frozen"));
    fs::create_dir(&group).unwrap();
    set(&group, "cgroup.freeze", "1");
    bundle.config.set(
        "/linux/cgroupsPath",
        format!("/{}", group.file_name().unwrap().display()),
    );
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bundle.create_fails().says("frozen")
    }));
    set(&group, "cgroup.freeze", "0");
    fs::remove_dir(&group).ok();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn pause_freezes_and_resume_thaws() {
    require!(containers);
    beyond!(
        pause_freezes_and_resume_thaws,
        [crun_race("does not wait until the group is frozen")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let frozen = || host::cgroup_file(&container.cgroup(), "cgroup.events").contains("frozen 1");
    container.call("pause", &[]).success();
    assert!(frozen(), "pause returns only when the group is frozen");
    assert_eq!(container.status(), "paused");
    container.call("resume", &[]).success();
    assert!(!frozen());
    assert_eq!(container.status(), "running");
}

#[test]
fn only_a_running_container_is_paused_and_only_a_paused_one_resumed() {
    require!(containers);
    beyond!(
        only_a_running_container_is_paused_and_only_a_paused_one_resumed,
        [crun("resumes what is not paused")]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.call("resume", &[]).failure().says("not paused");
    container.kill("KILL").success();
    container.wait();
    container.call("pause", &[]).failure();
}

#[test]
fn a_paused_container_is_deleted_by_force() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.call("pause", &[]).success();
    container.delete_by_force().success();
    bundle.assert_gone(&container.id);
}

#[test]
fn a_paused_container_is_killed_at_once() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.call("pause", &[]).success();
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
}

#[test]
fn groups_that_the_container_made_are_removed_with_it() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let group = container.cgroup();
    fs::create_dir_all(group.join("inner/most")).unwrap();
    container.delete_by_force().success();
    assert!(!group.exists());
}

#[test]
fn a_page_size_that_the_kernel_lacks_is_refused() {
    require!(containers, controller("hugetlb"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "3MB", "limit": 1 }]),
    );
    bundle.create_fails().failure();
}

#[test]
fn the_field_of_a_page_size_is_known_in_any_case() {
    require!(containers, controller("hugetlb"));
    beyond!(
        the_field_of_a_page_size_is_known_in_any_case,
        [crun("knows it as the specification spells it only")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pagesize": "2MB", "limit": 4 << 20 }]),
    );
    let container = bundle.create();
    assert_eq!(file(&container, "hugetlb.2MB.max"), "4194304");
}

#[test]
fn unified_settings_reach_a_controller_that_the_host_has() {
    require!(containers, controller("hugetlb"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/unified",
        json!({ "hugetlb.2MB.max": "4194304", "cgroup.max.depth": "3" }),
    );
    let container = bundle.create();
    assert_eq!(
        (
            file(&container, "hugetlb.2MB.max"),
            file(&container, "cgroup.max.depth")
        ),
        ("4194304".to_owned(), "3".to_owned())
    );
}

#[test]
fn limits_are_in_force_before_the_process_starts() {
    require!(containers, controller("memory"), controller("pids"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 67_108_864 }));
    bundle
        .config
        .set("/linux/resources/pids", json!({ "limit": 33 }));
    let seen = bundle.report(&[
        "cat=/sys/fs/cgroup/memory.max",
        "cat=/sys/fs/cgroup/pids.max",
    ]);
    assert_eq!(*seen.files["/sys/fs/cgroup/memory.max"], "67108864\n");
    assert_eq!(*seen.files["/sys/fs/cgroup/pids.max"], "33\n");
}

#[test]
fn resources_that_ask_for_nothing_change_nothing() {
    require!(containers);
    beyond!(
        resources_that_ask_for_nothing_change_nothing,
        [crun("refuses an empty list of network settings")]
    );
    let mut bundle = Bundle::new();
    let nothing = json!({ "memory": {}, "cpu": {}, "pids": null, "blockIO": {}, "hugepageLimits": [], "unified": {}, "network": {}, "devices": Value::Null });
    bundle
        .config
        .set("/linux/resources", nothing)
        .probe(&["exit", "0"]);
    bundle.run().success();
    bundle.config.remove("/linux/resources");
    bundle.run().success();
}

fn file(container: &Container, name: &str) -> String {
    host::cgroup_file(&container.cgroup(), name)
}

fn set(group: &Path, name: &str, value: &str) {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(group.join(name))
        .unwrap();
    std::io::Write::write_all(&mut file, value.as_bytes()).unwrap();
}
