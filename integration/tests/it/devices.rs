//! /dev: the default nodes and links, `linux.devices`, and what may be done with devices.

use integration::{Bundle, Kind, beyond, place, require};
use serde_json::json;
use std::os::unix::fs::symlink;

const NODES: [(&str, (u64, u64)); 6] = [
    ("/dev/null", (1, 3)),
    ("/dev/zero", (1, 5)),
    ("/dev/full", (1, 7)),
    ("/dev/tty", (5, 0)),
    ("/dev/random", (1, 8)),
    ("/dev/urandom", (1, 9)),
];

#[test]
fn the_default_nodes_are_there() {
    require!(containers);
    let questions = NODES.map(|(path, _)| format!("stat={path}"));
    let seen = Bundle::new().report(&questions.each_ref().map(String::as_str));
    for (path, rdev) in NODES {
        let stat = seen.stat(path);
        assert_eq!((stat.kind, stat.rdev), (Kind::CharDevice, rdev), "{path}");
        assert_eq!((stat.mode, stat.uid, stat.gid), (0o666, 0, 0), "{path}");
    }
}

#[test]
fn the_default_links_are_there() {
    require!(containers);
    let links = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    let questions = links.map(|(path, _)| format!("stat={path}"));
    let seen = Bundle::new().report(&questions.each_ref().map(String::as_str));
    for (path, target) in links {
        assert_eq!(seen.stat(path).link.as_deref(), Some(target), "{path}");
    }
}

#[test]
fn there_is_nothing_else_in_dev() {
    require!(containers);
    let seen = Bundle::new().report(&["ls=/dev"]);
    let expected = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    let unexpected: Vec<&String> = seen.lists["/dev"]
        .iter()
        .filter(|name| !expected.contains(&name.as_str()))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert!(
        seen.lists["/dev"].len() >= expected.len() - 1,
        "{:?}",
        seen.lists
    );
}

#[test]
fn a_new_terminal_can_be_opened() {
    require!(containers);
    assert_eq!(
        Bundle::new().tries(&["read:/dev/null", "write:/dev/ptmx", "write:/dev/pts/ptmx"]),
        ["ok"; 3]
    );
}

#[test]
fn configured_devices_are_made() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/devices", json!([
        { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 1000, "gid": 1001 },
        { "path": "/dev/block", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600 },
        { "path": "/dev/deep/er/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 },
        { "path": "/dev/fifo", "type": "p", "fileMode": 0o622, "uid": 0, "gid": 0 },
        { "path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 },
        { "path": "/dev/set-id", "type": "c", "major": 1, "minor": 3, "fileMode": 0o7751 },
    ]));
    let seen = bundle.report(&[
        "stat=/dev/fuse",
        "stat=/dev/block",
        "stat=/dev/deep/er/node",
        "stat=/dev/fifo",
        "stat=/dev/unbuffered",
        "stat=/dev/set-id",
    ]);
    let fuse = seen.stat("/dev/fuse");
    assert_eq!(
        (fuse.kind, fuse.rdev, fuse.mode, fuse.uid, fuse.gid),
        (Kind::CharDevice, (10, 229), 0o640, 1000, 1001)
    );
    let block = seen.stat("/dev/block");
    assert_eq!(
        (block.kind, block.rdev, block.mode),
        (Kind::BlockDevice, (7, 99), 0o600)
    );
    assert_eq!(seen.stat("/dev/deep/er/node").rdev, (1, 3));
    assert_eq!(
        (seen.stat("/dev/fifo").kind, seen.stat("/dev/fifo").mode),
        (Kind::Fifo, 0o622)
    );
    assert_eq!(
        (
            seen.stat("/dev/unbuffered").kind,
            seen.stat("/dev/unbuffered").rdev
        ),
        (Kind::CharDevice, (1, 5))
    );
    assert_eq!(seen.stat("/dev/set-id").mode, 0o1751);
}

#[test]
fn a_configured_device_replaces_a_default_one() {
    require!(device_filter);
    beyond!(
        a_configured_device_replaces_a_default_one,
        [crun_before("1.28", "leaves it to root")]
    );
    let mut bundle = Bundle::new();
    let null = json!({ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o620, "uid": 5, "gid": 6 });
    let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
    bundle
        .config
        .push("/linux/devices", null)
        .push("/linux/resources/devices", rule);
    let stat = bundle.report(&["stat=/dev/null"]).stat("/dev/null").clone();
    assert_eq!(
        (stat.rdev, stat.mode, stat.uid, stat.gid),
        ((1, 3), 0o620, 5, 6)
    );
}

#[test]
fn a_device_of_an_unknown_type_is_refused() {
    require!(containers);
    beyond!(
        a_device_of_an_unknown_type_is_refused,
        [crun("leaves the device out")]
    );
    let mut bundle = Bundle::new();
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/odd", "type": "x", "major": 1, "minor": 3 }),
    );
    bundle.create_fails().failure();
}

#[test]
fn devices_are_made_whatever_the_umask_of_the_caller() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/open", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }),
    );
    let shell = ["/bin/sh", "-c", "umask 0177; exec \"$@\"", "umask"].map(Into::into);
    bundle.runtime.wrapper.splice(0..0, shell);
    let seen = bundle.report(&["stat=/dev/open", "stat=/dev/null"]);
    assert_eq!(
        (seen.stat("/dev/open").mode, seen.stat("/dev/null").mode),
        (0o666, 0o666)
    );
}

