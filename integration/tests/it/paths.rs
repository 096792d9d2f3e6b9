//! The root itself, and the paths that are hidden or made read-only.

use integration::{Bundle, Kind, beyond, host, require};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn the_root_is_read_only_if_configured() {
    require!(containers);
    let mut bundle = Bundle::new();
    assert_eq!(
        bundle.tries(&["create:/tmp/x", "mkdir:/x"]),
        ["EROFS", "EROFS"]
    );
    bundle.config.writable();
    assert_eq!(bundle.tries(&["create:/tmp/x", "mkdir:/x"]), ["ok", "ok"]);
    bundle.config.remove("/root/readonly");
    assert_eq!(bundle.tries(&["create:/tmp/x", "mkdir:/x"]), ["ok", "ok"]);
}

#[test]
fn a_read_only_root_leaves_the_mounts_below_writable() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.mount("/tmp", "tmpfs", "tmpfs", &[]);
    assert_eq!(
        bundle.tries(&["create:/tmp/x", "create:/dev/shm/x", "create:/x"]),
        ["ok", "ok", "EROFS"]
    );
}

#[test]
fn an_empty_path_is_none() {
    require!(containers);
    beyond!(
        an_empty_path_is_none,
        [crun_from("1.28", "takes it for the root")]
    );
    let mut bundle = Bundle::new();
    let none = json!([""]);
    bundle
        .config
        .writable()
        .set("/linux/maskedPaths", none.clone())
        .set("/linux/readonlyPaths", none);
    assert_eq!(bundle.tries(&["create:/tmp/x"]), ["ok"]);
    let mounts = bundle.report(&[]).mounts;
    let roots = mounts.iter().filter(|mount| mount.target == "/");
    assert_eq!(roots.count(), 1);
}

#[test]
fn the_root_may_be_absolute_or_relative_to_the_bundle() {
    require!(containers);
    let mut bundle = Bundle::new();
    let elsewhere = bundle.scratch.path().join("elsewhere");
    fs::rename(bundle.rootfs(), &elsewhere).unwrap();
    for path in [
        elsewhere.to_str().unwrap(),
        "../elsewhere",
        "./../elsewhere/",
    ] {
        bundle
            .config
            .set("/root/path", path)
            .probe(&["echo", "here"]);
        assert_eq!(bundle.run().success().stdout, "here\n", "{path}");
    }
}

#[test]
fn the_root_must_be_an_existing_directory() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set("/root/path", "no-such-root");
    bundle.create_fails().failure().says("no-such-root");
    bundle.scratch.file("bundle/file", "");
    bundle.config.set("/root/path", "file");
    bundle.create_fails().failure();
    bundle.config.remove("/root");
    bundle.create_fails().failure();
}

#[test]
fn nothing_outside_the_root_can_be_seen() {
    require!(containers);
    let bundle = Bundle::new();
    let seen = bundle.report(&["ls=/", "ls=/.."]);
    assert_eq!(*seen.lists["/"], *seen.lists["/.."]);
    assert!(!seen.lists["/"].contains(&"boot".to_owned()));
    let scratch = bundle.scratch.path().to_str().unwrap();
    assert!(
        !seen
            .mounts
            .iter()
            .any(|mount| mount.target.contains(scratch)),
        "{:?}",
        seen.mounts
    );
}

#[test]
fn without_pivot_the_container_runs_the_same() {
    require!(containers);
    let seen = Bundle::new().report_with(&["--no-pivot"], &["ls=/", "try=create:/x"]);
    assert!(seen.lists["/"].contains(&"bin".to_owned()));
    assert_eq!(seen.tried("create:/x"), "EROFS");
}

#[test]
fn masked_files_read_as_empty_and_masked_directories_are_empty() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.file("secret/file", "hidden\n");
    bundle.file("plain", "hidden\n");
    let masked = json!([
        "/secret",
        "/plain",
        "/proc/timer_list",
        "/sys/kernel",
        "/missing"
    ]);
    bundle.config.writable().set("/linux/maskedPaths", masked);
    let seen = bundle.report(&[
        "ls=/secret",
        "try=create:/secret/x",
        "cat=/plain",
        "stat=/plain",
        "cat=/proc/timer_list",
        "ls=/sys/kernel",
        "stat=/missing",
    ]);
    assert!(seen.lists["/secret"].is_empty() && seen.lists["/sys/kernel"].is_empty());
    assert_eq!(seen.tried("create:/secret/x"), "EROFS");
    assert_eq!(
        (
            seen.files["/plain"].as_str(),
            seen.files["/proc/timer_list"].as_str()
        ),
        ("", "")
    );
    assert_eq!(
        (seen.stat("/plain").kind, seen.stat("/plain").rdev),
        (Kind::CharDevice, (1, 3))
    );
    assert!(seen.stats["/missing"].reason().is_some());
}

