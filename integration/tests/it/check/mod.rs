//! `check` says of a bundle what `create` and `start` would fail with: all of it, with the field, and before anything is made.

mod additions;
mod agreement;

use integration::{Bundle, Finished, host, place, require};
use serde_json::{Value, json};

/// What `check` says as JSON, and its exit code.
fn check(bundle: &Bundle) -> (Vec<Value>, i32) {
    check_with(bundle, &[])
}

/// The same with these global options.
fn check_with(bundle: &Bundle, globals: &[&str]) -> (Vec<Value>, i32) {
    let finished = call(bundle, globals, &["--format", "json"]);
    let list = serde_json::from_str(&finished.stdout);
    let list = list.unwrap_or_else(|error| panic!("no findings ({error}): {finished}"));
    (list, finished.code())
}

fn call(bundle: &Bundle, globals: &[&str], flags: &[&str]) -> Finished {
    bundle.save();
    let path = bundle.path().display().to_string();
    let runtime = bundle.runtime.with(globals);
    runtime.call(&[&["check", "--bundle", &path], flags].concat())
}

/// The fields with errors, sorted.
fn fields(list: &[Value]) -> Vec<&str> {
    let errors = list.iter().filter(|finding| finding["severity"] == "error");
    let mut fields: Vec<&str> = errors
        .filter_map(|finding| finding["field"].as_str())
        .collect();
    fields.sort_unstable();
    fields
}

/// The text of the only error; fails if it is not of this field.
#[track_caller]
fn only(bundle: &Bundle, field: &str) -> String {
    let (list, code) = check(bundle);
    assert_eq!(fields(&list), [field], "{list:?}");
    assert_eq!(code, 1);
    let mut errors = list.iter().filter(|finding| finding["severity"] == "error");
    errors.next().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_bundle_that_runs_has_no_errors() {
    require!(containers, caisson);
    let bundle = Bundle::new();
    let (list, code) = check(&bundle);
    assert_eq!((fields(&list), code), (vec![], 0), "{list:?}");
    assert_eq!(call(&bundle, &[], &[]).success().stdout, "");
}

#[test]
fn all_that_is_wrong_is_said_at_once_one_line_each() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/ociVersion", "one")
        .set("/process/args", json!(["no-such-program"]))
        .set("/process/user", json!({ "uid": "0", "gid": 4_294_967_295_u32 }))
        .set("/process/env", json!(["PATH=/bin", 1, "NOVALUE"]))
        .set("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]))
        .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "x", "vm.swappiness": "1" }))
        .set("/hooks/prestart", json!([{ "path": "/no/such/hook" }]))
        .push("/mounts", json!({ "destination": 1 }))
        .push("/mounts", json!({ "destination": "/tmp", "type": "bind", "source": "/no/such", "options": ["bind"] }))
        .push("/mounts", json!({ "destination": "/tmp", "type": "tmpfs", "options": ["size=what"] }));
    let first = bundle.config.0["mounts"].as_array().unwrap().len() - 3;
    let finished = call(&bundle, &[], &[]);
    assert_eq!(finished.code(), 1, "{finished}");
    let mut lines: Vec<&str> = finished
        .stdout
        .lines()
        .map(|line| {
            let rest = line
                .strip_prefix("error: ")
                .unwrap_or_else(|| panic!("{line}"));
            rest.split(": ").next().unwrap()
        })
        .collect();
    lines.sort_unstable();
    let mounts = [
        format!("mounts[{first}].destination"),
        format!("mounts[{}].source", first + 1),
        format!("mounts[{}].options", first + 2),
    ];
    let mut wanted = vec![
        "hooks.prestart[0].path",
        "linux.sysctl[\"net.ipv4.ip_forward\"]",
        "linux.sysctl[\"vm.swappiness\"]",
        &mounts[0],
        &mounts[1],
        &mounts[2],
        "ociVersion",
        "process.args[0]",
        "process.env[1]",
        "process.env[2]",
        "process.rlimits[0]",
        "process.user.gid",
        "process.user.uid",
    ];
    wanted.sort_unstable();
    assert_eq!(lines, wanted, "{finished}");
}

#[test]
fn a_limit_without_its_controller_names_both() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/unified", json!({ "nosuch.max": "1" }));
    let text = only(&bundle, "linux.resources.unified[\"nosuch.max\"]");
    assert!(
        text.contains("controller 'nosuch' is not available"),
        "{text}"
    );
}

#[test]
fn the_program_is_looked_for_as_the_container_will_see_it() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let rootfs = bundle.rootfs();
    // A link of the image leads nowhere outside of it, and mounts are where it is looked for.
    std::os::unix::fs::symlink("/../../../../usr/bin", rootfs.join("opt")).unwrap();
    bundle.config.set("/process/args", json!(["/opt/env"]));
    assert!(only(&bundle, "process.args[0]").contains("no such file"));
    let elsewhere = bundle.scratch.dir("elsewhere");
    std::fs::copy(place::probe(), elsewhere.join("env")).unwrap();
    bundle.config.push(
        "/mounts",
        json!({
            "destination": "/opt", "type": "bind", "source": elsewhere, "options": ["bind"],
        }),
    );
    let (list, _) = check(&bundle);
    assert_eq!(fields(&list), [""; 0], "{list:?}");
    bundle
        .config
        .set("/process/args", json!(["/opt/env", "exit", "0"]));
    bundle.run().success();
    let last = bundle.config.0["mounts"].as_array().unwrap().len() - 1;
    bundle
        .config
        .push(&format!("/mounts/{last}/options"), "noexec");
    assert!(only(&bundle, "process.args[0]").contains("permission denied"));
    bundle
        .config
        .remove("/mounts")
        .set("/process/args", json!(["/etc/passwd"]));
    assert!(only(&bundle, "process.args[0]").contains("permission denied"));
    bundle.config.set("/process/args", json!(["/etc"]));
    assert!(only(&bundle, "process.args[0]").contains("is a directory"));
}

