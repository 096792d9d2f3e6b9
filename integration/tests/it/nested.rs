//! Containers that manage groups of their own: init has moved below the container's group, which then may take no more processes, or
//! there are groups of threads.
//!
//! What the container would do from inside is done here from outside, by the same writes.

use integration::{Bundle, Container, Seen, beyond, host, require};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[test]
fn exec_follows_an_init_that_has_moved_below_a_group_that_takes_no_process() {
    require!(containers, controller("hugetlb"));
    beyond!(
        exec_follows_an_init_that_has_moved_below_a_group_that_takes_no_process,
        [crun_race("does not wait until all processes have ended")]
    );
    let mut bundle = Bundle::new();
    let container = closed(&mut bundle);
    let (group, inner) = (group_of(&container), host::cgroup_of(container.pid));
    assert_ne!(group, inner);
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(process.pid), inner);
    let finished = container.exec(&[], &["/bin/probe", "exit", "3"]);
    assert_eq!(finished.code(), 3, "{finished}");
}

#[test]
fn exec_stays_in_the_containers_group_while_that_takes_processes() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let group = container.cgroup();
    move_below(&container, "inner");
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(process.pid), group);
}

#[test]
fn exec_goes_nowhere_else_than_into_the_group_that_is_named() {
    require!(containers, controller("hugetlb"));
    beyond!(
        exec_goes_nowhere_else_than_into_the_group_that_is_named,
        [crun("follows init whatever it is told")]
    );
    let mut bundle = Bundle::new();
    let container = closed(&mut bundle);
    container
        .exec(&["--cgroup", "/"], &["/bin/probe", "exit", "0"])
        .failure()
        .says(" to cgroups")
        .says("busy");
    let other = group_of(&container).join("other");
    fs::create_dir(&other).unwrap();
    let process = container.exec_detached(&["--cgroup", "other"], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(process.pid), other);
}

#[test]
fn exec_does_not_follow_an_init_out_of_the_containers_group() {
    require!(containers, controller("hugetlb"));
    beyond!(
        exec_does_not_follow_an_init_out_of_the_containers_group,
        [
            runc("puts the process where the container's limits do not hold"),
            crun("puts the process where the container's limits do not hold")
        ]
    );
    let mut bundle = Bundle::new();
    let container = closed(&mut bundle);
    let outside = host::hierarchy().join(integration::place::unique("outside"));
    fs::create_dir(&outside).unwrap();
    write(&outside, "cgroup.procs", &container.pid.to_string());
    let finished = container.exec(&[], &["/bin/probe", "exit", "0"]);
    drop(container);
    fs::remove_dir(&outside).unwrap();
    finished.failure().says("takes no process");
}

#[test]
fn a_container_with_nested_groups_is_listed_paused_and_killed_as_a_whole() {
    require!(containers, controller("hugetlb"));
    beyond!(
        a_container_with_nested_groups_is_listed_paused_and_killed_as_a_whole,
        [crun_race("ps crashes where groups are nested")]
    );
    let mut bundle = Bundle::new();
    let mut container = closed(&mut bundle);
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(listed(&container), sorted(&[container.pid, process.pid]));
    container.call("pause", &[]).success();
    let inner = host::cgroup_of(container.pid);
    assert!(host::cgroup_file(&inner, "cgroup.events").contains("frozen 1"));
    assert_eq!(container.status(), "paused");
    container.exec(&[], &["/bin/probe", "exit", "0"]).failure();
    container.call("resume", &[]).success();
    container.kill("KILL").success();
    assert_eq!((container.wait(), process.wait()), (137, 137));
    container.delete().success();
}

