//! cgroup v2: where the container's group is, what is in its files after `create`, and freezing it.
//!
//! Limits need the controller on the v2 hierarchy, so most of these tests are for the virtual machine. What is asserted is the
//! value in the file; that the kernel acts on it is shown elsewhere.

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
    let group = PathBuf::from(format!("{}{path}", host::CGROUP));
    assert_eq!(container.cgroup(), group);
    container.delete().success();
    assert!(!group.exists());
}

#[test]
fn parents_of_the_group_are_made() {
    require!(containers);
    let mut bundle = Bundle::new();
    let top = Path::new(host::CGROUP).join(unique("top"));
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
    let made = ["/", "/sys", "/sys/fs", host::CGROUP].map(|parent| Path::new(parent).join(&name));
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
    let group = Path::new(host::CGROUP).join(unique("existing"));
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
    let group = Path::new(host::CGROUP).join(unique("frozen"));
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
fn cpu_limits_are_in_the_files() {
    require!(containers, controller("cpu"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/cpu",
        json!({ "quota": 50_000, "period": 200_000 }),
    );
    let container = bundle.create();
    assert_eq!(file(&container, "cpu.max"), "50000 200000");
    bundle.config.set(
        "/linux/resources/cpu",
        json!({ "quota": -1, "period": 50_000 }),
    );
    assert_eq!(file(&bundle.create(), "cpu.max"), "max 50000");
    bundle
        .config
        .set("/linux/resources/cpu", json!({ "quota": 20_000 }));
    assert_eq!(file(&bundle.create(), "cpu.max"), "20000 100000");
}

#[test]
fn cpu_shares_become_a_weight_by_the_new_formula() {
    require!(containers, controller("cpu"));
    beyond!(
        cpu_shares_become_a_weight_by_the_new_formula,
        [
            runc_before(
                "1.3.2",
                "has the linear formula, by which the default of 1024 is a weight of 39"
            ),
            crun_before("1.23", "has the linear formula")
        ]
    );
    let mut bundle = Bundle::new();
    for (shares, weight) in [
        (2, "1"),
        (3, "2"),
        (10, "4"),
        (100, "17"),
        (256, "35"),
        (512, "59"),
        (1000, "99"),
        (1024, "100"),
        (2048, "174"),
        (4096, "303"),
        (10240, "639"),
        (102_400, "4429"),
        (262_144, "10000"),
    ] {
        bundle
            .config
            .set("/linux/resources/cpu", json!({ "shares": shares }));
        assert_eq!(file(&bundle.create(), "cpu.weight"), weight, "{shares}");
    }
}

#[test]
fn the_cpu_burst_and_idle_settings_are_in_the_files() {
    require!(containers, controller("cpu"));
    beyond!(
        the_cpu_burst_and_idle_settings_are_in_the_files,
        [
            runc_before("1.2", "knows no burst"),
            crun_before("1.9", "knows no burst")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/cpu",
        json!({ "quota": 50_000, "period": 100_000, "burst": 20_000 }),
    );
    assert_eq!(file(&bundle.create(), "cpu.max.burst"), "20000");
    bundle
        .config
        .set("/linux/resources/cpu", json!({ "idle": 1 }));
    assert_eq!(file(&bundle.create(), "cpu.idle"), "1");
}

#[test]
fn cpus_and_memory_nodes_are_in_the_files() {
    require!(containers, controller("cpuset"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/cpu", json!({ "cpus": "0", "mems": "0" }));
    let container = bundle.create();
    assert_eq!(
        (
            file(&container, "cpuset.cpus"),
            file(&container, "cpuset.mems")
        ),
        ("0".to_owned(), "0".to_owned())
    );
    assert_eq!(
        bundle.report(&[]).cpus.iter().copied().collect::<Vec<_>>(),
        [0]
    );
}

#[test]
fn memory_limits_are_in_the_files() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    let mib = 1 << 20;
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 64 * mib, "reservation": 32 * mib, "swap": 96 * mib }),
    );
    let container = bundle.create();
    assert_eq!(file(&container, "memory.max"), (64 * mib).to_string());
    assert_eq!(file(&container, "memory.low"), (32 * mib).to_string());
    if container.cgroup().join("memory.swap.max").exists() {
        assert_eq!(file(&container, "memory.swap.max"), (32 * mib).to_string());
    }
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": -1, "swap": -1 }),
    );
    assert_eq!(file(&bundle.create(), "memory.max"), "max");
}

#[test]
fn swap_equal_to_the_limit_means_none() {
    require!(containers, controller("memory"), path("/proc/swaps"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 67_108_864, "swap": 67_108_864 }),
    );
    let container = bundle.create();
    if container.cgroup().join("memory.swap.max").exists() {
        assert_eq!(file(&container, "memory.swap.max"), "0");
    }
}

#[test]
fn swap_below_the_limit_or_without_one_is_refused() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 67_108_864, "swap": 1_048_576 }),
    );
    bundle.create_fails().failure();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "swap": 1_048_576 }));
    bundle.create_fails().failure();
}