#[test]
fn a_bound_dev_is_left_as_it_is() {
    require!(containers);
    let mut bundle = Bundle::new();
    let dev = bundle.scratch.dir("dev");
    for name in ["pts", "shm", "mqueue"] {
        bundle.scratch.dir(&format!("dev/{name}"));
    }
    place::node(&dev.join("null"), 1, 3);
    bundle.config.unmount("/dev").0["mounts"]
        .as_array_mut()
        .unwrap()
        .insert(
            1,
            json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"] }),
        );
    let seen = bundle.report(&["ls=/dev"]);
    assert!(
        !seen.lists["/dev"].contains(&"zero".to_owned()),
        "{:?}",
        seen.lists
    );
}

#[test]
fn a_read_only_dev_is_complete() {
    require!(containers);
    let mut bundle = Bundle::new();
    for mount in bundle.config.0["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            mount["options"] = json!(["nosuid", "ro", "mode=755"]);
        }
    }
    let seen = bundle.report(&["stat=/dev/null", "stat=/dev/ptmx", "try=create:/dev/new"]);
    assert_eq!(seen.stat("/dev/null").rdev, (1, 3));
    assert!(seen.mounted("/dev").has(&["ro", "nosuid"]));
    assert_eq!(seen.tried("create:/dev/new"), "EROFS");
}

#[test]
fn a_link_in_place_of_dev_stays_inside_the_root() {
    require!(containers);
    beyond!(
        a_link_in_place_of_dev_stays_inside_the_root,
        [
            runc_before("1.3.6", "CVE-2026-41579"),
            crun_before("1.28", "CVE-2026-47766")
        ]
    );
    // CVE-2026-41579, CVE-2026-47766: nodes and links were made through the link, on the host.
    let bundle = Bundle::new();
    let outside = bundle.scratch.dir("outside");
    std::fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&outside, bundle.rootfs().join("dev")).unwrap();
    let mut bundle = bundle;
    bundle
        .config
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    bundle.config.probe(&["exit", "0"]);
    bundle.run(); // It may run or be refused.
    let made: Vec<_> = std::fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(made.is_empty(), "made on the host: {made:?}");
}

#[test]
fn devices_that_no_rule_allows_cannot_be_used() {
    require!(device_filter, device(1, 11), device(10, 229));
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    // A rule beyond the default one, so that the harness does not take it out for anybody.
    bundle.config.set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ]),
    );
    bundle.config.set(
        "/linux/devices",
        json!([
            { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 },
            { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 },
        ]),
    );
    let actions = [
        "read:/dev/kmsg",
        "write:/dev/kmsg",
        "write:/dev/fuse",
        "read:/dev/null",
        "write:/dev/zero",
        "mknod:/dev/new:1:11",
    ];
    let outcomes = bundle.tries(&actions);
    assert_eq!(
        outcomes,
        ["EPERM", "EPERM", "ok", "ok", "ok", "ok"],
        "{actions:?}"
    );
}

#[test]
fn device_rules_allow_each_access_separately() {
    require!(device_filter, device(1, 11));
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    bundle.config.set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" },
            { "allow": true, "type": "c", "major": 1, "access": "m" },
        ]),
    );
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    assert_eq!(
        bundle.tries(&["read:/dev/kmsg", "write:/dev/kmsg"]),
        ["EPERM", "ok"]
    );
}

#[test]
fn all_devices_can_be_used_if_all_are_allowed() {
    require!(device_filter, device(1, 11));
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    bundle.config.set(
        "/linux/resources/devices",
        json!([{ "allow": true, "access": "rwm" }]),
    );
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    assert_eq!(
        bundle.tries(&["write:/dev/kmsg", "mknod:/dev/new:1:11"]),
        ["ok", "ok"]
    );
}

#[test]
fn rules_may_cover_others() {
    require!(device_filter, device(1, 11));
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    for (rules, kmsg) in [
        (
            json!([{ "allow": true, "type": "c", "access": "rwm" }]),
            "ok",
        ),
        (
            json!([{ "allow": true, "type": "c", "access": "rw" }]),
            "ok",
        ),
        (
            json!([
                { "allow": true, "type": "c", "access": "rwm" },
                { "allow": true, "type": "b", "access": "rwm" },
            ]),
            "ok",
        ),
        (
            json!([
                { "allow": true, "type": "c", "major": 1, "access": "rwm" },
                { "allow": true, "type": "c", "major": 5, "access": "rwm" },
                { "allow": true, "type": "c", "major": 10, "access": "rwm" },
            ]),
            "ok",
        ),
        (
            json!([
                { "allow": true, "type": "c", "major": 7, "access": "rwm" },
                { "allow": true, "type": "c", "major": 7, "minor": 1, "access": "rwm" },
            ]),
            "EPERM",
        ),
    ] {
        let mut all = vec![json!({ "allow": false, "access": "rwm" })];
        all.extend(rules.as_array().unwrap().iter().cloned());
        bundle.config.set("/linux/resources/devices", json!(all));
        let outcome = bundle.tries(&["write:/dev/kmsg", "write:/dev/null"]);
        assert_eq!(outcome, [kmsg, "ok"], "{rules}");
    }
}

#[test]
fn the_device_filter_holds_for_exec_too() {
    require!(device_filter);
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    bundle.config.set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ]),
    );
    bundle.config.push(
        "/linux/devices",
        json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }),
    );
    let container = bundle.pause();
    let outcome = container
        .exec(
            &[],
            &["/bin/probe", "try", "read:/dev/kmsg", "read:/dev/zero"],
        )
        .success()
        .json();
    assert_eq!(
        (
            outcome["read:/dev/kmsg"].as_str(),
            outcome["read:/dev/zero"].as_str()
        ),
        (Some("EPERM"), Some("ok"))
    );
}
