//! What the files of a container's cgroup hold after `create`, for each field of the config, and what is refused.
//!
//! That the kernel then keeps to these values is shown in `limits`; where the group is, in `groups`.

use integration::{Bundle, Container, beyond, host, place, require};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
fn cpu_shares_become_a_weight() {
    require!(containers, controller("cpu"));
    beyond!(
        cpu_shares_become_a_weight,
        [
            runc_before("1.3.2", "has the linear formula"),
            crun_before("1.23", "has the linear formula")
        ]
    );
    // The pairs of the formula that runc and crun agreed on in 2025: 1024 shares are the default weight of 100.
    for (shares, weight) in [
        (2, "1"),
        (10, "4"),
        (512, "59"),
        (1024, "100"),
        (2048, "174"),
        (102_400, "4429"),
        (262_144, "10000"),
        (u64::MAX, "10000"),
    ] {
        let container = limited(json!({ "cpu": { "shares": shares } }));
        assert_eq!(container.file("cpu.weight"), weight, "{shares} shares");
    }
}

#[test]
fn shares_of_zero_leave_the_default_weight() {
    require!(containers, controller("cpu"));
    let container = limited(json!({ "cpu": { "shares": 0, "quota": 50_000 } }));
    assert_eq!(container.file("cpu.weight"), "100");
}

#[test]
fn cpu_quota_and_period_share_a_file() {
    require!(containers, controller("cpu"));
    for (cpu, expected) in [
        (
            json!({ "quota": 50_000, "period": 200_000 }),
            "50000 200000",
        ),
        (json!({ "quota": 150_000 }), "150000 100000"),
        (json!({ "period": 50_000 }), "max 50000"),
        (json!({ "quota": -1, "period": 20_000 }), "max 20000"),
    ] {
        let container = limited(json!({ "cpu": cpu }));
        assert_eq!(container.file("cpu.max"), expected, "{cpu}");
    }
}

#[test]
fn a_cpu_burst_is_set_with_its_quota() {
    require!(containers, controller("cpu"));
    beyond!(
        a_cpu_burst_is_set_with_its_quota,
        [
            runc_before("1.2", "does not know burst"),
            crun_before(
                "1.9",
                "writes the burst before the quota that must exceed it"
            )
        ]
    );
    let container = limited(json!({ "cpu": { "quota": 50_000, "burst": 20_000 } }));
    assert_eq!(container.file("cpu.max"), "50000 100000");
    assert_eq!(container.file("cpu.max.burst"), "20000");
}

#[test]
fn a_burst_beyond_its_quota_is_refused() {
    require!(containers, controller("cpu"));
    beyond!(
        a_burst_beyond_its_quota_is_refused,
        [runc_before("1.2", "does not know burst")]
    );
    refused(json!({ "cpu": { "quota": 50_000, "burst": 60_000 } }));
}

#[test]
fn an_idle_group_is_idle() {
    require!(containers, controller("cpu"));
    beyond!(
        an_idle_group_is_idle,
        [runc_before("1.2", "does not know idle")]
    );
    let container = limited(json!({ "cpu": { "idle": 1 } }));
    assert_eq!(container.file("cpu.idle"), "1");
}

#[test]
fn an_idle_group_with_shares_is_idle() {
    require!(containers, controller("cpu"));
    beyond!(
        an_idle_group_with_shares_is_idle,
        [runc(
            "writes the weight after all, which the kernel refuses"
        )]
    );
    let container = limited(json!({ "cpu": { "idle": 1, "shares": 2048 } }));
    assert_eq!(container.file("cpu.idle"), "1");
}