#[test]
fn exec_works_beside_groups_of_threads() {
    require!(containers);
    beyond!(
        exec_works_beside_groups_of_threads,
        [crun_race("does not wait until all processes have ended")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let group = container.cgroup();
    threaded(&group, "threads");
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(host::cgroup_of(process.pid), group);
}

#[test]
fn a_container_whose_init_is_in_a_group_of_threads_works_as_others_do() {
    require!(containers);
    beyond!(
        a_container_whose_init_is_in_a_group_of_threads_works_as_others_do,
        [
            runc("ps fails: it reads cgroup.procs of groups of threads, which the kernel refuses"),
            crun("ps fails: it reads cgroup.procs of groups of threads, which the kernel refuses")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let group = container.cgroup();
    let threads = threaded(&group, "threads");
    write(&threads, "cgroup.procs", &container.pid.to_string());
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    write(&threads, "cgroup.procs", &process.pid.to_string());
    let third = container.exec_detached(&[], &["/bin/probe", "pause"]);
    let all = [container.pid, process.pid, third.pid];
    assert_eq!(listed(&container), sorted(&all));
    container.call("pause", &[]).success();
    assert_eq!(container.status(), "paused");
    container.call("resume", &[]).success();
    container.call("kill", &["--all", "USR1"]).success();
    assert_eq!(container.stdout.line(), "signal 10");
    container.delete_by_force().success();
    assert_eq!(
        (container.wait(), process.wait(), third.wait()),
        (137, 137, 137)
    );
    assert!(!group.exists());
}

#[test]
fn a_container_within_groups_of_threads_works_as_others_do() {
    require!(containers);
    beyond!(
        a_container_within_groups_of_threads_works_as_others_do,
        [
            runc("lists threads as processes, or fails"),
            crun("lists threads as processes, or fails")
        ]
    );
    let top = host::hierarchy().join(integration::place::unique("threads"));
    fs::create_dir(&top).unwrap();
    threaded(&top, "below");
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/cgroupsPath",
        format!("/{}/container", top.file_name().unwrap().display()),
    );
    let container = bundle.pause();
    // A process of several threads is listed once.
    let second = container.exec_detached(&[], &["/bin/probe", "leaderless"]);
    let process = container.exec_detached(&[], &["/bin/probe", "pause"]);
    let found = listed(&container);
    let expected = sorted(&[container.pid, second.pid, process.pid]);
    drop(container);
    for group in [top.join("below"), top] {
        fs::remove_dir(group).ok(); // The runtime may have made the upper one its own.
    }
    assert_eq!(found, expected);
}

#[test]
fn a_delegated_group_is_the_containers_own_below_its_limits() {
    require!(containers, controller("hugetlb"));
    beyond!(
        a_delegated_group_is_the_containers_own_below_its_limits,
        [runc("does not know the annotation")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set(
            "/annotations",
            json!({ "run.oci.delegate-cgroup": "/own/most" }),
        )
        .set(
            "/linux/resources/unified",
            json!({ "hugetlb.2MB.max": "4194304" }),
        );
    assert_eq!(seen_by(&bundle.report(&[])), "0::/own/most");
    let mut container = bundle.pause();
    let own = container.cgroup();
    assert!(own.ends_with("own/most"), "{own:?}");
    let group = own.ancestors().nth(2).unwrap();
    let of_group = |name: &str| host::cgroup_file(group, name);
    assert_eq!(of_group("hugetlb.2MB.max"), "4194304");
    assert_eq!(of_group("cgroup.procs"), "");
    assert_ne!(host::cgroup_file(&own, "hugetlb.2MB.max"), "4194304");
    assert_eq!(seen_by(&container.exec_report(&[], &[])), "0::/own/most");
    container.call("pause", &[]).success();
    assert!(host::cgroup_file(&own, "cgroup.events").contains("frozen 1"));
    container.delete_by_force().success();
    assert!(!group.exists());
}

#[test]
fn a_delegated_group_belongs_to_a_container_that_may_manage_it() {
    require!(containers, userns);
    beyond!(
        a_delegated_group_belongs_to_a_container_that_may_manage_it,
        [runc("does not know the annotation")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/annotations", json!({ "run.oci.delegate-cgroup": "own" }))
        .user_namespace(100_000, 65536)
        .unmount("/sys/fs/cgroup")
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    let container = bundle.pause();
    let own = container.cgroup();
    assert!(own.ends_with("own"), "{own:?}");
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        let owner = fs::metadata(own.join(name)).unwrap().uid();
        assert_eq!(owner, 100_000, "{name:?}");
    }
}

#[test]
fn a_delegated_group_has_a_name() {
    require!(containers);
    beyond!(
        a_delegated_group_has_a_name,
        [
            runc("does not know the annotation"),
            crun("takes the container's own group for it")
        ]
    );
    let mut bundle = Bundle::new();
    for name in ["/", ".", "../..", "../own", "own/../other"] {
        bundle
            .config
            .set("/annotations", json!({ "run.oci.delegate-cgroup": name }));
        bundle.create_fails().failure().says("names no group");
    }
    bundle
        .config
        .set("/annotations", json!({ "run.oci.delegate-cgroup": "" }));
    assert_eq!(seen_by(&bundle.report(&[])), "0::/");
}

/// A running container whose init is in `inner` below its group, which itself takes no processes.
#[track_caller]
fn closed(bundle: &mut Bundle) -> Container {
    bundle.config.set(
        "/linux/resources/unified",
        json!({ "hugetlb.2MB.max": "4194304" }),
    );
    let container = bundle.pause();
    let group = container.cgroup();
    move_below(&container, "inner");
    write(&group, "cgroup.subtree_control", "+hugetlb");
    container
}

#[track_caller]
fn move_below(container: &Container, name: &str) {
    let inner = container.cgroup().join(name);
    fs::create_dir(&inner).unwrap();
    write(&inner, "cgroup.procs", &container.pid.to_string());
}

/// Makes a group of threads.
#[track_caller]
fn threaded(parent: &Path, name: &str) -> PathBuf {
    let group = parent.join(name);
    fs::create_dir(&group).unwrap();
    write(&group, "cgroup.type", "threaded");
    group
}

/// The line of /proc/self/cgroup that is about the v2 hierarchy.
#[track_caller]
fn seen_by(process: &Seen) -> &str {
    let mut lines = process.cgroup.lines();
    lines.find(|line| line.starts_with("0::")).unwrap()
}

/// The container's own group, wherever below it its init is.
#[track_caller]
fn group_of(container: &Container) -> PathBuf {
    let inner = host::cgroup_of(container.pid);
    inner.parent().unwrap().to_owned()
}

/// What `ps` lists, with duplicates.
#[track_caller]
fn listed(container: &Container) -> Vec<i64> {
    let list = container
        .runtime
        .call(&["ps", "--format", "json", &container.id])
        .success()
        .json();
    let mut pids: Vec<i64> = list
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_i64)
        .collect();
    pids.sort_unstable();
    pids
}

fn sorted(pids: &[i32]) -> Vec<i64> {
    let set: BTreeSet<i64> = pids.iter().map(|pid| i64::from(*pid)).collect();
    set.into_iter().collect()
}

#[track_caller]
fn write(group: &Path, name: &str, value: &str) {
    let path = group.join(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.unwrap_or_else(|error| panic!("write {value:?} to {}: {error}", path.display()));
}
