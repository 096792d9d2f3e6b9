//! The file of `--log` over time: it stays bounded, and at every moment what engines want to read in it.

use integration::{Bundle, Container, Runtime, beyond, require};
use serde_json::Value;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

/// Why the peers fail here.
const GROWS: &str = "lets the file grow for ever";

#[test]
fn a_full_log_is_cut_and_the_failure_is_its_last_record() {
    require!(containers);
    beyond!(
        a_full_log_is_cut_and_the_failure_is_its_last_record,
        [runc(GROWS), crun(GROWS)]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let (file, runtime) = full_log(&bundle);
    fails(&runtime, &container, "no-such-program");
    let records = records(&file);
    let last = records.last().unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("no-such-program"));
    assert_eq!(records[0]["msg"], "old", "some of what was there is kept");
    let size = fs::metadata(&file).unwrap().len() as usize;
    assert!(size < MIB / 4, "{size}");
}

#[test]
fn failures_at_the_same_time_are_all_in_a_log_that_was_full() {
    require!(containers);
    beyond!(
        failures_at_the_same_time_are_all_in_a_log_that_was_full,
        [runc(GROWS), crun(GROWS)]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let (file, runtime) = full_log(&bundle);
    let names: Vec<String> = (0..16).map(|n| format!("missing-{n}-program")).collect();
    let execs: Vec<_> = names
        .iter()
        .map(|name| runtime.start(&["exec", &container.id, name]))
        .collect();
    for exec in execs {
        exec.wait().failure();
    }
    let records = records(&file);
    for name in names {
        let found = records
            .iter()
            .filter(|record| record["msg"].as_str().unwrap().contains(&name));
        assert_eq!(found.count(), 1, "{name}");
    }
    let size = fs::metadata(&file).unwrap().len() as usize;
    assert!(size < MIB / 4, "{size}");
}

#[test]
fn a_log_that_is_not_full_is_only_appended_to() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let (file, runtime) = full_log(&bundle);
    let start = OLD.repeat(MIB / 2 / OLD.len());
    bundle.scratch.file("full.json", &start);
    fails(&runtime, &container, "no-such-program");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&start) && text.len() > start.len());
}

#[test]
fn a_log_that_is_no_file_has_no_limit() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let runtime = bundle
        .runtime
        .with(&["--log", "/dev/null", "--log-format", "json"]);
    fails(&runtime, &container, "no-such-program");
}

#[test]
fn debugging_shows_each_step_and_is_a_stream_of_objects() {
    require!(containers);
    beyond!(
        debugging_shows_each_step_and_is_a_stream_of_objects,
        [
            crun_before("1.21", "has nothing to say"),
            crun_from("1.28", "has nothing to say")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    let file = bundle.scratch.path().join("debug.json");
    let name = file.display().to_string();
    let log = ["--log", &name, "--log-format", "json", "--debug"];
    bundle.runtime = bundle.runtime.with(&log);
    bundle.run().success();
    let records = records(&file);
    assert!(records.iter().all(|record| record["level"] == "debug"));
    assert!(records.len() > 3, "{}", records.len());
}

#[test]
fn the_level_says_what_is_worth_a_record() {
    require!(containers);
    beyond!(
        the_level_says_what_is_worth_a_record,
        [
            runc("has no such flag"),
            crun_before("1.21", "has no such flag"),
            crun_from("1.28", "fails over the capability")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["exit", "0"])
        .push("/process/capabilities/bounding", "CAP_OF_TOMORROW");
    let plain = bundle.runtime.clone();
    for (level, expected) in [
        ("error", &[][..]),
        ("warning", &["warning"]),
        ("debug", &["debug", "warning"]),
    ] {
        let file = bundle.scratch.path().join(level);
        let name = file.display().to_string();
        let log = ["--log", &name, "--log-format=json", "--log-level", level];
        bundle.runtime = plain.with(&log);
        bundle.run().success();
        let records = records(&file);
        let levels: std::collections::BTreeSet<_> = records
            .iter()
            .map(|record| record["level"].as_str().unwrap())
            .collect();
        assert!(levels.iter().eq(expected), "{level}: {levels:?}");
    }
    let wrong = plain.with(&["--log-level", "loud"]);
    wrong.call(&["list"]).failure().says("loud");
}

#[test]
fn a_failure_is_told_to_the_log_of_the_system_if_that_is_named() {
    require!(containers, program("unshare"));
    beyond!(
        a_failure_is_told_to_the_log_of_the_system_if_that_is_named,
        [
            runc("takes every name for that of a file"),
            crun("says it in words of its own")
        ]
    );
    let bundle = Bundle::new();
    for (service, path) in [
        ("syslog", "/dev/log"),
        ("journald", "/run/systemd/journal/socket"),
    ] {
        let socket = bundle.scratch.path().join(service);
        let listener = UnixDatagram::bind(&socket).unwrap();
        let mut runtime = bundle.runtime.with(&["--log", &format!("{service}:suite")]);
        // The machine's own log is covered in a mount namespace that ends with the command.
        let (place, top) = (Path::new(path).parent().unwrap(), &path[..5]);
        let script = format!(
            "mount -t tmpfs none {} && mkdir -p {} && ln -s {} {path} && exec \"$@\"",
            top.trim_end_matches('/'),
            place.display(),
            socket.display()
        );
        let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"];
        runtime.wrapper.splice(0..0, wrapper.map(Into::into));
        let mut command = runtime.command(&["state", "nobody"]);
        // Where a peer would make a file.
        command.current_dir(bundle.scratch.path());
        let failed = integration::runtime::finish(command).failure();
        failed.says("does not exist");
        let mut record = vec![0; 4096];
        listener.set_nonblocking(true).unwrap();
        let length = listener.recv(&mut record).unwrap();
        let record = String::from_utf8_lossy(&record[..length]).into_owned();
        for part in ["suite", "nobody", "does not exist"] {
            assert!(record.contains(part), "{service}: {record:?}");
        }
    }
    let nowhere = bundle.runtime.with(&["--log", "file:/no/such/log"]);
    nowhere.call(&["list"]).failure().says("/no/such/log");
}

const OLD: &str = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"2026-01-01T00:00:00Z\"}\n";

/// A log to which nothing more can be added, and the runtime with it.
#[track_caller]
fn full_log(bundle: &Bundle) -> (PathBuf, Runtime) {
    let file = bundle
        .scratch
        .file("full.json", OLD.repeat(MIB / OLD.len()));
    let name = file.display().to_string();
    let runtime = bundle
        .runtime
        .with(&["--log", &name, "--log-format", "json"]);
    (file, runtime)
}

#[track_caller]
fn fails(runtime: &Runtime, container: &Container, program: &str) {
    runtime
        .call(&["exec", &container.id, program])
        .failure()
        .says(program);
}

/// Each line of the log as an object.
#[track_caller]
fn records(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let parse = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    };
    text.lines().map(parse).collect()
}