#[test]
fn cpus_and_memory_nodes_are_those_of_the_set() {
    require!(containers, controller("cpuset"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources",
        json!({ "cpu": { "cpus": "0", "mems": "0" } }),
    );
    let container = bundle.pause();
    assert_eq!(host::cgroup_file(&container.cgroup(), "cpuset.cpus"), "0");
    assert_eq!(host::cgroup_file(&container.cgroup(), "cpuset.mems"), "0");
    let seen = container.exec_report(&[], &[]);
    assert_eq!(
        seen.cpus.iter().copied().collect::<Vec<_>>(),
        [0],
        "exec is in the set too"
    );
}

#[test]
fn cpus_that_do_not_exist_are_refused() {
    require!(containers, controller("cpuset"));
    refused(json!({ "cpu": { "cpus": "0-x" } })).says("cpuset.cpus");
}

#[test]
fn memory_limit_and_reservation_are_set() {
    require!(containers, controller("memory"));
    let container = limited(json!({ "memory": { "limit": 64 << 20, "reservation": 32 << 20 } }));
    assert_eq!(container.file("memory.max"), "67108864");
    assert_eq!(container.file("memory.low"), "33554432");
    assert_eq!(container.file("memory.swap.max"), "max");
}

#[test]
fn memory_of_minus_one_is_no_limit() {
    require!(containers, controller("memory"), controller("pids"));
    // The limit on pids is there to make every runtime make the group with its controllers.
    let container =
        limited(json!({ "memory": { "limit": -1, "swap": -1 }, "pids": { "limit": 9 } }));
    if container.container.cgroup().join("memory.max").exists() {
        assert_eq!(container.file("memory.max"), "max");
        assert_eq!(container.file("memory.swap.max"), "max");
    }
}

#[test]
fn swap_counts_what_goes_beyond_memory() {
    require!(containers, controller("memory"));
    for (limit, swap, expected) in [
        (64i64 << 20, 96i64 << 20, "33554432"),
        (64 << 20, 64 << 20, "0"),
        (64 << 20, -1, "max"),
        (-1, -1, "max"),
    ] {
        let container = limited(json!({
            "memory": { "limit": limit, "swap": swap, "reservation": 1 << 20 }
        }));
        assert_eq!(
            container.file("memory.swap.max"),
            expected,
            "limit {limit}, swap {swap}"
        );
    }
}

#[test]
fn swap_below_memory_is_refused() {
    require!(containers, controller("memory"));
    refused(json!({ "memory": { "limit": 64 << 20, "swap": 32 << 20 } }));
}

#[test]
fn swap_without_a_memory_limit_is_refused() {
    require!(containers, controller("memory"));
    refused(json!({ "memory": { "swap": 32 << 20 } }));
}

#[test]
fn fields_of_the_old_hierarchy_are_ignored() {
    require!(containers, controller("memory"));
    beyond!(
        fields_of_the_old_hierarchy_are_ignored,
        [crun("refuses them")]
    );
    let container = limited(json!({
        "memory": { "limit": 64 << 20, "kernel": 1 << 20, "swappiness": 10, "disableOOMKiller": true },
        "network": { "classID": 7 }
    }));
    assert_eq!(container.file("memory.max"), "67108864");
}

#[test]
fn the_limit_of_pids_is_set() {
    require!(containers, controller("pids"));
    for (limit, expected) in [(7, "7"), (0, "1"), (-1, "max")] {
        let container =
            limited(json!({ "pids": { "limit": limit }, "unified": { "pids.max": expected } }));
        assert_eq!(container.file("pids.max"), expected);
    }
    let container = limited(json!({ "pids": { "limit": 7 } }));
    assert_eq!(container.file("pids.max"), "7");
}

#[test]
fn a_pids_limit_of_zero_is_one_process() {
    require!(containers, controller("pids"));
    beyond!(
        a_pids_limit_of_zero_is_one_process,
        [
            runc_before("1.4", "takes 0 for no limit"),
            crun("writes 0, and nothing can start")
        ]
    );
    let container = limited(json!({ "pids": { "limit": 0 } }));
    assert_eq!(container.file("pids.max"), "1");
}

#[test]
fn an_io_weight_is_scaled() {
    require!(containers, controller("io"));
    for (weight, scaled) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
        let container = limited(json!({ "blockIO": { "weight": weight } }));
        let cgroup = container.container.cgroup();
        let (name, expected) = match cgroup.join("io.bfq.weight").exists() {
            true => ("io.bfq.weight", weight),
            false => ("io.weight", scaled),
        };
        assert_eq!(
            container.file(name).lines().next(),
            Some(&*format!("default {expected}")),
            "weight {weight}"
        );
    }
}

