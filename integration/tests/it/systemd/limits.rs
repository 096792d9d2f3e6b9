//! Limits and devices under the systemd driver: systemd knows them, the group has them, and nothing that systemd does undoes them.

use super::{bundle, daemon_reload, show, systemctl, unit_of};
use crate::update::{document, update};
use integration::runtime::Runtime;
use integration::{Bundle, Container, beyond, host, require};
use serde_json::json;

#[test]
fn limits_are_properties_of_the_unit_and_values_of_the_group() {
    require!(systemd, controller("memory"), controller("cpuset"));
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/resources",
        json!({
            "memory": { "limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432 },
            "cpu": { "shares": 2048, "quota": 30_000, "period": 50_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 77 },
            "unified": { "memory.high": "60000000", "memory.min": "4096" },
        }),
    );
    let container = bundle.create();
    let unit = unit_of(&container);
    for (property, value) in [
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemoryHigh", "60000000"),
        ("MemoryMin", "4096"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("CPUQuotaPerSecUSec", "600ms"),
        ("TasksMax", "77"),
        ("AllowedCPUs", "0"),
        ("AllowedMemoryNodes", "0"),
    ] {
        assert_eq!(show(&unit, property), value, "{property}");
    }
    let group = container.cgroup();
    let weight = host::cgroup_file(&group, "cpu.weight");
    assert_eq!(show(&unit, "CPUWeight"), weight);
    let expected = values(&container);
    assert_eq!(
        expected,
        ["67108864", "67108864", "33554432", "30000 50000", "77", "0"]
    );
    // systemd writes its own values again, which must be the same. (It has whole percents of a CPU only.)
    daemon_reload();
    systemctl(&["set-property", "--runtime", &unit, "Description=again"]);
    assert_eq!(values(&container), expected);
    assert_eq!(host::cgroup_file(&group, "cpu.weight"), weight);
}

fn values(container: &Container) -> Vec<String> {
    let files = [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.max",
        "pids.max",
        "cpuset.cpus",
    ];
    files
        .map(|file| host::cgroup_file(&container.cgroup(), file))
        .into()
}

#[test]
fn no_swap_is_a_limit_that_systemd_knows() {
    require!(systemd, controller("memory"));
    beyond!(
        no_swap_is_a_limit_that_systemd_knows,
        [runc("tells systemd nothing of a limit of 0")]
    );
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 67_108_864, "swap": 67_108_864 }),
    );
    let container = bundle.create();
    assert_eq!(show(&unit_of(&container), "MemorySwapMax"), "0");
    daemon_reload();
    let swap = host::cgroup_file(&container.cgroup(), "memory.swap.max");
    assert_eq!(swap, "0");
}

#[test]
fn limits_are_there_before_the_first_instruction() {
    require!(systemd, controller("memory"), controller("pids"));
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 67_108_864 }))
        .set("/linux/resources/pids", json!({ "limit": 33 }));
    let seen = bundle.report(&[
        "cat=/sys/fs/cgroup/memory.max",
        "cat=/sys/fs/cgroup/pids.max",
        "cat=/sys/fs/cgroup/pids.current",
        "cat=/sys/fs/cgroup/memory.peak",
    ]);
    assert_eq!(*seen.files["/sys/fs/cgroup/memory.max"], "67108864\n");
    assert_eq!(*seen.files["/sys/fs/cgroup/pids.max"], "33\n");
    assert_eq!(*seen.files["/sys/fs/cgroup/pids.current"], "1\n");
}

#[test]
fn a_container_of_one_process_in_little_memory_is_born_in_its_scope() {
    require!(systemd, controller("memory"), controller("pids"));
    beyond!(
        a_container_of_one_process_in_little_memory_is_born_in_its_scope,
        [
            runc("needs several megabytes and processes"),
            crun("needs more than one process")
        ]
    );
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 524_288 }))
        .set("/linux/resources/pids", json!({ "limit": 1 }));
    let mut container = bundle.pause();
    let group = container.cgroup();
    assert_eq!(host::cgroup_file(&group, "pids.max"), "1");
    assert_eq!(host::cgroup_file(&group, "memory.max"), "524288");
    assert_eq!(show(&unit_of(&container), "TasksMax"), "1");
    container.kill("TERM").success();
    assert_eq!(container.wait(), 0);
}

#[test]
fn a_memory_hog_is_killed_at_its_limit_and_its_scope_removed() {
    require!(systemd, controller("memory"));
    let mut bundle = bundle();
    bundle.config.probe(&["eat", "64"]).set(
        "/linux/resources/memory",
        json!({ "limit": 33_554_432, "swap": 33_554_432 }),
    );
    let mut container = bundle.create();
    let unit = unit_of(&container);
    container.start().success();
    assert_eq!(container.wait(), 137);
    container.delete().success();
    assert_eq!(show(&unit, "LoadState"), "not-found");
}

#[test]
fn a_group_that_is_killed_as_a_whole_is_so_for_systemd() {
    require!(systemd, controller("memory"));
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/resources/unified",
        json!({ "memory.oom.group": "1" }),
    );
    let container = bundle.create();
    let oom_group = || host::cgroup_file(&container.cgroup(), "memory.oom.group");
    assert_eq!(oom_group(), "1");
    daemon_reload();
    assert_eq!(oom_group(), "1");
}

