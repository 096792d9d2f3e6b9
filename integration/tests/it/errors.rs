//! What a failing command says, where, with which exit code; and that it leaves nothing behind.

use integration::place::{unique, write};
use integration::{Bundle, Config, Finished, beyond, host, require};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_failure_is_logged_as_exactly_one_json_object() {
    require!(containers);
    // Podman parses the whole file as one value; containerd wants level, msg and a time in RFC 3339 in every record.
    beyond!(
        a_failure_is_logged_as_exactly_one_json_object,
        // Not on every machine.
        [runc_race("logs a warning of its own before the error")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    let (finished, log) = logged(&bundle, "json");
    assert_eq!(finished.code(), 1);
    let record: Value =
        serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log:?}"));
    assert_eq!(record["level"], "error");
    assert!(
        record["msg"].as_str().unwrap().contains("no-such-program"),
        "{record}"
    );
    assert!(log.ends_with('\n'), "{log:?}");
}

#[test]
fn by_runcs_name_an_error_is_worded_as_runcs() {
    require!(containers);
    beyond!(
        by_runcs_name_an_error_is_worded_as_runcs,
        [crun("has its own words under any name")]
    );
    let mut bundle = Bundle::new();
    let called_runc = bundle.scratch.path().join("runc");
    fs::copy(&bundle.runtime.binary, &called_runc).unwrap();
    bundle.runtime.binary = called_runc;
    bundle
        .config
        .mount("/data", "tmpfs", "tmpfs", &["size=nonsense"]);
    let begin =
        "failed: unable to start container process: error during container init: error mounting";
    bundle
        .create_fails()
        .failure()
        .says(&format!("runc create {begin}"))
        .says("invalid argument");
    bundle.run().failure().says(&format!("runc run {begin}"));
}

#[test]
fn the_debug_log_names_the_phases_as_runcs_does() {
    require!(containers);
    beyond!(
        the_debug_log_names_the_phases_as_runcs_does,
        [crun("has its own words")]
    );
    let mut bundle = Bundle::new();
    bundle.runtime = bundle.runtime.with(&["--debug"]);
    bundle.config.probe(&["exit", "0"]);
    bundle
        .run()
        .success()
        .says("nsexec container setup")
        .says("child process in init()")
        .says("init: closing the pipe to signal completion");
}

#[test]
fn every_log_record_has_level_message_and_time() {
    require!(containers);
    beyond!(
        every_log_record_has_level_message_and_time,
        [crun_from("1.22", "writes a record over several lines")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    let (_, log) = logged(&bundle, "json");
    let records: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for record in &records {
        assert!(
            record["msg"].is_string() && record["level"].is_string(),
            "{record}"
        );
        let time = record["time"].as_str().unwrap();
        let form: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        let zone = &form[form.find('T').unwrap() + 9..];
        assert!(form.starts_with("0000-00-00T00:00:00"), "{time}");
        assert!(
            zone.ends_with('Z') || zone.ends_with("+00:00") || zone.ends_with("-00:00"),
            "{time}"
        );
    }
    assert_eq!(records.last().unwrap()["level"], "error");
}

#[test]
fn a_failure_is_also_told_on_standard_error() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    for format in ["json", "text"] {
        let (finished, log) = logged(&bundle, format);
        finished.says("no-such-program");
        assert!(log.contains("no-such-program"), "{format}: {log:?}");
    }
}

#[test]
fn a_log_is_appended_to() {
    require!(containers);
    beyond!(
        a_log_is_appended_to,
        [crun_from("1.22", "writes a record over several lines")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    let file = bundle.scratch.file("log", "before\n");
    bundle.runtime =
        bundle
            .runtime
            .with(&["--log", file.to_str().unwrap(), "--log-format", "json"]);
    bundle.run().failure();
    bundle.run().failure();
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.starts_with("before\n"), "{log:?}");
    assert_eq!(
        log.lines()
            .filter(|line| line.contains("\"level\":\"error\""))
            .count(),
        2,
        "{log}"
    );
}

#[test]
fn a_success_logs_nothing() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    let (finished, log) = logged(&bundle, "json");
    assert_eq!(
        (finished.code(), finished.stderr.as_str(), log.as_str()),
        (0, "", "")
    );
}

#[test]
fn the_exit_code_of_the_container_is_no_failure_of_the_runtime() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "3"]);
    let (finished, log) = logged(&bundle, "json");
    assert_eq!(
        (finished.code(), finished.stderr.as_str(), log.as_str()),
        (3, "", "")
    );
}