#[test]
fn a_masked_file_does_not_hand_the_null_device_of_the_host_over() {
    require!(containers);
    // Root in the container owns it, and could take it from everybody on the host by chmod(2).
    let mut bundle = Bundle::new();
    bundle.file("plain", "hidden\n");
    bundle.file("second", "hidden\n");
    let masked = json!(["/plain", "/second"]);
    bundle.config.writable().set("/linux/maskedPaths", masked);
    let seen = bundle.report(&[]);
    for path in ["/plain", "/second"] {
        let mask = seen.mounted(path);
        assert!(
            mask.fstype == "tmpfs" || mask.has(&["ro"]),
            "{path}: {mask:?}"
        );
    }
}

#[test]
fn the_default_masks_hide_what_they_name() {
    require!(containers);
    let seen = Bundle::new().report(&[
        "cat=/proc/keys",
        "cat=/proc/timer_list",
        "cat=/proc/kcore",
        "ls=/sys/firmware",
        "ls=/proc/scsi",
    ]);
    for (path, text) in &seen.files {
        assert!(
            text.reason().is_some() || text.is_empty(),
            "{path}: {text:?}"
        );
    }
    for (path, names) in &seen.lists {
        assert!(
            names.reason().is_some() || names.is_empty(),
            "{path}: {names:?}"
        );
    }
}

#[test]
fn a_masked_link_masks_what_it_points_to_inside_the_root() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.file("real", "hidden\n");
    symlink("/real", bundle.rootfs().join("link")).unwrap();
    bundle.config.set("/linux/maskedPaths", json!(["/link"]));
    let seen = bundle.report(&["cat=/real", "cat=/link"]);
    assert_eq!(
        (seen.files["/real"].as_str(), seen.files["/link"].as_str()),
        ("", "")
    );
}

#[test]
fn a_mask_does_not_trust_the_containers_own_null_device() {
    require!(containers);
    // CVE-2025-31133: the bind source was the container's /dev/null, which may be a link to anything.
    let mut bundle = Bundle::new();
    bundle
        .config
        .unmount("/dev")
        .unmount("/dev/pts")
        .unmount("/dev/shm")
        .unmount("/dev/mqueue");
    bundle.file("plain", "hidden\n");
    let dev = bundle.dir("dev");
    symlink("/etc/passwd", dev.join("null")).unwrap();
    bundle
        .config
        .set("/linux/maskedPaths", json!(["/plain"]))
        .probe(&["cat", "/plain"]);
    let finished = bundle.run();
    // The runtime may refuse such a root or mask with a node of its own.
    assert!(!finished.stdout.contains("root:x"), "{finished}");
    assert!(!finished.stdout.contains("hidden"), "{finished}");
}

#[test]
fn read_only_paths_cannot_be_written() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.file("locked/file", "readable\n");
    bundle.file("single", "readable\n");
    bundle.config.writable().privileged().set(
        "/linux/readonlyPaths",
        json!(["/locked", "/single", "/missing", "/proc/sys"]),
    );
    let seen = bundle.report(&[
        "cat=/locked/file",
        "try=write:/locked/file",
        "try=create:/locked/new",
        "try=write:/single",
        "try=create:/free",
        "try=write:/proc/sys/kernel/hostname",
        "cat=/proc/sys/kernel/ostype",
    ]);
    assert_eq!(*seen.files["/locked/file"], "readable\n");
    for action in [
        "write:/locked/file",
        "create:/locked/new",
        "write:/single",
        "write:/proc/sys/kernel/hostname",
    ] {
        assert_eq!(seen.tried(action), "EROFS", "{action}");
    }
    assert_eq!(seen.tried("create:/free"), "ok");
    assert_eq!(*seen.files["/proc/sys/kernel/ostype"], "Linux\n");
}

