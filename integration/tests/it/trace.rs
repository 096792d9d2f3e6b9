//! `--dry-run` says what `create` and `run` would do, and `--trace` when each part of it began: with the same names and numbers.

use integration::place::unique;
use integration::{Bundle, host, require};
use serde_json::{Value, json};
use std::path::Path;

/// The lines of a trace, which are in the order of their times.
#[track_caller]
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let times: Vec<u64> = lines
        .iter()
        .map(|line| line["us"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted(), "{text}");
    assert!(times[0] > 0, "{text}");
    for line in &lines {
        assert!(line["pid"].as_i64().is_some_and(|pid| pid > 0), "{line}");
    }
    lines
}

/// Number and name of the steps.
fn steps(lines: &[Value]) -> Vec<(u64, String)> {
    let steps = lines.iter().filter(|line| line["step"].is_u64());
    let steps = steps.map(|line| {
        assert!(
            line["process"].is_null() || line["process"] == "init",
            "{line}"
        );
        (
            line["step"].as_u64().unwrap(),
            line["name"].as_str().unwrap().to_owned(),
        )
    });
    steps.collect()
}

fn phases(lines: &[Value]) -> Vec<&str> {
    let phases = lines.iter().filter(|line| line["process"] == "command");
    phases.map(|line| line["name"].as_str().unwrap()).collect()
}

#[track_caller]
fn planned(bundle: &Bundle, verb: &str, id: &str) -> Vec<(u64, String)> {
    let finished = bundle
        .call(verb, &["--dry-run", "--format", "json"], id)
        .success();
    steps(finished.json()["steps"].as_array().unwrap())
}

#[test]
fn the_steps_of_a_trace_are_those_of_a_dry_run() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let probe = integration::place::probe();
    bundle.config.probe(&["exit", "0"]).set(
        "/hooks",
        json!({ "createRuntime": [{ "path": probe, "args": ["probe", "exit", "0"] }] }),
    );
    let (id, trace) = (unique("trace"), bundle.scratch.path().join("trace"));
    let planned = planned(&bundle, "run", &id);
    assert!(planned.len() > 20, "{planned:?}");
    let traced = bundle.runtime.with(&["--trace", trace.to_str().unwrap()]);
    let path = bundle.path().display().to_string();
    traced.call(&["run", "--bundle", &path, &id]).success();
    bundle.assert_gone(&id);
    let lines = lines(&trace);
    assert_eq!(steps(&lines), planned);
    let phases = phases(&lines);
    let order = [
        "seal",
        "read the bundle",
        "make the container's directory",
        "make the cgroup",
        "plan",
        "clone",
        "serve: run the hooks of the runtime namespace",
        "serve: wait to be started",
        "start",
        "wait",
        "delete",
        "remove the cgroup",
        "end",
    ];
    let mut all = phases.iter();
    for phase in order {
        assert!(all.any(|name| *name == phase), "{phase}: {phases:?}");
    }
}

#[test]
fn each_command_of_a_container_has_its_phases() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["pause"])
        .set("/process/noNewPrivileges", true);
    let trace = bundle.scratch.path().join("trace");
    bundle.runtime = bundle.runtime.with(&["--trace", trace.to_str().unwrap()]);
    let container = bundle.create();
    let created = lines(&trace);
    let last = steps(&created).pop().unwrap();
    assert_eq!(last.1, "wait to be started");
    assert_eq!(phases(&created).last(), Some(&"end"));
    std::fs::remove_file(&trace).unwrap();
    container.start().success();
    assert_eq!(
        phases(&lines(&trace)),
        ["read the container", "start", "end"]
    );
    std::fs::remove_file(&trace).unwrap();
    bundle
        .runtime
        .call(&["exec", &container.id, "/bin/probe", "exit", "0"])
        .success();
    let executed = lines(&trace);
    assert_eq!(steps(&executed).last().unwrap().1, "execute the program");
    assert!(phases(&executed).contains(&"wait"), "{executed:?}");
    std::fs::remove_file(&trace).unwrap();
    bundle
        .runtime
        .call(&["delete", "--force", &container.id])
        .success();
    let deleted = lines(&trace);
    assert_eq!(phases(&deleted)[1], "kill the process", "{deleted:?}");
}

#[test]
fn a_trace_ends_with_the_step_that_failed() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    bundle.config.set("/process/oomScoreAdj", 500).push(
        "/mounts",
        json!({ "destination": "/tmp", "type": "bind", "source": "/no/such", "options": ["bind"] }),
    );
    let trace = bundle.scratch.path().join("trace");
    bundle.runtime = bundle.runtime.with(&["--trace", trace.to_str().unwrap()]);
    let said = bundle.create_fails().stderr;
    let (_, name) = steps(&lines(&trace)).pop().unwrap();
    // Of a mount the error says "error mounting", as runc's does.
    let what = name.strip_prefix("mount ").unwrap();
    assert!(said.contains(what), "{name}: {said}");
}

#[test]
fn times_are_those_of_the_caller_in_a_time_namespace_too() {
    require!(containers, namespace("time"), caisson);
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["exit", "0"])
        .push("/linux/namespaces", json!({ "type": "time" }))
        .set(
            "/linux/timeOffsets",
            json!({ "monotonic": { "secs": 1_000_000 } }),
        );
    let (id, trace) = (unique("trace"), bundle.scratch.path().join("trace"));
    let traced = bundle.runtime.with(&["--trace", trace.to_str().unwrap()]);
    bundle.save();
    let path = bundle.path().display().to_string();
    traced.call(&["run", "--bundle", &path, &id]).success();
    let lines = lines(&trace);
    let us = |line: &Value| line["us"].as_u64().unwrap();
    assert!(
        us(&lines[lines.len() - 1]) - us(&lines[0]) < 600_000_000,
        "{lines:?}"
    );
    // Before it waits to be started, at least; a process that has ended tells no offset.
    assert!(steps(&lines).len() > 20, "{lines:?}");
}

#[test]
fn a_dry_run_does_nothing() {
    require!(containers, caisson);
    host::in_own_mounts(|| {
        let mut bundle = Bundle::new();
        bundle.config.set("/process/cwd", "/new/directory");
        let id = unique("dry");
        let mounts = host::mounts().len();
        for verb in ["create", "run"] {
            let said = bundle.call(verb, &["--dry-run"], &id).success();
            assert!(said.stdout.contains("\nstep 0: "), "{said}");
            assert!(said.stdout.contains("\nexec: "), "{said}");
            bundle.assert_gone(&id);
        }
        assert!(!bundle.runtime.root.exists());
        assert!(!bundle.rootfs().join("new").exists());
        assert_eq!(host::mounts().len(), mounts);
        bundle.config.set("/process/args", json!([]));
        let refused = bundle.call("create", &["--dry-run"], &id).failure();
        assert!(
            refused.stderr.contains("args must not be empty"),
            "{refused}"
        );
    });
}