#[test]
fn an_unknown_log_format_is_refused() {
    require!(containers);
    let bundle = Bundle::new();
    bundle
        .runtime
        .with(&["--log-format", "xml"])
        .call(&["list"])
        .failure()
        .says("log");
}

#[test]
fn an_exec_that_fails_is_logged_too() {
    require!(containers);
    beyond!(
        an_exec_that_fails_is_logged_too,
        [crun_from("1.22", "writes a record over several lines")]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let file = bundle.scratch.path().join("exec.log");
    let runtime = bundle
        .runtime
        .with(&["--log", file.to_str().unwrap(), "--log-format", "json"]);
    runtime
        .call(&["exec", &container.id, "no-such-program"])
        .failure();
    let log = fs::read_to_string(&file).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(
        last["msg"].as_str().unwrap().contains("no-such-program"),
        "{last}"
    );
}

#[test]
fn an_unknown_command_or_flag_is_refused() {
    require!(containers);
    let bundle = Bundle::new();
    for args in [
        &["fly"][..],
        &["create", "--fly", "x"],
        &["--fly", "list"],
        &["state", "--fly", "x"],
    ] {
        bundle.runtime.call(args).failure();
    }
}

#[test]
fn a_bundle_that_is_missing_or_bad_is_named() {
    require!(containers);
    let bundle = Bundle::new();
    let create = |path: &str| {
        bundle
            .runtime
            .call(&["create", "--bundle", path, &unique("bad")])
            .failure()
    };
    create("/no/such/bundle").says("/no/such/bundle");
    create(bundle.scratch.path().to_str().unwrap()).says("config.json");
    let path = bundle.path();
    for text in [
        "",
        "{",
        "[]",
        "{\"ociVersion\": 1}",
        "null",
        "{\"process\": \"none\"}",
        "\u{feff}{}",
    ] {
        write(&path.join("config.json"), text);
        create(path.to_str().unwrap());
    }
}

#[test]
fn a_config_without_a_part_that_is_needed_is_refused() {
    require!(containers);
    beyond!(
        a_config_without_a_part_that_is_needed_is_refused,
        [crun("creates a container that cannot be started")]
    );
    for part in ["/root", "/process", "/process/cwd", "/process/args"] {
        let mut bundle = Bundle::new();
        bundle.config.remove(part);
        bundle.create_fails().failure();
    }
}

#[test]
fn a_list_in_the_place_of_an_object_is_refused() {
    require!(containers);
    beyond!(
        a_list_in_the_place_of_an_object_is_refused,
        [crun("takes some for what they are not")]
    );
    for (part, list) in [
        ("/linux", json!([])),
        ("/process/user", json!([0, 0])),
        ("/hooks", json!([])),
        ("/mounts/0", json!(["/x"])),
    ] {
        let mut bundle = Bundle::new();
        bundle.config.set(part, list);
        bundle.create_fails().failure();
    }
}

#[test]
fn what_is_null_is_not_there() {
    require!(containers);
    let mut bundle = Bundle::new();
    for part in ["/process/user/uid", "/linux/resources/pids/limit"] {
        bundle.config.set(part, json!(null));
    }
    bundle.config.probe(&["exit", "0"]);
    bundle.run().success();
}

#[test]
fn versions_of_the_specification_up_to_the_known_one_are_accepted() {
    require!(containers);
    beyond!(
        versions_of_the_specification_up_to_the_known_one_are_accepted,
        [crun_before("1.9", "refuses those newer than its own")]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    for version in ["1.0.0", "1.0.2-dev", "1.0.2", "1.1.0", "1.2.0", "1.3.0"] {
        bundle.config.set("/ociVersion", version);
        bundle.run().success();
    }
}

#[test]
fn fields_that_are_unknown_are_ignored() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/vendor", json!({ "a": 1 }))
        .set("/linux/future", true)
        .set("/process/mood", "good");
    bundle
        .config
        .set("/solaris", json!({}))
        .set("/windows", json!({ "layerFolders": ["x"] }))
        .set("/vm", Value::Null);
    bundle.config.probe(&["exit", "0"]);
    bundle.run().success();
}

/// Makes a configuration that cannot work.
type Spoil = fn(&mut Config);

/// Something of every phase of `create` that can go wrong.
const FAULTS: [(&str, Spoil); 12] = [
    ("the root", |config| {
        config.set("/root/path", "none");
    }),
    ("a mount's source", |config| {
        config.bind("/no/such/source", "/data", &[]);
    }),
    ("a mount's option", |config| {
        config.mount("/tmp", "tmpfs", "tmpfs", &["flavour=x"]);
    }),
    ("a namespace", |config| {
        config.join_namespace("network", "/proc/self/ns/none");
    }),
    ("a sysctl", |config| {
        config.set("/linux/sysctl", json!({ "net.ipv4.none": "1" }));
    }),
    ("a createRuntime hook", |config| {
        fails(config, "createRuntime")
    }),
    ("a createContainer hook", |config| {
        fails(config, "createContainer")
    }),
    ("the working directory", |config| {
        config.set("/process/cwd", "/etc/passwd");
    }),
    ("the program", |config| {
        config.args(&["none"]);
    }),
    ("a limit of the process", |config| {
        config.push(
            "/process/rlimits",
            json!({ "type": "RLIMIT_X", "soft": 1, "hard": 1 }),
        );
    }),
    ("a file of the cgroup", |config| {
        config.set("/linux/resources/unified", json!({ "none.none": "1" }));
    }),
    ("the root's propagation", |config| {
        config.set("/linux/rootfsPropagation", "none");
    }),
];

fn fails(config: &mut Config, kind: &str) {
    let hook = json!({ "path": integration::place::probe(), "args": ["probe", "exit", "1"] });
    config.push(&format!("/hooks/{kind}"), hook);
}

#[test]
fn a_failed_create_leaves_nothing_behind() {
    require!(containers);
    beyond!(
        a_failed_create_leaves_nothing_behind,
        [crun("leaves its cgroup, or accepts what is wrong")]
    );
    for (what, make) in FAULTS {
        let mut bundle = Bundle::new();
        make(&mut bundle.config);
        let id = unique("failing");
        let finished = bundle.call("create", &[], &id).failure();
        let left = host::traces(&id, &bundle.runtime.root);
        assert!(left.is_empty(), "{what}: {left:#?} after {finished}");
    }
}

#[test]
fn a_failed_run_leaves_nothing_behind() {
    require!(containers);
    beyond!(
        a_failed_run_leaves_nothing_behind,
        [
            runc("leaves its cgroup if --keep is given"),
            crun("leaves its cgroup, or accepts what is wrong")
        ]
    );
    for (what, make) in FAULTS {
        let mut bundle = Bundle::new();
        make(&mut bundle.config);
        for flags in [&[][..], &["--detach"], &["--keep"]] {
            let id = unique("failing");
            let finished = bundle.call("run", flags, &id).failure();
            let left = host::traces(&id, &bundle.runtime.root);
            assert!(
                left.is_empty(),
                "{what}, {flags:?}: {left:#?} after {finished}"
            );
        }
    }
}

#[test]
fn after_a_failed_create_the_id_is_free() {
    require!(containers);
    let mut bundle = Bundle::new();
    let id = unique("again");
    bundle.config.args(&["no-such-program"]);
    bundle.call("create", &[], &id).failure();
    bundle.config.probe(&["exit", "0"]);
    bundle.call("run", &[], &id).success();
    bundle.assert_gone(&id);
}

#[test]
fn a_create_that_was_killed_is_cleaned_up_by_delete() {
    require!(containers);
    beyond!(
        a_create_that_was_killed_is_cleaned_up_by_delete,
        [
            runc_race("has not saved its state by then, so that delete knows nothing"),
            crun("has not saved its state by then, so that delete knows nothing")
        ]
    );
    let mut bundle = Bundle::new();
    let fifo = bundle.scratch.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // The hook blocks until the test opens the other end, so create is certainly at work when it is killed.
    bundle.config.push(
        "/hooks/createRuntime",
        json!({ "path": integration::place::probe(), "args": ["probe", "cat", fifo] }),
    );
    let id = unique("killed");
    let create = bundle.start("create", &[], &id);
    let opened = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    create.signal(nix::sys::signal::Signal::SIGKILL);
    create.wait_for_exit();
    drop(opened);
    bundle.runtime.call(&["delete", "--force", &id]).success();
    bundle.assert_gone(&id);
    // And the id is free.
    bundle.config.remove("/hooks").probe(&["exit", "0"]);
    bundle.call("run", &[], &id).success();
}

#[test]
fn the_log_file_is_readable_by_others() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    logged(&bundle, "json");
    let mode = fs::metadata(bundle.scratch.path().join("log.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
}

fn logged(bundle: &Bundle, format: &str) -> (Finished, String) {
    let file = bundle.scratch.path().join(format!("log.{format}"));
    bundle.save();
    let runtime = bundle
        .runtime
        .with(&["--log", file.to_str().unwrap(), "--log-format", format]);
    let id = unique("logged");
    let path = bundle.path();
    let finished = runtime.call(&["run", "--bundle", path.to_str().unwrap(), &id]);
    (finished, fs::read_to_string(&file).unwrap_or_default())
}