#[test]
fn settings_that_only_cgroup_v1_has_are_ignored() {
    require!(containers, controller("memory"));
    beyond!(
        settings_that_only_cgroup_v1_has_are_ignored,
        [crun("refuses them")]
    );
    let mut bundle = Bundle::new();
    let memory = json!({ "limit": 67_108_864, "kernel": 1000, "kernelTCP": 1000, "swappiness": 10, "disableOOMKiller": false, "useHierarchy": true });
    bundle.config.set("/linux/resources/memory", memory);
    bundle.config.set(
        "/linux/resources/network",
        json!({ "classID": 1, "priorities": [{ "name": "lo", "priority": 1 }] }),
    );
    bundle.config.set(
        "/linux/resources/cpu",
        json!({ "realtimeRuntime": 1, "realtimePeriod": 1000 }),
    );
    assert_eq!(file(&bundle.create(), "memory.max"), "67108864");
}

#[test]
fn the_limit_of_processes_is_in_the_file() {
    require!(containers, controller("pids"));
    let mut bundle = Bundle::new();
    for (limit, value) in [(20, "20"), (1, "1"), (-1, "max")] {
        bundle
            .config
            .set("/linux/resources/pids", json!({ "limit": limit }));
        assert_eq!(file(&bundle.create(), "pids.max"), value, "{limit}");
    }
}

#[test]
fn a_limit_of_no_processes_leaves_room_for_one() {
    require!(containers, controller("pids"));
    beyond!(
        a_limit_of_no_processes_leaves_room_for_one,
        [
            runc_before("1.4", "takes 0 as no limit"),
            crun("writes 0, in which nothing can start")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/pids", json!({ "limit": 0 }));
    assert_eq!(file(&bundle.create(), "pids.max"), "1");
}

#[test]
fn io_limits_are_in_the_files() {
    require!(containers, controller("io"), path("/dev/vda"));
    let mut bundle = Bundle::new();
    let rdev = std::os::unix::fs::MetadataExt::rdev(&fs::metadata("/dev/vda").unwrap());
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let rate = |rate: u32| json!([{ "major": major, "minor": minor, "rate": rate }]);
    bundle.config.set(
        "/linux/resources/blockIO",
        json!({
            "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200),
        }),
    );
    let line = file(&bundle.create(), "io.max");
    assert_eq!(
        line,
        format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200")
    );
}

#[test]
fn the_io_weight_is_in_the_file() {
    require!(containers, controller("io"));
    let mut bundle = Bundle::new();
    for (weight, value) in [(10, "1"), (100, "910"), (500, "4950"), (1000, "10000")] {
        bundle
            .config
            .set("/linux/resources/blockIO", json!({ "weight": weight }));
        let container = bundle.create();
        let group = container.cgroup();
        if group.join("io.bfq.weight").exists() {
            assert_eq!(
                host::cgroup_file(&group, "io.bfq.weight"),
                format!("default {weight}")
            );
        } else if group.join("io.weight").exists() {
            assert_eq!(
                host::cgroup_file(&group, "io.weight"),
                format!("default {value}")
            );
        }
    }
}

#[test]
fn limits_of_huge_pages_are_in_the_files() {
    require!(containers, controller("hugetlb"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "2MB", "limit": 8_388_608 }]),
    );
    let container = bundle.create();
    assert_eq!(file(&container, "hugetlb.2MB.max"), "8388608");
}

#[test]
fn limits_of_huge_pages_hold_for_reservations_too() {
    require!(containers, controller("hugetlb"));
    beyond!(
        limits_of_huge_pages_hold_for_reservations_too,
        [
            runc_before("1.2", "limits use only"),
            crun("limits use only")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "2MB", "limit": 8_388_608 }]),
    );
    assert_eq!(file(&bundle.create(), "hugetlb.2MB.rsvd.max"), "8388608");
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
fn unified_settings_are_written_as_they_are_and_last() {
    require!(containers, controller("memory"), controller("pids"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 67_108_864 }));
    let unified = json!({ "memory.max": "33554432", "memory.high": "16777216", "pids.max": "77", "memory.oom.group": "1" });
    bundle.config.set("/linux/resources/unified", unified);
    let container = bundle.create();
    for (name, value) in [
        ("memory.max", "33554432"),
        ("memory.high", "16777216"),
        ("pids.max", "77"),
        ("memory.oom.group", "1"),
    ] {
        assert_eq!(file(&container, name), value, "{name}");
    }
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
fn unified_settings_are_names_of_files_in_the_group() {
    require!(containers);
    let mut bundle = Bundle::new();
    for name in [
        "../cgroup.max.depth",
        "inner/cgroup.max.depth",
        "/etc/hostname",
        "..",
        "",
        "none.none",
    ] {
        bundle
            .config
            .set("/linux/resources/unified", json!({ name: "5" }));
        bundle.create_fails().failure();
    }
}

#[test]
fn a_setting_of_a_controller_that_is_not_there_is_refused_by_name() {
    require!(containers);
    for (controller, resources) in [
        ("memory", json!({ "memory": { "limit": 67_108_864 } })),
        (
            "cpu",
            json!({ "cpu": { "quota": 50_000, "period": 100_000 } }),
        ),
        ("cpuset", json!({ "cpu": { "cpus": "0" } })),
        ("pids", json!({ "pids": { "limit": 10 } })),
        (
            "memory",
            json!({ "unified": { "memory.high": "16777216" } }),
        ),
    ] {
        if require::controller(controller).is_ok() {
            continue; // Where all are there, as in the virtual machine, nothing can be missing.
        }
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/resources", resources);
        bundle.create_fails().failure().says(controller);
    }
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
