//! `events`: statistics against the kernel's own files, and the stream of them with the container's end.

use integration::{Bundle, Container, beyond, host, require};
use serde_json::{Map, Value, json};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Why crun fails here.
const NONE: &str = "has no events command";

#[test]
fn statistics_are_one_line_in_runcs_form() {
    require!(containers);
    beyond!(
        statistics_are_one_line_in_runcs_form,
        [runc_before("1.2", "does not show pressure"), crun(NONE)]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let finished = container.call("events", &["--stats"]).success();
    assert_eq!(finished.stdout.lines().count(), 1, "{finished}");
    let event = finished.json();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], container.id.as_str());
    assert_eq!(keys(&event), ["data", "id", "type"]);
    let data = &event["data"];
    assert_eq!(
        keys(data),
        [
            "blkio",
            "cpu",
            "cpuset",
            "hugetlb",
            "intel_rdt",
            "memory",
            "network_interfaces",
            "pids"
        ]
    );
    assert_eq!(data["intel_rdt"], json!({}));
    assert_eq!(
        data["network_interfaces"],
        Value::Null,
        "nothing but a loopback"
    );
    let psi = json!({ "avg10": 0, "avg60": 0, "avg300": 0, "total": 0 });
    for part in ["cpu", "memory", "blkio"] {
        if container.cgroup().join("cpu.pressure").exists() {
            assert_eq!(keys(&data[part]["psi"]), ["full", "some"], "{part}");
            assert_eq!(keys(&data[part]["psi"]["some"]), keys(&psi), "{part}");
        }
    }
    for part in ["usage", "swap", "kernel", "kernelTCP"] {
        let entry = &data["memory"][part];
        assert!(
            entry["limit"].is_u64() && entry["failcnt"].is_u64(),
            "{entry}"
        );
    }
    assert_eq!(data["cpuset"]["cpu_exclusive"], 0);
    assert_eq!(data["cpuset"]["sched_relax_domain_level"], 0);
}

#[test]
fn cpu_time_is_the_kernels_in_nanoseconds() {
    require!(containers);
    beyond!(cpu_time_is_the_kernels_in_nanoseconds, [crun(NONE)]);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container.exec(&[], &["/bin/probe", "burn", "50"]).success();
    // What is frozen uses nothing between two looks.
    container.call("pause", &[]).success();
    let usage = stats(&container)["cpu"]["usage"].clone();
    let file = host::cgroup_file(&container.cgroup(), "cpu.stat");
    for (key, name) in [
        ("total", "usage_usec"),
        ("user", "user_usec"),
        ("kernel", "system_usec"),
    ] {
        assert_eq!(
            usage[key].as_u64().unwrap(),
            number(&file, name) * 1000,
            "{key}"
        );
    }
    assert!(usage["total"].as_u64().unwrap() >= 50_000_000);
}

#[test]
fn processes_are_counted_without_the_controller_too() {
    require!(containers);
    beyond!(
        processes_are_counted_without_the_controller_too,
        [crun(NONE)]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container.exec_detached(&[], &["/bin/probe", "pause"]);
    assert_eq!(stats(&container)["pids"], json!({ "current": 2 }));
}

#[test]
fn every_controller_is_counted() {
    require!(
        containers,
        controller("memory"),
        controller("pids"),
        controller("cpuset"),
        controller("io"),
        controller("hugetlb")
    );
    beyond!(
        every_controller_is_counted,
        [runc("leaves the set of CPUs out"), crun(NONE)]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources",
        json!({
            "memory": { "limit": 64 * MIB, "swap": 96 * MIB }, "pids": { "limit": 50 }, "cpu": { "cpus": "0", "mems": "0" },
            "blockIO": { "weight": 100 }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 2 * MIB }],
        }),
    );
    let container = bundle.pause();
    container.call("pause", &[]).success();
    let group = container.cgroup();
    let file = |name: &str| host::cgroup_file(&group, name);
    let counted = ["anon", "file", "inactive_anon", "pgfault"];
    let accounts = || {
        let raw = file("memory.stat");
        let current: u64 = file("memory.current").parse().unwrap();
        (current, counted.map(|key| number(&raw, key)))
    };
    // The kernel settles those of a frozen group for a while yet. What it says before and after is what it said in between.
    let (data, (current, counts)) = (0..200)
        .find_map(|_| {
            let (before, data) = (accounts(), stats(&container));
            (accounts() == before).then_some((data, before))
        })
        .expect("the accounts of a frozen group stand still in the end");
    assert_eq!(data["pids"], json!({ "current": 1, "limit": 50 }));
    let memory = &data["memory"];
    assert_eq!(memory["usage"]["limit"], 64 * MIB);
    // Zero would be left out.
    assert_eq!(memory["usage"]["usage"].as_u64().unwrap_or(0), current);
    assert_eq!(
        memory["swap"]["limit"],
        96 * MIB,
        "memory and swap together"
    );
    assert_eq!(memory["swap"]["usage"].as_u64().unwrap_or(0), current);
    let raw = file("memory.stat");
    assert_eq!(
        memory["raw"].as_object().unwrap().len(),
        raw.lines().count()
    );
    for (key, count) in counted.iter().zip(counts) {
        assert_eq!(memory["raw"][*key], count, "{key}");
    }
    assert_eq!(data["cpuset"]["cpus"], json!([0]));
    assert_eq!(data["cpuset"]["mems"], json!([0]));
    assert_eq!(data["hugetlb"]["2MB"], json!({ "failcnt": 0 }));
}

