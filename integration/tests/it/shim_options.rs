//! What a shim finds out for itself when no options tell it: CRI has none for a pod without a pause container, and Docker none for a runtime
//! that it does not know.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, place, require};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The arguments of the runtime with which a shim that has no options makes a container whose group is named so.
fn arguments(group: &str) -> String {
    let mut shim = Shim::prepared(Bundle::new());
    // It is `caisson` then, which is found in PATH.
    let arguments = shim.bundle.scratch.name("arguments");
    let script = format!("#!/bin/busybox sh\necho \"$*\" >>{arguments}\nexit 1\n");
    let program = shim.bundle.scratch.file("bin/caisson", &script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = program.parent().unwrap().display().to_string();
    shim.environment.push(("PATH".into(), path));
    shim.launch(Protocol::Bootstrap);
    let id = shim.id().to_owned();
    let config = shim.directory(&id).join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut edited: Value = serde_json::from_str(&text).unwrap();
    edited["linux"]["cgroupsPath"] = json!(group);
    place::write(&config, edited.to_string());
    let made = shim.create_with(&id, |request| request.options.clear());
    assert!(made.is_err());
    fs::read_to_string(arguments).unwrap()
}

#[test]
fn a_group_named_for_systemd_is_made_by_systemd() {
    require!(containers, busybox);
    for (group, systemd) in [
        ("kubepods-pod1.slice:cri-containerd:1", true),
        ("system.slice:docker:1", true),
        ("/kubepods/pod1/1", false),
    ] {
        let said = arguments(group);
        assert!(said.contains(" create "), "{said}");
        assert_eq!(said.contains(" --systemd-cgroup "), systemd, "{said}");
    }
}

#[test]
fn root_of_a_user_namespace_can_open_his_streams_again() {
    require!(containers, userns);
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    bundle.config.probe(&["try", "write:/proc/self/fd/1"]);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    assert_eq!(shim.line(&id), r#"{"write:/proc/self/fd/1":"ok"}"#);
    assert_eq!(shim.wait(&id, ""), Ok(0));
    shim.delete(&id, "").unwrap();
}