#[test]
fn systemd_learns_of_updates() {
    require!(systemd, controller("memory"), controller("cpu"));
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/resources/memory", json!({ "limit": 67_108_864 }))
        .set("/linux/resources/pids", json!({ "limit": 77 }));
    let container = bundle.create();
    let unit = unit_of(&container);
    let update = [
        "--memory=50331648",
        "--cpu-quota=30000",
        "--cpu-period=50000",
        "--pids-limit=55",
    ];
    let words = [&["update"], &update[..], &[container.id.as_str()]].concat();
    // Without the flag: the state knows.
    let plain = Runtime {
        globals: Vec::new(),
        ..bundle.runtime.clone()
    };
    plain.call(&words).success();
    for (property, value) in [
        ("MemoryMax", "50331648"),
        ("CPUQuotaPerSecUSec", "600ms"),
        ("TasksMax", "55"),
    ] {
        assert_eq!(show(&unit, property), value, "{property}");
    }
    let file = |name| host::cgroup_file(&container.cgroup(), name);
    assert_eq!(file("cpu.max"), "30000 50000");
    daemon_reload();
    assert_eq!(
        (file("memory.max"), file("pids.max")),
        ("50331648".to_owned(), "55".to_owned())
    );
}

#[test]
fn what_an_update_does_not_name_or_fails_to_change_stays_as_it_was() {
    require!(
        systemd,
        controller("memory"),
        controller("cpu"),
        controller("io")
    );
    beyond!(
        what_an_update_does_not_name_or_fails_to_change_stays_as_it_was,
        [
            runc("leaves in force what an update changed before it failed"),
            crun("leaves in force what an update changed before it failed")
        ]
    );
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/resources",
        json!({
            "memory": { "limit": 67_108_864 },
            "cpu": { "shares": 512, "quota": 33_333, "period": 100_000 },
            "blockIO": { "weight": 20 },
            "pids": { "limit": 77 },
        }),
    );
    let container = bundle.create();
    let fails = json!({
        "cpu": { "shares": 2048, "idle": 0, "period": 50_000 },
        "blockIO": { "weight": 30 },
        "pids": { "limit": 5 },
        "unified": { "memory.oom.group": "50" },
    });
    let stays = |change: &[&str]| {
        let before = all(&container);
        document(&container, &fails)
            .failure()
            .says("memory.oom.group");
        assert_eq!(all(&container), before);
        daemon_reload();
        assert_eq!(all(&container), before);
        update(&container, change).success();
        let after = all(&container);
        let differ: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert_eq!(differ.len(), 1, "{differ:?}");
        daemon_reload();
        assert_eq!(all(&container), after);
    };
    stays(&["--pids-limit=55"]);
    update(&container, &["--cpu-idle=0"]).success();
    stays(&["--blkio-weight=10"]);
    update(&container, &["--cpu-idle=1"]).success();
    stays(&["--memory-reservation=1048576"]);
}

/// What the files say that systemd writes.
fn all(container: &Container) -> Vec<String> {
    let files = [
        "cpu.idle",
        "cpu.weight",
        "cpu.max",
        "io.weight",
        "memory.max",
        "memory.low",
        "pids.max",
    ];
    let of = |file: &&str| format!("{file} {}", host::cgroup_file(&container.cgroup(), file));
    files.iter().map(of).collect()
}

#[test]
fn what_systemd_does_leaves_the_device_filter_alone() {
    require!(systemd, device_filter);
    let mut bundle = bundle();
    with_devices(&mut bundle);
    let container = bundle.pause();
    let unit = unit_of(&container);
    assert_eq!(tried(&container), ALLOWED_AND_DENIED);
    for command in [
        &["daemon-reload"][..],
        &["set-property", "--runtime", &unit, "CPUWeight=50"],
        &["set-property", "--runtime", &unit, "TasksMax=50"],
    ] {
        systemctl(command).success();
        assert_eq!(tried(&container), ALLOWED_AND_DENIED, "{command:?}");
    }
}

#[test]
fn a_device_that_systemd_cannot_name_stays_usable() {
    require!(systemd, device_filter, throwaway_machine);
    beyond!(
        a_device_that_systemd_cannot_name_stays_usable,
        [runc(
            "lets systemd allow devices by their links in /dev/char"
        )]
    );
    let link = "/dev/char/1:11";
    // As for devices whose driver makes the nodes, and udev no links.
    let removed = std::fs::remove_file(link);
    let mut bundle = bundle();
    with_devices(&mut bundle);
    let container = bundle.pause();
    let before = tried(&container);
    daemon_reload();
    let after = tried(&container);
    if removed.is_ok() {
        std::os::unix::fs::symlink("../kmsg", link).unwrap();
    }
    assert_eq!(
        (before, after),
        (
            ALLOWED_AND_DENIED.map(Into::into),
            ALLOWED_AND_DENIED.map(Into::into)
        )
    );
}

const ALLOWED_AND_DENIED: [&str; 3] = ["ok", "EPERM", "ok"];

/// May use kmsg, and not the memory.
fn with_devices(bundle: &mut Bundle) {
    bundle.config.privileged().set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw" },
        ]),
    );
    for (path, minor) in [("/dev/kmsg", 11), ("/dev/mem", 1)] {
        let node =
            json!({ "path": path, "type": "c", "major": 1, "minor": minor, "fileMode": 0o666 });
        bundle.config.push("/linux/devices", node);
    }
}

fn tried(container: &Container) -> [String; 3] {
    let actions = ["write:/dev/kmsg", "write:/dev/mem", "write:/dev/null"];
    let command = [&["/bin/probe", "try"], &actions[..]].concat();
    let outcome = container.exec(&[], &command).success().json();
    actions.map(|action| outcome[action].as_str().unwrap_or_default().to_owned())
}