#[test]
fn throttles_of_a_device_share_a_line() {
    require!(containers, controller("io"), path("/dev/scratch"));
    let (major, minor) = scratch_disk();
    let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let container = limited(json!({ "blockIO": {
        "throttleReadBpsDevice": rate(1 << 20),
        "throttleWriteBpsDevice": rate(2 << 20),
        "throttleReadIOPSDevice": rate(300),
        "throttleWriteIOPSDevice": rate(400)
    }}));
    assert_eq!(
        container.file("io.max"),
        format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=300 wiops=400")
    );
}

#[test]
fn huge_pages_are_limited_in_use_and_in_reservation() {
    require!(
        containers,
        controller("hugetlb"),
        path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    );
    beyond!(
        huge_pages_are_limited_in_use_and_in_reservation,
        [
            runc_before("1.1.15", "limits their use only"),
            crun("limits their use only")
        ]
    );
    let container = limited(json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }));
    assert_eq!(container.file("hugetlb.2MB.max"), "4194304");
    assert_eq!(container.file("hugetlb.2MB.rsvd.max"), "4194304");
}

#[test]
fn unified_values_are_written_as_they_are_and_last() {
    require!(containers, controller("memory"), controller("pids"));
    let container = limited(json!({
        "memory": { "limit": 64 << 20 },
        "pids": { "limit": 5 },
        "unified": { "memory.high": "50331648", "pids.max": "9", "cgroup.max.descendants": "3" }
    }));
    assert_eq!(container.file("memory.high"), "50331648");
    assert_eq!(container.file("memory.max"), "67108864");
    assert_eq!(container.file("pids.max"), "9");
    assert_eq!(container.file("cgroup.max.descendants"), "3");
}

#[test]
fn unified_lines_are_written_one_by_one() {
    require!(containers, controller("io"), path("/dev/scratch"));
    beyond!(
        unified_lines_are_written_one_by_one,
        [runc_before("1.2", "writes all lines at once")]
    );
    let (major, minor) = scratch_disk();
    let lines = format!("{major}:{minor} rbps=1048576\n{major}:{minor} wbps=2097152\n");
    let container = limited(json!({ "unified": { "io.max": lines } }));
    assert_eq!(
        container.file("io.max"),
        format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=max wiops=max")
    );
}

#[test]
fn a_unified_key_is_the_name_of_a_file() {
    require!(containers);
    for key in ["../cgroup.procs", "/cgroup.freeze", "sub/memory.max"] {
        refused(json!({ "unified": { key: "1" } })).says("slash");
    }
}

#[test]
fn a_missing_controller_is_named() {
    require!(containers);
    refused(json!({ "unified": { "nosuch.max": "1" } })).says("nosuch");
}

#[test]
fn a_missing_controller_is_named_with_the_reason() {
    require!(containers);
    beyond!(
        a_missing_controller_is_named_with_the_reason,
        [runc("gives no reason"), crun("gives no reason")]
    );
    refused(json!({ "unified": { "nosuch.max": "1" } }))
        .says("controller 'nosuch' is not available")
        .says("this kernel does not have it");
}

#[test]
fn a_limit_that_cannot_be_met_leaves_nothing_behind() {
    require!(containers, controller("memory"), controller("pids"));
    let mut bundle = Bundle::new();
    let group = format!("/{}/deep/{}", place::unique("tree"), place::unique("leaf"));
    bundle.config.set("/linux/cgroupsPath", &*group);
    bundle.config.set(
        "/linux/resources",
        json!({ "pids": { "limit": 9 }, "unified": { "memory.max": "nonsense" } }),
    );
    bundle.create_fails().says("memory.max");
    let top = host::hierarchy().join(group.split('/').nth(1).unwrap());
    // The peers leave the groups above, which they made as well.
    if integration::peer::is("caisson") {
        assert!(!top.exists(), "{} is left", top.display());
    } else {
        remove_tree(&top);
    }
}