#[test]
fn transfers_are_counted_by_device() {
    require!(containers, controller("io"), path("/dev/scratch"));
    beyond!(transfers_are_counted_by_device, [crun(NONE)]);
    let (major, minor) = crate::cgroup::scratch_disk();
    let mut bundle = Bundle::new();
    bundle
        .config
        .push(
            "/linux/devices",
            json!({ "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600 }),
        )
        .set(
            "/linux/resources",
            json!({
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" },
                ],
                "blockIO": { "weight": 100 },
            }),
        );
    let container = bundle.pause();
    container
        .exec(&[], &["/bin/probe", "read-direct", "/dev/disk", "1048576"])
        .success();
    let blkio = stats(&container)["blkio"].clone();
    let read = |list: &str| {
        blkio[list]
            .as_array()
            .and_then(|list| {
                list.iter().find(|entry| {
                    entry["major"] == major
                        && entry["minor"].as_u64().unwrap_or(0) == minor
                        && entry["op"] == "Read"
                })
            })
            .and_then(|entry| entry["value"].as_u64())
    };
    assert_eq!(read("ioServiceBytesRecursive"), Some(MIB), "{blkio}");
    assert!(read("ioServicedRecursive") > Some(0), "{blkio}");
}

#[test]
fn interfaces_of_the_containers_own_network_are_shown() {
    require!(containers, path("/sbin/ip"));
    beyond!(
        interfaces_of_the_containers_own_network_are_shown,
        [
            runc("shows interfaces that it made itself, and makes none"),
            crun(NONE)
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let mut ip = Command::new("/sbin/ip");
    let pid = container.pid.to_string();
    let outer = format!("veth{}", container.pid);
    ip.args([
        "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ]);
    integration::runtime::finish(ip).success();
    let interfaces = stats(&container)["network_interfaces"].clone();
    let mut ip = Command::new("/sbin/ip");
    ip.args(["link", "delete", &outer]);
    integration::runtime::finish(ip).success();
    assert_eq!(
        interfaces,
        json!([{ "Name": "eth0", "RxBytes": 0, "RxPackets": 0, "RxErrors": 0, "RxDropped": 0,
            "TxBytes": 0, "TxPackets": 0, "TxErrors": 0, "TxDropped": 0 }])
    );
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("network");
    let container = bundle.pause();
    assert_eq!(stats(&container)["network_interfaces"], Value::Null);
}

#[test]
fn statistics_come_at_the_interval_until_the_container_ends() {
    require!(containers, event_stream);
    beyond!(
        statistics_come_at_the_interval_until_the_container_ends,
        [crun(NONE)]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let begin = Instant::now();
    let mut events = container
        .runtime
        .start(&["events", "--interval", "200ms", &container.id]);
    for count in 1..4u32 {
        let line: Value = serde_json::from_str(&events.stdout.line()).unwrap();
        assert_eq!(line["type"], "stats");
        assert!(begin.elapsed() >= Duration::from_millis(200) * count);
    }
    container.kill("KILL").success();
    container.wait();
    events.wait().success();
}

#[test]
fn the_interval_is_five_seconds() {
    require!(containers, event_stream);
    beyond!(the_interval_is_five_seconds, [crun(NONE)]);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let begin = Instant::now();
    let mut events = container.runtime.start(&["events", &container.id]);
    events.stdout.line();
    assert!(begin.elapsed() >= Duration::from_secs(5));
}

#[test]
fn the_stream_ends_with_the_container_and_not_at_the_next_interval() {
    require!(containers, event_stream);
    beyond!(
        the_stream_ends_with_the_container_and_not_at_the_next_interval,
        [crun(NONE)]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let events = container
        .runtime
        .start(&["events", "--interval=24h", &container.id]);
    watches(events.pid());
    container.kill("KILL").success();
    container.wait();
    let finished = events.wait().success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", "")
    );
}

#[test]
fn the_stream_ends_when_the_container_is_deleted() {
    require!(containers, event_stream);
    beyond!(the_stream_ends_when_the_container_is_deleted, [crun(NONE)]);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let events = container
        .runtime
        .start(&["events", "--interval=24h", &container.id]);
    watches(events.pid());
    container.delete_by_force().success();
    events.wait().success();
}

#[test]
fn a_process_that_is_killed_for_memory_is_an_event() {
    require!(containers, controller("memory"));
    beyond!(
        a_process_that_is_killed_for_memory_is_an_event,
        [
            runc_race("tells of a kill again whenever something else happens to the memory"),
            crun(NONE)
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let mut container = bundle.pause();
    let mut events = container
        .runtime
        .start(&["events", "--interval", "500ms", &container.id]);
    // It watches when it has printed something.
    events.stdout.until("\n");
    assert_eq!(
        container.exec(&[], &["/bin/probe", "eat", "128"]).code(),
        137
    );
    let oom = loop {
        let line: Value = serde_json::from_str(&events.stdout.line()).unwrap();
        if line["type"] != "stats" {
            break line;
        }
    };
    assert_eq!(oom, json!({ "type": "oom", "id": container.id }));
    assert_eq!(container.status(), "running");
    container.kill("KILL").success();
    container.wait();
    let rest = events.wait().success().stdout;
    assert!(!rest.contains("oom\""), "one kill is one event: {rest}");
}

#[test]
fn a_container_that_dies_of_its_memory_limit_says_so_last() {
    require!(containers, controller("memory"));
    beyond!(
        a_container_that_dies_of_its_memory_limit_says_so_last,
        [runc_race("looks at the end first"), crun(NONE)]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["eat", "128"]).set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let mut container = bundle.create();
    let mut events = container
        .runtime
        .start(&["events", "--interval", "500ms", &container.id]);
    events.stdout.until("\n");
    container.start().success();
    assert_eq!(container.wait(), 137);
    let finished = events.wait().success();
    let last: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "oom", "{finished}");
}

#[test]
fn an_interval_is_a_positive_duration() {
    require!(containers);
    beyond!(an_interval_is_a_positive_duration, [crun(NONE)]);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for interval in ["0", "0s", "-1s"] {
        container
            .call("events", &["--interval", interval])
            .failure()
            .says("duration interval must be greater than 0");
    }
    for interval in ["5", "soon", ""] {
        container
            .call("events", &[&format!("--interval={interval}")])
            .failure();
    }
    container
        .call("events", &["--stats", "--interval=1m30s"])
        .success();
}

#[test]
fn a_container_that_is_stopped_or_unknown_has_no_events() {
    require!(containers);
    beyond!(
        a_container_that_is_stopped_or_unknown_has_no_events,
        [crun(NONE)]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.kill("KILL").success();
    container.wait();
    for flags in [&["--stats"][..], &[]] {
        container
            .call("events", flags)
            .failure()
            .says("not running");
    }
    bundle
        .runtime
        .call(&["events", "--stats", "no-such-container"])
        .failure()
        .says("does not exist");
}

#[track_caller]
fn stats(container: &Container) -> Value {
    let mut event = container.call("events", &["--stats"]).success().json();
    event["data"].take()
}

/// Waits until the command has the files open whose changes it waits for; runc has the kernel tell it of changes by name.
#[track_caller]
fn watches(pid: i32) {
    let end = Instant::now() + integration::runtime::deadline();
    let watching = || {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"));
        let links = fds.into_iter().flatten().flatten();
        links
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| link.ends_with("cgroup.events") || link.ends_with("anon_inode:inotify"))
    };
    while !watching() {
        assert!(
            Instant::now() < end,
            "process {pid} does not watch anything"
        );
        std::thread::yield_now();
    }
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object
        .as_object()
        .map(Map::keys)
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn number(text: &str, key: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {text}"))
}
