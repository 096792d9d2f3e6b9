//! The CPUs that processes run on, and what else of a process's scheduling and memory the config decides: for the container and for exec.

use integration::place::write;
use integration::{Bundle, Container, Seen, beyond, host, require};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn exec_runs_on_the_final_cpus_of_its_document() {
    require!(containers);
    let [first, second] = two_cpus();
    beyond!(
        exec_runs_on_the_final_cpus_of_its_document,
        [
            runc_race_before("1.3", "knows no affinity"),
            crun_before("1.18", "knows no affinity")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for (list, expected) in [
        (format!("{second}"), vec![second]),
        (format!("{first},{second}"), vec![first, second]),
        (format!("{first}-{second}"), (first..=second).collect()),
    ] {
        let affinity = json!({ "initial": list, "final": list });
        let seen = exec(&bundle, &container, json!({ "execCPUAffinity": affinity }));
        let own: BTreeSet<usize> = expected
            .into_iter()
            .filter(|c| cpus().contains(c))
            .collect();
        assert_eq!(*seen.cpus, own, "{list}");
    }
}

#[test]
fn exec_runs_on_the_final_cpus_of_the_config_and_the_container_does_not() {
    require!(containers);
    let [first, second] = two_cpus();
    beyond!(
        exec_runs_on_the_final_cpus_of_the_config_and_the_container_does_not,
        [
            runc_race_before("1.3", "knows no affinity"),
            // With one CPU it passes whatever happens.
            crun_race("moves the container as well, or knows no affinity")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/execCPUAffinity",
        json!({ "initial": first.to_string(), "final": second.to_string() }),
    );
    assert_eq!(*bundle.report(&[]).cpus, cpus());
    let container = bundle.pause();
    let one = BTreeSet::from([second]);
    assert_eq!(*container.exec_report(&[], &[]).cpus, one);
    // A document without the field has the container's.
    assert_eq!(*exec(&bundle, &container, json!({})).cpus, one);
}

#[test]
fn the_command_itself_goes_on_on_the_initial_cpus() {
    require!(containers, no_filter);
    let [first, second] = two_cpus();
    beyond!(
        the_command_itself_goes_on_on_the_initial_cpus,
        [runc_race("sets it for the thread that makes the process")]
    );
    // On a machine with one CPU that makes no difference.
    if first != second {
        beyond!(
            the_command_itself_goes_on_on_the_initial_cpus,
            [crun("sets it for the new process")]
        );
    }
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/execCPUAffinity/initial", second.to_string());
    let container = bundle.pause();
    let mut running = container
        .runtime
        .start(&["exec", &container.id, "/bin/probe", "pause"]);
    assert_eq!(running.stdout.line(), "ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    assert!(
        status.contains(&format!("Cpus_allowed_list:\t{second}\n")),
        "{status}"
    );
}

/// runc's suite looks for it there.
#[test]
fn the_debug_log_has_the_initial_cpus() {
    require!(containers);
    beyond!(
        the_debug_log_has_the_initial_cpus,
        [
            runc_before("1.3", "knows no affinity"),
            crun("has its own words")
        ]
    );
    let [first, second] = two_cpus();
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for cpus in [BTreeSet::from([second]), BTreeSet::from([first, second])] {
        let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let affinity = json!({ "initial": list.join(",") });
        let document = document(&bundle, json!({ "execCPUAffinity": affinity }));
        let debugging = container.runtime.with(&["--debug"]);
        let command = ["exec", "--process", &document, &container.id];
        let mask: u64 = cpus.iter().map(|cpu| 1 << cpu).sum();
        let finished = debugging.call(&command);
        finished.success().says(&format!(": affinity: {mask:#x}"));
    }
}

#[test]
fn what_the_caller_is_limited_to_is_no_limit_of_the_container() {
    require!(containers);
    let [first, _] = two_cpus();
    beyond!(
        what_the_caller_is_limited_to_is_no_limit_of_the_container,
        [
            runc_race_before("1.3", "leaves the caller's limit"),
            crun_race("leaves the caller's limit")
        ]
    );
    let all = cpus();
    let limited = Limited::to(first);
    let mut bundle = Bundle::new();
    let seen = bundle.report(&[]);
    let container = bundle.pause();
    let second = container.exec_report(&[], &[]);
    drop(limited);
    assert_eq!(*seen.cpus, all);
    assert_eq!(*second.cpus, all);
}

/// CPUs that are exclusively the container's are none of the command's, which is outside of its cpuset. The last CPU of a machine cannot be
/// exclusive: there, it is only the one of the cpuset.
#[test]
fn exclusive_cpus_of_the_container_are_for_exec() {
    require!(containers, controller("cpuset"), throwaway_machine);
    beyond!(
        exclusive_cpus_of_the_container_are_for_exec,
        [
            runc_race_before("1.3", "knows no affinity"),
            crun_before("1.18", "knows no affinity")
        ]
    );
    let [first, second] = two_cpus();
    let mut bundle = Bundle::new();
    let list = second.to_string();
    bundle
        .config
        .set("/linux/resources/cpu", json!({ "cpus": list, "mems": "0" }));
    if first != second {
        let partition = json!({ "cpuset.cpus.partition": "isolated" });
        bundle.config.set("/linux/resources/unified", partition);
    }
    bundle.config.set(
        "/process/execCPUAffinity",
        json!({ "initial": list, "final": list }),
    );
    let container = bundle.pause();
    if first != second {
        let partition = host::cgroup_file(&container.cgroup(), "cpuset.cpus.partition");
        assert_eq!(partition, "isolated");
        assert!(!cpus().contains(&second), "the test may not use it either");
    }
    let seen = container.exec_report(&[], &[]);
    assert_eq!(*seen.cpus, BTreeSet::from([second]));
}

#[test]
fn initial_cpus_that_nobody_has_are_refused() {
    require!(containers);
    beyond!(
        initial_cpus_that_nobody_has_are_refused,
        [
            runc("does not name the field, or knows no affinity"),
            crun("words it otherwise")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let fields = json!({ "execCPUAffinity": { "initial": "1000" } });
    let document = document(&bundle, fields);
    let finished = container.exec(&["--process", &document], &[]).failure();
    let finished = finished.says("execCPUAffinity").says("invalid argument");
    assert_eq!(finished.code(), 255);
}

#[test]
fn cpus_that_cannot_be_are_refused() {
    require!(containers);
    beyond!(
        cpus_that_cannot_be_are_refused,
        [
            runc_before("1.3", "knows no affinity"),
            crun("words it otherwise")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for (list, words) in [
        ("0-", "affinity"),
        ("x", "affinity"),
        ("5000", "affinity"),
        ("1-0", "affinity"),
        ("1000", "affinity"),
    ] {
        let document = document(&bundle, json!({ "execCPUAffinity": { "final": list } }));
        let finished = container.exec(&["--process", &document], &[]).failure();
        assert_eq!(finished.code(), 255, "{finished}");
        assert!(finished.stderr.to_lowercase().contains(words), "{finished}");
    }
}

#[test]
fn spaces_and_empty_elements_in_a_list_are_nothing() {
    require!(containers);
    beyond!(
        spaces_and_empty_elements_in_a_list_are_nothing,
        [
            // With one CPU it passes whatever happens.
            runc_race_before("1.3", "knows no affinity"),
            crun("refuses them, or knows no affinity")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let affinity = json!({ "initial": "", "final": " 0 , ," });
    let seen = exec(&bundle, &container, json!({ "execCPUAffinity": affinity }));
    assert_eq!(*seen.cpus, BTreeSet::from([0]));
}

#[test]
fn exec_has_the_scheduler_and_the_io_priority_of_the_container_unless_it_has_its_own() {
    require!(containers);
    beyond!(
        exec_has_the_scheduler_and_the_io_priority_of_the_container_unless_it_has_its_own,
        [
            runc_before("1.2", "knows neither"),
            crun("leaves the document's alone")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/scheduler", json!({ "policy": "SCHED_BATCH" }))
        .set(
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }),
        );
    let container = bundle.pause();
    for seen in [
        container.exec_report(&[], &[]),
        exec(&bundle, &container, json!({})),
    ] {
        assert_eq!(seen.scheduler.policy, 3);
        assert_eq!(*seen.ioprio, (2, 6));
    }
    let own = json!({
        "scheduler": { "policy": "SCHED_IDLE" },
        "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 }
    });
    let seen = exec(&bundle, &container, own);
    assert_eq!(seen.scheduler.policy, 5);
    assert_eq!((*seen.ioprio).0, 3);
}

#[test]
fn memory_policies_are_as_configured_for_the_container_and_for_exec() {
    require!(containers, path("/proc/self/numa_maps"));
    beyond!(
        memory_policies_are_as_configured_for_the_container_and_for_exec,
        [
            runc_before("1.4", "knows no memory policy"),
            crun("gives exec none, or knows no memory policy")
        ]
    );
    for (policy, words) in [
        (
            json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" }),
            &["interleave:0"][..],
        ),
        (
            json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }),
            &["bind", "static", "0"],
        ),
        (
            json!({ "mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"] }),
            &["prefer", "relative", "0"],
        ),
        (json!({ "mode": "MPOL_DEFAULT" }), &["default"]),
        (json!({}), &["default"]),
    ] {
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/memoryPolicy", policy.clone());
        let question = &["cat=/proc/self/numa_maps"];
        let of = |seen: &Seen| {
            let text = seen.files["/proc/self/numa_maps"].lines().next().unwrap();
            text.split(' ').nth(1).unwrap().to_owned()
        };
        let first = of(&bundle.report(question));
        let container = bundle.pause();
        let second = of(&container.exec_report(&[], question));
        for found in [first, second] {
            assert!(
                words.iter().all(|word| found.contains(word)),
                "{policy}: {found}"
            );
        }
    }
}

#[test]
fn wrong_memory_policies_are_refused_in_the_words_of_runc() {
    require!(containers);
    beyond!(
        wrong_memory_policies_are_refused_in_the_words_of_runc,
        [
            runc_before("1.4", "knows no memory policy"),
            crun("words it otherwise")
        ]
    );
    for (policy, words) in [
        (
            json!({ "mode": "INTERLEAVE", "nodes": "0" }),
            "invalid memory policy mode",
        ),
        (json!({ "nodes": "0-7" }), "invalid memory policy mode"),
        (
            json!({ "mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["badflag"] }),
            "invalid memory policy flag",
        ),
        (
            json!({ "mode": "MPOL_BIND", "nodes": "0-9876543210" }),
            "invalid memory policy node",
        ),
        (
            json!({
                "mode": "MPOL_DEFAULT", "nodes": "0-7",
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]
            }),
            "set_mempolicy",
        ),
    ] {
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/memoryPolicy", policy);
        bundle.create_fails().failure().says(words);
    }
}

/// Runs `probe report` by a process document with these fields.
fn exec(bundle: &Bundle, container: &Container, fields: Value) -> Seen {
    let document = document(bundle, fields);
    let finished = container.exec(&["--process", &document], &[]).success();
    integration::bundle::seen(&finished)
}

/// Writes a process document with these fields.
fn document(bundle: &Bundle, fields: Value) -> String {
    let mut process = json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"], "args": ["/bin/probe", "report"]
    });
    for (name, value) in fields.as_object().unwrap() {
        process[name] = value.clone();
    }
    let path = bundle.scratch.path().join("process.json");
    write(&path, process.to_string());
    path.display().to_string()
}

/// The CPUs that the test may use.
fn cpus() -> BTreeSet<usize> {
    let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count())
        .filter(|cpu| own.is_set(*cpu).unwrap())
        .collect()
}

/// Two of them; on a machine that has only one, that one twice.
#[track_caller]
fn two_cpus() -> [usize; 2] {
    let all: Vec<usize> = cpus().into_iter().collect();
    [all[0], *all.get(1).unwrap_or(&all[0])]
}

/// The calling thread on one CPU, and what it starts.
struct Limited(CpuSet);

impl Limited {
    fn to(cpu: usize) -> Limited {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let mut one = CpuSet::new();
        one.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        Limited(before)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        sched_setaffinity(Pid::from_raw(0), &self.0).unwrap();
    }
}