#[test]
fn the_default_read_only_paths_of_proc_are_read_only() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.privileged();
    let files = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/irq/default_smp_affinity",
    ];
    // Not every kernel has them all.
    let files: Vec<String> = files
        .iter()
        .filter(|file| std::path::Path::new(file).exists())
        .map(|file| format!("write:{file}"))
        .collect();
    assert!(files.len() >= 2);
    let outcomes = bundle.tries(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        outcomes.iter().all(|outcome| outcome == "EROFS"),
        "{files:?}: {outcomes:?}"
    );
}

#[test]
fn a_read_only_path_keeps_the_flags_of_its_mount() {
    require!(containers);
    beyond!(
        a_read_only_path_keeps_the_flags_of_its_mount,
        [crun_before("1.21", "clears them")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .mount("/data", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"]);
    bundle.config.set("/linux/readonlyPaths", json!(["/data"]));
    let mount = bundle.report(&[]).mounted("/data").clone();
    assert!(
        mount.has(&["ro", "nosuid", "nodev", "noexec"]),
        "{:?}",
        mount.options
    );
}

#[test]
fn the_roots_propagation_is_as_configured() {
    require!(containers);
    beyond!(
        the_roots_propagation_is_as_configured,
        [
            runc_before("1.2", "leaves the new root private"),
            runc_from(
                "1.2",
                "cannot make paths read-only below an unbindable root"
            ),
            crun("cannot mask paths below an unbindable root")
        ]
    );
    for (value, tags) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("slave", ""),
        ("rslave", ""),
        ("private", ""),
        ("rprivate", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/rootfsPropagation", value);
        let seen = bundle.report(&[]);
        let found = seen.mounted("/").propagation.join(" ");
        assert!(
            found.starts_with(tags) && found.is_empty() == tags.is_empty(),
            "{value}: {found:?}"
        );
    }
}

#[test]
fn recursive_propagation_reaches_the_mounts_below_the_root() {
    require!(containers);
    beyond!(
        recursive_propagation_reaches_the_mounts_below_the_root,
        [runc_before("1.2", "leaves the new root private")]
    );
    for (value, shared) in [("rshared", true), ("shared", false)] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/linux/rootfsPropagation", value)
            .mount("/data", "tmpfs", "tmpfs", &[]);
        let found = bundle.report(&[]).mounted("/data").propagation.join(" ");
        assert_eq!(found.contains("shared:"), shared, "{value}: {found:?}");
    }
}

#[test]
fn the_root_is_a_read_only_path_too() {
    require!(containers);
    beyond!(
        the_root_is_a_read_only_path_too,
        [crun(
            "mounts a read-only copy over it, where the container never looks"
        )]
    );
    let mut bundle = Bundle::new();
    symlink("/", bundle.rootfs().join("link")).unwrap();
    bundle.config.writable();
    for path in ["/", "/link"] {
        bundle.config.set("/linux/readonlyPaths", json!([path]));
        assert_eq!(bundle.tries(&["create:/new"]), ["EROFS"], "{path}");
    }
}

#[test]
fn what_masks_a_file_is_no_peer_of_the_hosts() {
    require!(containers);
    beyond!(
        what_masks_a_file_is_no_peer_of_the_hosts,
        [crun_before(
            "1.28",
            "binds the host's /dev/null as its peer"
        )]
    );
    // Who mounts over it would mount over the host's /dev/null.
    host::in_own_mounts(|| {
        let (none, shared) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED);
        mount(none, "/", none, shared, none).unwrap();
        let mut of_host = BTreeSet::new();
        for mount in host::mounts() {
            of_host.extend(mount.propagation);
        }
        assert!(!of_host.is_empty());
        for value in ["shared", "rshared"] {
            let mut bundle = Bundle::new();
            bundle
                .config
                .set("/linux/rootfsPropagation", value)
                .set("/linux/maskedPaths", json!(["/proc/timer_list"]));
            let seen = bundle.report(&[]);
            let mask = &seen.mounted("/proc/timer_list").propagation;
            assert!(
                !mask.iter().any(|tag| of_host.contains(tag)),
                "{value}: {mask:?}"
            );
        }
    });
}

#[test]
fn an_unknown_propagation_of_the_root_is_refused() {
    require!(containers);
    beyond!(
        an_unknown_propagation_of_the_root_is_refused,
        [crun("ignores it")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/rootfsPropagation", "hearsay");
    bundle.create_fails().failure().says("hearsay");
}