#[test]
fn namespaces_to_join_must_be_there_and_of_their_kind() {
    require!(containers, caisson);
    for (path, word) in [
        ("/no/such", "no such file"),
        ("/proc/self/ns/uts", "invalid argument"),
        ("/dev/null", "invalid argument"),
    ] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .no_namespace("ipc")
            .push("/linux/namespaces", json!({ "type": "ipc", "path": path }));
        let last = bundle.config.0["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .len()
            - 1;
        let text = only(&bundle, &format!("linux.namespaces[{last}].path"));
        assert!(text.contains(word), "{path}: {text}");
        bundle.create_fails();
    }
}

#[test]
fn checking_leaves_nothing() {
    require!(containers, caisson);
    host::in_own_mounts(|| {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/linux/resources/pids", json!({ "limit": 5 }));
        bundle.config.set("/process/cwd", "/new/directory");
        let before = host::mounts().len();
        check(&bundle);
        // The name of the group that `create` would make for the id that `check` takes.
        assert!(!host::hierarchy().join("check").exists());
        assert_eq!(host::mounts().len(), before);
        assert!(!bundle.rootfs().join("new").exists());
        assert!(
            !bundle.runtime.root.exists(),
            "{}",
            bundle.runtime.root.display()
        );
    });
}

/// Things that the kernel refuses only as they are done, with what there is to say before.
const FORESEEN: &[(&str, &str, &str)] = &[
    (
        "linux.netDevices[\"lo\"]",
        "/linux/netDevices",
        r#"{"lo":{"name":"other"}}"#,
    ),
    (
        "linux.netDevices[\"lo\"]",
        "/linux/netDevices",
        r#"{"lo":{}}"#,
    ),
    (
        "linux.cgroupsPath",
        "/linux/cgroupsPath",
        r#""/check\nagain""#,
    ),
    (
        "linux.seccomp.listenerPath",
        "/linux/seccomp",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"config.json","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    ),
    (
        "annotations[\"run.oci.pidfd_receiver\"]",
        "/annotations",
        r#"{"run.oci.pidfd_receiver":"config.json/x"}"#,
    ),
    (
        "annotations[\"dev.caisson.landlock\"]",
        "/annotations",
        r#"{"dev.caisson.landlock":"{\"paths\":[{\"paths\":[\"/nope\",\"/\"],\"access\":[\"execute\"]}]}"}"#,
    ),
    (
        "process.args[0]",
        "/linux/maskedPaths",
        r#"["/usr/../bin"]"#,
    ),
    (
        "mounts[0].source",
        "/mounts",
        r#"[{"destination":"/tmp","type":"bind","source":"/proc","options":["bind","idmap=uids=0-0-9;gids=0-0-9"]}]"#,
    ),
    (
        "mounts[0].uidMappings[1]",
        "/mounts",
        r#"[{"destination":"/tmp","type":"bind","source":"/tmp","options":["bind","idmap=uids=0-0-9#5-10-9;gids=0-0-9"]}]"#,
    ),
];

#[test]
fn what_the_kernel_would_refuse_is_known_before() {
    require!(
        containers,
        caisson,
        id_mapped_mounts,
        system_call("landlock_create_ruleset")
    );
    for (field, pointer, value) in FORESEEN {
        let mut bundle = Bundle::new();
        let value: Value = serde_json::from_str(value).unwrap();
        bundle.config.set(pointer, value);
        only(&bundle, field);
        bundle.create_fails();
    }
}

#[test]
fn more_than_the_kernel_takes_is_known_before() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/user/additionalGids", vec![7; 70_000]);
    let text = only(&bundle, "process.user.additionalGids");
    assert!(text.contains("70000 groups"), "{text}");
    // It does not list them, nor name a user namespace where there is none.
    let said = bundle.create_fails().stderr;
    assert!(said.len() < 500 && !said.contains("namespace"), "{said}");
}

#[test]
fn a_device_filter_that_is_too_long_is_known_before() {
    require!(containers, caisson, device_filter);
    let mut bundle = Bundle::new();
    let rule = |major| json!({ "allow": true, "type": "c", "major": major, "minor": major % 7, "access": "rw" });
    let rules: Vec<Value> = (1..3_000).map(rule).collect();
    bundle.config.set("/linux/resources/devices", rules);
    only(&bundle, "linux.resources.devices");
    bundle.create_fails().says("load the device filter");
}

#[test]
fn clocks_of_a_time_namespace_show_no_time_before_the_machine_began() {
    require!(containers, caisson, namespace("time"));
    let mut bundle = Bundle::new();
    bundle.config.namespace("time").set(
        "/linux/timeOffsets",
        json!({ "boottime": { "secs": -99_999_999_999_i64 } }),
    );
    only(&bundle, "linux.timeOffsets.boottime");
    bundle.create_fails();
    bundle.config.set(
        "/linux/timeOffsets",
        json!({ "boottime": { "secs": 1000 } }),
    );
    let (list, _) = check(&bundle);
    assert_eq!(fields(&list), [""; 0], "{list:?}");
}

#[test]
fn an_agent_may_begin_to_listen_later() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/agent",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
    });
    bundle.config.set("/linux/seccomp", profile);
    let (list, code) = check(&bundle);
    assert_eq!((fields(&list), code), (vec![], 0), "{list:?}");
    assert!(list.iter().any(|finding| {
        finding["severity"] == "warning" && finding["field"] == "linux.seccomp.listenerPath"
    }));
}