#[test]
fn a_container_without_limits_has_all_controllers() {
    require!(containers);
    if host::cgroup_file(host::hierarchy(), "cgroup.controllers").contains("rdma") {
        beyond!(
            a_container_without_limits_has_all_controllers,
            [crun("leaves rdma out")]
        );
    }
    // For statistics, and for limits of groups that it makes inside.
    let mut bundle = Bundle::new();
    let tree = place::unique("tree");
    bundle
        .config
        .set("/linux/cgroupsPath", format!("/{tree}/leaf"))
        .remove("/linux/resources");
    let container = bundle.create();
    let top = host::hierarchy().join(&tree);
    let there = host::cgroup_file(host::hierarchy(), "cgroup.controllers");
    let own = host::cgroup_file(&container.cgroup(), "cgroup.controllers");
    assert_eq!(own, there);
    drop(container);
    remove_tree(&top);
}

#[test]
fn a_container_that_may_manage_its_group_owns_it() {
    require!(containers, userns);
    beyond!(
        a_container_that_may_manage_its_group_owns_it,
        [runc("gives groups away only with the systemd driver")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .user_namespace(100_000, 65536)
        .unmount("/sys/fs/cgroup")
        .mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev"],
        );
    let container = bundle.pause();
    let cgroup = container.cgroup();
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        let owner = fs::metadata(cgroup.join(name)).unwrap().uid();
        assert_eq!(owner, 100_000, "{name:?}");
    }
    assert_eq!(
        fs::metadata(cgroup.join("cgroup.freeze")).unwrap().uid(),
        0,
        "limits stay the host's"
    );
    let made = container
        .exec(&[], &["/bin/probe", "try", "mkdir:/sys/fs/cgroup/below"])
        .success()
        .json();
    assert_eq!(made["mkdir:/sys/fs/cgroup/below"], "ok");
}

#[test]
fn a_read_only_cgroup_mount_gives_no_group_away() {
    require!(containers, userns);
    beyond!(
        a_read_only_cgroup_mount_gives_no_group_away,
        [crun("gives the group away all the same")]
    );
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    let container = bundle.create();
    assert_eq!(fs::metadata(container.cgroup()).unwrap().uid(), 0);
}

#[test]
fn a_block_device_needs_a_rule_of_its_own() {
    require!(device_filter, path("/dev/scratch"));
    let (major, minor) = scratch_disk();
    let mut bundle = Bundle::new();
    bundle.config.privileged().push(
        "/linux/devices",
        json!({ "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o666 }),
    );
    let rules = |rule: Value| json!([{ "allow": false, "access": "rwm" }, rule]);
    let actions = ["read:/dev/disk", "write:/dev/disk"];
    for (rule, expected) in [
        (
            json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }),
            ["EPERM", "EPERM"],
        ),
        (
            json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" }),
            ["ok", "EPERM"],
        ),
        (
            json!({ "allow": true, "type": "b", "major": major, "access": "rw" }),
            ["ok", "ok"],
        ),
    ] {
        bundle
            .config
            .set("/linux/resources/devices", rules(rule.clone()));
        assert_eq!(bundle.tries(&actions), expected, "{rule}");
    }
}

#[test]
fn a_hole_in_a_device_rule_is_refused() {
    require!(device_filter);
    beyond!(
        a_hole_in_a_device_rule_is_refused,
        [crun("lets the last rule win")]
    );
    refused(json!({ "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 10, "access": "rwm" },
        { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm" }
    ]}));
}

/// A created container, and the bundle that must outlive it.
struct Limited {
    container: Container,
    _bundle: Bundle,
}

impl Limited {
    #[track_caller]
    fn file(&self, name: &str) -> String {
        host::cgroup_file(&self.container.cgroup(), name)
    }
}

/// A created container with these resources.
#[track_caller]
fn limited(resources: Value) -> Limited {
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources);
    Limited {
        container: bundle.create(),
        _bundle: bundle,
    }
}

/// What `create` says to these resources, which it must refuse.
#[track_caller]
fn refused(resources: Value) -> integration::Finished {
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources);
    bundle.create_fails().failure()
}

/// Major and minor number of the blank disk of the virtual machine.
pub(crate) fn scratch_disk() -> (u64, u64) {
    let device = fs::metadata("/dev/scratch").unwrap().rdev();
    (nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

/// Removes a group that this test named, with the empty groups below it.
fn remove_tree(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(top).ok(); // The runtime may have removed it.
}
