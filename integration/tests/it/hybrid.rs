//! Containers on a host of the hybrid kind: cgroup v2 is at /sys/fs/cgroup/unified, and what is at /sys/fs/cgroup is no
//! hierarchy.
//!
//! Each test makes itself such a host: a thread with a mount namespace of its own, where nothing else sees it.

use integration::{Bundle, beyond, host, require};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const CGROUP: &str = "/sys/fs/cgroup";
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Why the peers fail here.
const V1: &str = "wants the hierarchies of version 1 on such a host";

#[test]
fn a_container_runs_in_a_group_of_the_unified_hierarchy() {
    require!(containers);
    beyond!(
        a_container_runs_in_a_group_of_the_unified_hierarchy,
        [runc(V1), crun(V1)]
    );
    on_hybrid_host(|| {
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        let group = group_of(container.pid);
        assert!(group.starts_with(UNIFIED) && group.is_dir(), "{group:?}");
        assert!(group.display().to_string().contains(&container.id));
        assert_eq!(
            host::cgroup_file(&group, "cgroup.procs"),
            container.pid.to_string()
        );
        let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
        assert_eq!(group_of(second.pid), group);
        drop(container);
        assert!(!group.exists());
    });
}

#[test]
fn run_passes_the_exit_code_and_leaves_no_group() {
    require!(containers);
    beyond!(
        run_passes_the_exit_code_and_leaves_no_group,
        [runc(V1), crun(V1)]
    );
    on_hybrid_host(|| {
        let mut bundle = Bundle::new();
        bundle.config.probe(&["exit", "7"]);
        // Checks that no group is left below /sys/fs/cgroup.
        assert_eq!(bundle.run().code(), 7);
    });
}

#[test]
fn the_container_sees_its_own_group_where_it_expects_it() {
    require!(containers);
    beyond!(
        the_container_sees_its_own_group_where_it_expects_it,
        [runc(V1), crun(V1)]
    );
    on_hybrid_host(|| {
        let seen = Bundle::new().report(&["cat=/sys/fs/cgroup/cgroup.procs"]);
        assert_eq!(seen.mounted(CGROUP).fstype, "cgroup2");
        assert_eq!(*seen.files["/sys/fs/cgroup/cgroup.procs"], "1\n");
    });
}

#[test]
fn a_container_is_paused_resumed_killed_and_deleted() {
    require!(containers);
    beyond!(
        a_container_is_paused_resumed_killed_and_deleted,
        [runc(V1), crun(V1)]
    );
    on_hybrid_host(|| {
        let mut bundle = Bundle::new();
        let mut container = bundle.pause();
        let group = group_of(container.pid);
        container.call("pause", &[]).success();
        assert_eq!(container.status(), "paused");
        assert!(host::cgroup_file(&group, "cgroup.events").contains("frozen 1"));
        container.call("resume", &[]).success();
        assert_eq!(container.status(), "running");
        let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
        container
            .runtime
            .call(&["kill", "--all", &container.id, "KILL"])
            .success();
        assert_eq!((container.wait(), second.wait()), (137, 137));
        assert_eq!(container.status(), "stopped");
        container.delete().success();
        bundle.assert_gone(&container.id);
    });
}

#[test]
fn a_paused_container_is_deleted_by_force() {
    require!(containers);
    beyond!(a_paused_container_is_deleted_by_force, [runc(V1), crun(V1)]);
    on_hybrid_host(|| {
        let mut bundle = Bundle::new();
        let mut container = bundle.pause();
        container.call("pause", &[]).success();
        container.delete_by_force().success();
        assert_eq!(container.wait(), 137);
        bundle.assert_gone(&container.id);
    });
}

#[test]
fn the_device_filter_holds() {
    require!(device_filter);
    beyond!(the_device_filter_holds, [runc(V1), crun(V1)]);
    on_hybrid_host(|| {
        let mut bundle = Bundle::new();
        bundle.config.privileged().push(
            "/linux/devices",
            json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
        );
        assert_eq!(
            bundle.tries(&["read:/dev/kmsg", "read:/dev/zero"]),
            ["EPERM", "ok"]
        );
    });
}

#[test]
fn a_limit_is_kept_or_refused_with_the_controller_and_the_reason() {
    require!(containers);
    beyond!(
        a_limit_is_kept_or_refused_with_the_controller_and_the_reason,
        [runc(V1), crun(V1)]
    );
    let limits = [
        ("memory", json!({ "memory": { "limit": 64 << 20 } })),
        ("cpu", json!({ "cpu": { "shares": 512 } })),
        ("cpuset", json!({ "cpu": { "cpus": "0" } })),
        ("pids", json!({ "pids": { "limit": 9 } })),
        (
            "hugetlb",
            json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }),
        ),
        ("nosuch", json!({ "unified": { "nosuch.max": "1" } })),
    ];
    on_hybrid_host(|| {
        let there = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers")).unwrap();
        for (name, resources) in limits {
            let mut bundle = Bundle::new();
            bundle.config.set("/linux/resources", resources);
            if there
                .split_whitespace()
                .any(|controller| controller == name)
            {
                drop(bundle.create());
                continue;
            }
            bundle
                .create_fails()
                .says(&format!("controller '{name}' is not available"))
                .says(UNIFIED)
                .says(why_missing(name));
        }
    });
}

#[test]
fn the_mounts_of_the_host_stay_as_they_are() {
    require!(containers);
    beyond!(
        the_mounts_of_the_host_stay_as_they_are,
        [runc(V1), crun(V1)]
    );
    on_hybrid_host(|| {
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = mounts();
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        assert_eq!(mounts(), before);
        drop(container);
        assert_eq!(mounts(), before);
    });
}

/// Runs a test in a thread that sees a hybrid host.
#[track_caller]
fn on_hybrid_host(test: impl FnOnce() + Send) {
    host::in_own_mounts(|| {
        let (none, flags) = (None::<&str>, MsFlags::empty());
        mount(Some("tmpfs"), CGROUP, Some("tmpfs"), flags, none).unwrap();
        fs::create_dir(UNIFIED).unwrap();
        mount(Some("cgroup2"), UNIFIED, Some("cgroup2"), flags, none).unwrap();
        test();
    });
}

/// The directory of a process's group.
fn group_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Path::new(UNIFIED).join(path.unwrap())
}

/// What the runtime should say of a controller that v2 does not have, from the second and fourth column of /proc/cgroups.
fn why_missing(controller: &str) -> &'static str {
    let table = fs::read_to_string("/proc/cgroups").unwrap();
    let row = table.lines().find_map(|line| {
        let row: Vec<_> = line.split_whitespace().collect();
        (row[0] == controller).then(|| (row[1] != "0", row[3] != "0"))
    });
    match row {
        None => "this kernel does not have it",
        Some((_, false)) => "it is disabled on the kernel's command line",
        Some((true, _)) => "it is mounted as a v1 hierarchy",
        Some((false, _)) => "it is not delegated",
    }
}
