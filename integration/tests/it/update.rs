//! `update`: what the files of the cgroup hold afterwards, what is kept, what is refused, and that nothing is killed unasked.

use integration::{Bundle, Container, Finished, beyond, host, require};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;

const MIB: u64 = 1 << 20;

#[test]
fn every_flag_changes_its_file() {
    require!(
        containers,
        controller("memory"),
        controller("pids"),
        controller("cpu")
    );
    beyond!(
        every_flag_changes_its_file,
        [
            runc_before("1.3.2", "has the linear formula for shares"),
            crun("has no --cpu-burst")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources());
    let container = bundle.pause();
    for (flag, value, file, expected) in [
        ("--memory", "64m", "memory.max", "67108864"),
        ("--memory-swap", "96m", "memory.swap.max", "33554432"),
        ("--memory-reservation", "20MiB", "memory.low", "20971520"),
        ("--pids-limit", "30", "pids.max", "30"),
        ("--pids-limit", "-1", "pids.max", "max"),
        ("--cpu-quota", "600000", "cpu.max", "600000 1000000"),
        ("--cpu-period", "900000", "cpu.max", "600000 900000"),
        ("--cpu-burst", "100000", "cpu.max.burst", "100000"),
        ("--cpu-quota", "-1", "cpu.max", "max 900000"),
        ("--cpu-share", "1024", "cpu.weight", "100"),
        ("--cpu-idle", "1", "cpu.idle", "1"),
        ("--cpu-idle", "0", "cpu.idle", "0"),
        ("--memory", "-1", "memory.max", "max"),
        ("--memory", "33554432", "memory.max", "33554432"),
    ] {
        update(&container, &[flag, value]).success();
        assert_eq!(file_of(&container, file), expected, "{flag} {value}");
    }
    assert_eq!(
        file_of(&container, "memory.swap.max"),
        "max",
        "lifting the limit of memory lifted that of swap"
    );
}

#[test]
fn cpus_memory_nodes_and_io_weight_change() {
    require!(containers, controller("cpuset"), controller("io"));
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    update(
        &container,
        &[
            "--cpuset-cpus",
            "0",
            "--cpuset-mems",
            "0",
            "--blkio-weight",
            "500",
        ],
    )
    .success();
    assert_eq!(file_of(&container, "cpuset.cpus"), "0");
    assert_eq!(file_of(&container, "cpuset.mems"), "0");
    let group = container.cgroup();
    if group.join("io.bfq.weight").exists() {
        assert_eq!(file_of(&container, "io.bfq.weight"), "default 500");
    } else {
        assert_eq!(file_of(&container, "io.weight"), "default 4950");
    }
}

#[test]
fn an_idle_container_gets_a_weight_again() {
    require!(containers, controller("cpu"));
    beyond!(
        an_idle_container_gets_a_weight_again,
        [
            runc("writes the weight of a group that is idle, which the kernel refuses"),
            crun("has no --cpu-idle")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/cpu", json!({ "shares": 512 }));
    let container = bundle.pause();
    let weight = file_of(&container, "cpu.weight");
    update(&container, &["--cpu-idle", "0"]).success();
    assert_eq!(file_of(&container, "cpu.weight"), weight);
    update(&container, &["--cpu-idle", "1"]).success();
    assert_eq!(file_of(&container, "cpu.idle"), "1");
    update(&container, &["--cpu-share", "1024"]).success();
    assert_eq!(file_of(&container, "cpu.idle"), "0");
    assert_eq!(file_of(&container, "cpu.weight"), "100");
}

#[test]
fn what_is_not_given_stays() {
    require!(
        containers,
        controller("memory"),
        controller("pids"),
        controller("cpu")
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources());
    let container = bundle.pause();
    update(&container, &["--pids-limit", "7"]).success();
    assert_eq!(file_of(&container, "pids.max"), "7");
    assert_eq!(file_of(&container, "memory.max"), "33554432");
    assert_eq!(file_of(&container, "memory.low"), "25165824");
    assert_eq!(file_of(&container, "cpu.max"), "500000 1000000");
    document(&container, &json!({})).success();
    document(&container, &json!({ "pids": {}, "memory": {}, "cpu": {} })).success();
    assert_eq!(file_of(&container, "pids.max"), "7");
}

#[test]
fn resources_come_from_a_file_or_from_standard_input() {
    require!(containers, controller("memory"), controller("pids"));
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources());
    let container = bundle.pause();
    let change = json!({ "memory": { "limit": 40 * MIB }, "pids": { "limit": 9 } });
    let file = bundle.scratch.file("resources", change.to_string());
    let name = format!("--resources={}", file.display());
    // The other limits are ignored then.
    update(&container, &[&name, "--pids-limit", "11"]).success();
    assert_eq!(file_of(&container, "memory.max"), "41943040");
    assert_eq!(file_of(&container, "pids.max"), "9");
    for flag in [&["--resources=-"][..], &["-r", "-"], &["--resources", "-"]] {
        let limit = 50 * MIB + 4096 * flag.len() as u64;
        let change = json!({ "memory": { "limit": limit } });
        given(&container, flag, &change.to_string()).success();
        assert_eq!(file_of(&container, "memory.max"), limit.to_string());
    }
}

#[test]
fn what_an_update_sets_is_what_the_next_one_starts_from() {
    require!(containers, controller("cpu"));
    beyond!(
        what_an_update_sets_is_what_the_next_one_starts_from,
        [crun("keeps no record of updates")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    document(
        &container,
        &json!({ "cpu": { "quota": 70_000, "period": 140_000 } }),
    )
    .success();
    update(&container, &["--cpu-quota", "60000"]).success();
    assert_eq!(file_of(&container, "cpu.max"), "60000 140000");
    update(&container, &["--cpu-period", "120000"]).success();
    assert_eq!(file_of(&container, "cpu.max"), "60000 120000");
}

#[test]
fn memory_and_swap_are_one_limit_over_several_updates() {
    require!(containers, controller("memory"));
    beyond!(
        memory_and_swap_are_one_limit_over_several_updates,
        [
            crun("keeps no record of updates"),
            runc_before("1.2", "leaves the limit of swap as it was")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 64 * MIB, "swap": 96 * MIB }),
    );
    let container = bundle.pause();
    update(&container, &["--memory", "80m"]).success();
    assert_eq!(file_of(&container, "memory.swap.max"), "16777216");
    update(&container, &["--memory", "100m"]).failure();
    assert_eq!(file_of(&container, "memory.max"), "83886080");
    update(&container, &["--memory", "-1"]).success();
    assert_eq!(file_of(&container, "memory.max"), "max");
    assert_eq!(file_of(&container, "memory.swap.max"), "max");
}

#[test]
fn an_update_that_fails_half_way_changes_nothing() {
    require!(
        containers,
        controller("memory"),
        controller("pids"),
        controller("cpuset")
    );
    beyond!(
        an_update_that_fails_half_way_changes_nothing,
        [
            runc("puts back what it has just tried to set"),
            crun("leaves what it wrote before the failure")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/resources", resources());
    let container = bundle.pause();
    let before = [
        "pids.max",
        "memory.max",
        "memory.low",
        "cpu.max",
        "cpu.weight",
    ]
    .map(|file| file_of(&container, file));
    update(
        &container,
        &[
            "--pids-limit",
            "9",
            "--memory",
            "64m",
            "--memory-reservation",
            "1m",
            "--cpu-quota",
            "9000",
            "--cpu-share",
            "9",
            "--cpuset-cpus",
            "999",
        ],
    )
    .failure()
    .says("cpuset.cpus");
    let after = [
        "pids.max",
        "memory.max",
        "memory.low",
        "cpu.max",
        "cpu.weight",
    ]
    .map(|file| file_of(&container, file));
    assert_eq!(after, before);
    update(&container, &["--cpu-period", "900000"]).success();
    assert_eq!(file_of(&container, "cpu.max"), "500000 900000");
}

#[test]
fn unified_settings_are_updated_and_put_back() {
    require!(containers);
    beyond!(
        unified_settings_are_updated_and_put_back,
        [
            runc("leaves what it wrote before the failure, or writes nothing: its order is random"),
            crun("leaves what it wrote before the failure")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let unified = |files: Value| document(&container, &json!({ "unified": files }));
    unified(json!({ "cgroup.max.depth": "3" })).success();
    assert_eq!(file_of(&container, "cgroup.max.depth"), "3");
    unified(json!({ "cgroup.max.depth": "7", "cgroup.max.descendants": "many" }))
        .failure()
        .says("cgroup.max.descendants");
    assert_eq!(file_of(&container, "cgroup.max.depth"), "3");
    assert_eq!(file_of(&container, "cgroup.max.descendants"), "max");
    unified(json!({ "../escape": "1" })).failure();
    unified(json!({ "cgroup.max.depth": "max" })).success();
    assert_eq!(file_of(&container, "cgroup.max.depth"), "max");
}

#[test]
fn limits_of_huge_pages_are_updated() {
    require!(containers, controller("hugetlb"));
    beyond!(
        limits_of_huge_pages_are_updated,
        [runc("leaves them as they are, without a word")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let limit = |bytes: u64| json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": bytes }] });
    document(&container, &limit(4 * MIB)).success();
    assert_eq!(file_of(&container, "hugetlb.2MB.max"), "4194304");
    document(&container, &limit(6 * MIB)).success();
    assert_eq!(file_of(&container, "hugetlb.2MB.max"), "6291456");
}

#[test]
fn created_running_and_paused_containers_are_updated_and_stopped_ones_are_not() {
    require!(containers);
    beyond!(
        created_running_and_paused_containers_are_updated_and_stopped_ones_are_not,
        [crun("has another text")]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let mut depth = 3;
    let mut deeper = |container: &Container| {
        depth += 1;
        let finished = document(
            container,
            &json!({ "unified": { "cgroup.max.depth": depth.to_string() } }),
        );
        (finished, depth.to_string())
    };
    for verb in ["start", "pause", "resume"] {
        let (finished, expected) = deeper(&container);
        finished.success();
        assert_eq!(file_of(&container, "cgroup.max.depth"), expected);
        container.call(verb, &[]).success();
    }
    let (finished, _) = deeper(&container);
    finished.success();
    assert_eq!(container.status(), "running");
    container.kill("KILL").success();
    container.wait();
    deeper(&container).0.failure().says("not running");
    bundle
        .runtime
        .call(&["update", "--pids-limit", "5", "no-such-container"])
        .failure()
        .says("does not exist");
}

#[test]
fn a_container_without_a_cgroup_has_no_resources_to_update() {
    require!(containers);
    beyond!(
        a_container_without_a_cgroup_has_no_resources_to_update,
        [runc("has no --cgroup-manager"), crun("has another text")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .remove("/linux/resources")
        .unmount("/sys/fs/cgroup");
    bundle.runtime = bundle.runtime.with(&["--cgroup-manager", "disabled"]);
    let container = bundle.create();
    update(&container, &["--pids-limit", "5"])
        .failure()
        .says("no cgroup");
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() {
    require!(containers);
    beyond!(
        values_that_mean_nothing_are_refused_by_name,
        [crun("does not say which flag it is about")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for (flag, value) in [
        ("--memory", "512q"),
        ("--memory-swap", "-2"),
        ("--memory-reservation", "much"),
        ("--cpu-quota", "1.5"),
        ("--cpu-period", "-1"),
        ("--cpu-share", "x"),
        ("--blkio-weight", "heavy"),
        ("--pids-limit", "few"),
    ] {
        update(&container, &[flag, value])
            .failure()
            .says(flag.trim_start_matches('-'));
    }
    given(&container, &["-r", "-"], "{").failure();
    update(&container, &["-r", "/no/such/file"])
        .failure()
        .says("no such file");
}

#[test]
fn flags_of_old_engines_are_accepted() {
    require!(containers);
    beyond!(
        flags_of_old_engines_are_accepted,
        [crun("trips over the units")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    update(
        &container,
        &["--kernel-memory", "50m", "--kernel-memory-tcp=1m"],
    )
    .success();
}

#[test]
fn control_of_caches_is_refused_where_there_is_none() {
    require!(containers);
    beyond!(
        control_of_caches_is_refused_where_there_is_none,
        [crun("has no such flags in some versions, and another text")]
    );
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return;
    }
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    update(&container, &["--l3-cache-schema", "L3:0=f"])
        .failure()
        .says("not enabled");
    update(&container, &["--mem-bw-schema", "MB:0=50"])
        .failure()
        .says("not enabled");
}

#[test]
fn device_rules_are_updated() {
    require!(containers, device(1, 11), device_filter);
    beyond!(
        device_rules_are_updated,
        [
            runc("leaves the device rules as they are, without a word"),
            crun("leaves the device rules as they are, without a word")
        ]
    );
    let mut bundle = Bundle::new();
    let kmsg = json!({ "path": "/dev/log-of-kernel", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 });
    bundle.config.privileged().push("/linux/devices", kmsg);
    let container = bundle.pause();
    let access = || {
        let args = ["/bin/probe", "try", "write:/dev/log-of-kernel"];
        let tried = container.exec(&[], &args).success().json();
        tried["write:/dev/log-of-kernel"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(access(), "EPERM");
    let deny = json!({ "allow": false, "access": "rwm" });
    let allow = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" });
    document(&container, &json!({ "devices": [deny, allow] })).success();
    assert_eq!(access(), "ok");
    document(
        &container,
        &json!({ "unified": { "cgroup.max.depth": "9" } }),
    )
    .success();
    assert_eq!(access(), "ok", "rules that are not given stay");
    document(&container, &json!({ "devices": [deny] })).success();
    assert_eq!(
        access(),
        "ok",
        "a list that lacks a rule takes nothing away"
    );
    let no_more = json!({ "allow": false, "type": "c", "major": 1, "minor": 11, "access": "w" });
    let rules = json!([deny, allow, no_more]);
    let broken = json!({ "devices": rules, "unified": { "cgroup.max.depth": "none" } });
    document(&container, &broken).failure();
    assert_eq!(access(), "ok", "a failed update leaves the rules");
    document(&container, &json!({ "devices": rules })).success();
    assert_eq!(access(), "EPERM");
}

#[test]
fn updates_at_the_same_time_come_one_after_the_other() {
    require!(containers);
    beyond!(
        updates_at_the_same_time_come_one_after_the_other,
        [
            runc_race("takes no lock, and keeps one update's record with another one's files"),
            crun("keeps no record of updates")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let updates: Vec<_> = (0..8)
        .map(|n| {
            let change = if n % 2 == 0 {
                json!({ "unified": { "cgroup.max.depth": (100 + n).to_string() } })
            } else {
                json!({ "unified": { "cgroup.max.descendants": (200 + n).to_string() } })
            };
            let mut running = container
                .runtime
                .start(&["update", "-r", "-", &container.id]);
            let mut stdin = running.stdin.take().unwrap();
            stdin.write_all(change.to_string().as_bytes()).unwrap();
            running
        })
        .collect();
    for update in updates {
        update.wait().success();
    }
    let text = fs::read_to_string(bundle.runtime.root.join(&container.id).join("state.json"));
    let state: Value = serde_json::from_str(&text.unwrap()).unwrap();
    for file in ["cgroup.max.depth", "cgroup.max.descendants"] {
        assert_eq!(
            state["resources"]["unified"][file],
            file_of(&container, file)
        );
    }
}

#[test]
fn a_document_of_nothing_changes_nothing() {
    require!(containers);
    beyond!(
        a_document_of_nothing_changes_nothing,
        [crun("refuses null")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for nothing in [Value::Null, json!({}), json!({ "unified": Value::Null })] {
        document(&container, &nothing).success();
    }
}

#[test]
fn a_memory_limit_that_would_kill_is_refused_and_changes_nothing() {
    require!(containers, controller("memory"), controller("pids"));
    beyond!(
        a_memory_limit_that_would_kill_is_refused_and_changes_nothing,
        [
            runc("sets the limit, and the kernel kills the container"),
            crun("sets the limit, and the kernel kills the container")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = eater(&mut bundle);
    update(&container, &["--pids-limit", "9", "--memory", "24m"])
        .failure()
        .says("memory limit");
    assert_eq!(container.status(), "running");
    assert_eq!(file_of(&container, "memory.max"), (128 * MIB).to_string());
    assert_eq!(file_of(&container, "memory.high"), "max");
    assert_eq!(file_of(&container, "pids.max"), "20");
    assert!(file_of(&container, "memory.events").contains("oom_kill 0"));
    update(&container, &["--force", "--memory", "24m"]);
    assert_eq!(container.wait(), 137);
}

#[test]
fn an_engine_says_by_the_check_whether_a_memory_limit_may_kill() {
    require!(containers, controller("memory"));
    beyond!(
        an_engine_says_by_the_check_whether_a_memory_limit_may_kill,
        [
            runc_before("1.2", "does not know checkBeforeUpdate"),
            crun("checks another number")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = eater(&mut bundle);
    let limit =
        |check: bool| json!({ "memory": { "limit": 24 * MIB, "checkBeforeUpdate": check } });
    document(&container, &limit(true))
        .failure()
        .says("rejecting memory limit");
    assert_eq!(container.status(), "running");
    assert_eq!(file_of(&container, "memory.max"), (128 * MIB).to_string());
    document(&container, &limit(false));
    assert_eq!(container.wait(), 137);
}

#[test]
fn cached_files_make_room_for_a_lower_memory_limit() {
    require!(containers, controller("memory"), throwaway_machine);
    beyond!(
        cached_files_make_room_for_a_lower_memory_limit,
        [crun("takes numbers of bytes only")]
    );
    let mut bundle = Bundle::new();
    // On a disk: what is in a tmpfs cannot be given up.
    let data = fs::canonicalize("/var/tmp")
        .unwrap()
        .join(integration::place::unique("data"));
    fs::create_dir(&data).unwrap();
    bundle
        .config
        .bind(&data, "/data", &["rw"])
        .set("/linux/resources/memory", json!({ "limit": 128 * MIB }));
    let mut container = bundle.pause();
    let size = (64 * MIB).to_string();
    container
        .exec(&[], &["/bin/probe", "write-file", "/data/file", &size])
        .success();
    let used: u64 = file_of(&container, "memory.current").parse().unwrap();
    let finished = update(&container, &["--memory", "24m"]);
    let state = (
        file_of(&container, "memory.max"),
        file_of(&container, "memory.high"),
        file_of(&container, "memory.events"),
        container.status(),
    );
    container.delete_by_force().success();
    fs::remove_dir_all(&data).unwrap();
    finished.success();
    assert!(used > 48 * MIB, "the test has to fill the cache: {used}");
    assert_eq!((state.0.as_str(), state.1.as_str()), ("25165824", "max"));
    assert!(state.2.contains("oom_kill 0"), "{}", state.2);
    assert_eq!(state.3, "running");
}

#[test]
fn an_update_that_is_killed_leaves_no_limit_but_its_own() {
    require!(containers, controller("memory"), no_filter);
    beyond!(
        an_update_that_is_killed_leaves_no_limit_but_its_own,
        [
            runc_race("sets the limit, and the kernel kills the container"),
            crun_race("sets the limit, and the kernel kills the container")
        ]
    );
    let mut bundle = Bundle::new();
    let container = eater(&mut bundle);
    let mut runtime = bundle.runtime.clone();
    let program = integration::place::crash().display().to_string();
    let update = ["update", "--memory", "24m", &container.id];
    // At each of its calls, until there are no more.
    for call in 1.. {
        let call = call.to_string();
        runtime.wrapper = [&program, "command", "command", &call, "--"]
            .map(Into::into)
            .to_vec();
        let killed = runtime.call(&update).code() == 137;
        assert_eq!(file_of(&container, "memory.high"), "max", "call {call}");
        if !killed {
            assert!(call != "1", "killed nobody");
            break;
        }
    }
    assert_eq!(container.status(), "running");
}

fn resources() -> Value {
    json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": 32 * MIB, "reservation": 24 * MIB },
        "cpu": { "shares": 100, "quota": 500_000, "period": 1_000_000 },
        "pids": { "limit": 20 },
    })
}

/// A container that holds on to 48 MiB of memory, of 128.
#[track_caller]
fn eater(bundle: &mut Bundle) -> Container {
    bundle.config.probe(&["eat", "48"]).set(
        "/linux/resources",
        json!({ "memory": { "limit": 128 * MIB, "swap": 128 * MIB }, "pids": { "limit": 20 } }),
    );
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.stdout.line(), "full");
    container
}

#[track_caller]
pub(super) fn update(container: &Container, flags: &[&str]) -> Finished {
    container
        .runtime
        .call(&[&["update"], flags, &[&container.id]].concat())
}

/// `update` with these resources on standard input.
#[track_caller]
pub(super) fn document(container: &Container, resources: &Value) -> Finished {
    given(container, &["--resources", "-"], &resources.to_string())
}

#[track_caller]
fn given(container: &Container, flags: &[&str], text: &str) -> Finished {
    let mut running = container
        .runtime
        .start(&[&["update"], flags, &[&container.id]].concat());
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    running.wait()
}

#[track_caller]
fn file_of(container: &Container, name: &str) -> String {
    host::cgroup_file(&container.cgroup(), name)
}
