//! `mounts add` and `mounts remove`: mounts of a container that is there already.

use crate::binds::Mounted;
use integration::place::{self, give};
use integration::{Bundle, Container, Finished, beyond, host, require};
use nix::mount::MsFlags;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const NONE: &str = "has no such command";

/// The command with a file of these mounts.
#[track_caller]
fn change(bundle: &Bundle, verb: &str, id: &str, mounts: &Value) -> Finished {
    let file = bundle.scratch.file("mounts.json", mounts.to_string());
    let file = file.display().to_string();
    bundle.runtime.call(&["mounts", verb, id, &file])
}

/// What a shell in the container says.
#[track_caller]
fn said(container: &Container, script: &str) -> String {
    let shell = ["/bin/busybox", "sh", "-c", script];
    container
        .exec(&[], &shell)
        .success()
        .stdout
        .trim()
        .to_owned()
}

#[test]
fn mounts_come_into_a_container_that_runs_and_go() {
    require!(containers, busybox);
    beyond!(
        mounts_come_into_a_container_that_runs_and_go,
        [runc(NONE), crun_before("1.22", NONE)]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    let container = bundle.pause();
    let shared = bundle.scratch.dir("shared");
    place::write(&shared.join("file"), "of the host");
    let file = bundle.scratch.file("single", "one file");
    let mounts = json!([
        { "destination": "/new/shared", "source": shared, "type": "bind", "options": ["rbind", "ro"] },
        { "destination": "/new/single", "source": file, "type": "bind", "options": ["bind"] },
        { "destination": "/new/memory", "source": "tmpfs", "type": "tmpfs", "options": ["size=1m", "nosuid"] },
    ]);
    change(&bundle, "add", &container.id, &mounts).success();
    let script = "cat /new/shared/file /new/single; echo >/new/memory/x && echo >/new/shared/no || echo read-only";
    let expected = "of the hostone fileread-only";
    assert_eq!(said(&container, script), expected);
    let mounted = said(&container, "grep -c ' /new/' /proc/1/mounts");
    assert_eq!(mounted, "3");
    let of_host = host::mounts();
    let rootfs = bundle.rootfs().join("new");
    assert!(
        !of_host
            .iter()
            .any(|mount| rootfs.starts_with(&mount.target) && mount.target.ends_with("/new"))
    );
    change(&bundle, "remove", &container.id, &mounts).success();
    let left = said(
        &container,
        "grep -c ' /new/' /proc/1/mounts; ls /new/shared",
    );
    assert_eq!(left, "0");
    assert_eq!(
        fs::read_to_string(shared.join("file")).unwrap(),
        "of the host"
    );
}

#[test]
fn file_systems_of_later_mounts_are_the_containers_and_as_asked_for() {
    require!(containers, busybox);
    beyond!(
        file_systems_of_later_mounts_are_the_containers_and_as_asked_for,
        [
            runc(NONE),
            crun_before("1.22", NONE),
            crun("makes file systems outside of the container's namespaces, without their options")
        ]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    bundle.config.privileged();
    let container = bundle.pause();
    let mounts = json!([
        { "destination": "/new/proc", "source": "proc", "type": "proc" },
        { "destination": "/new/sys", "source": "sysfs", "type": "sysfs", "options": ["ro"] },
        { "destination": "/new/cgroup", "source": "cgroup", "type": "cgroup", "options": ["ro"] },
    ]);
    change(&bundle, "add", &container.id, &mounts).success();
    let script =
        "cat /new/proc/1/comm; ls /new/sys/class/net; cat /new/cgroup/cgroup.procs | grep -c '^1$'";
    assert_eq!(said(&container, script), "probe\nlo\n1");
}

#[test]
fn either_all_mounts_of_a_file_come_or_none() {
    require!(containers, busybox);
    beyond!(
        either_all_mounts_of_a_file_come_or_none,
        [
            runc(NONE),
            crun_before("1.22", NONE),
            crun("leaves the mounts before the one that fails")
        ]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    let container = bundle.pause();
    let before = said(&container, "cat /proc/1/mounts");
    let mounts = json!([
        { "destination": "/new/one", "source": "tmpfs", "type": "tmpfs" },
        { "destination": "/new/two", "source": "tmpfs", "type": "tmpfs" },
        { "destination": "/bin/probe/three", "source": "tmpfs", "type": "tmpfs" },
    ]);
    let failed = change(&bundle, "add", &container.id, &mounts).failure();
    failed.says("bin/probe/three").says("ot a directory");
    assert_eq!(said(&container, "cat /proc/1/mounts"), before);
}

#[test]
fn a_created_and_a_paused_container_take_mounts() {
    require!(containers, busybox);
    beyond!(
        a_created_and_a_paused_container_take_mounts,
        [runc(NONE), crun_before("1.22", NONE)]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let one = |name: &str| json!([{ "destination": format!("/{name}"), "source": "tmpfs", "type": "tmpfs" }]);
    change(&bundle, "add", &container.id, &one("first")).success();
    container.start().success();
    assert_eq!(container.stdout.line(), "ready");
    container.call("pause", &[]).success();
    change(&bundle, "add", &container.id, &one("second")).success();
    container.call("resume", &[]).success();
    let mounted = said(
        &container,
        "grep -c -e ' /first ' -e ' /second ' /proc/1/mounts",
    );
    assert_eq!(mounted, "2");
    container.delete_by_force().success();
}

#[test]
fn links_of_the_container_lead_a_later_mount_to_what_is_in_it() {
    require!(containers, busybox);
    beyond!(
        links_of_the_container_lead_a_later_mount_to_what_is_in_it,
        [
            runc(NONE),
            crun_before("1.22", NONE),
            crun("follows no link of the container")
        ]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    let outside = bundle.scratch.dir("outside");
    symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
    symlink("../../../../../..", bundle.rootfs().join("up")).unwrap();
    symlink("/end", bundle.rootfs().join("last")).unwrap();
    bundle.dir("end");
    let container = bundle.pause();
    let mounts = json!([
        { "destination": "/absolute/new", "source": "tmpfs", "type": "tmpfs" },
        { "destination": "/up/new", "source": "tmpfs", "type": "tmpfs" },
        { "destination": "/last", "source": "tmpfs", "type": "tmpfs" },
    ]);
    change(&bundle, "add", &container.id, &mounts).success();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let inside = format!(
        "grep -c -e ' {}/new ' -e ' /new ' -e ' /end ' /proc/1/mounts",
        outside.display()
    );
    assert_eq!(said(&container, &inside), "3");
    // The same way back.
    change(&bundle, "remove", &container.id, &mounts).success();
    assert_eq!(said(&container, &format!("{inside} || true")), "0");
}

#[test]
fn a_user_namespace_reaches_a_later_mount_and_takes_no_flag_of_it_away() {
    require!(containers, userns, busybox);
    beyond!(
        a_user_namespace_reaches_a_later_mount_and_takes_no_flag_of_it_away,
        [
            runc(NONE),
            crun_before("1.22", NONE),
            crun("takes a list only")
        ]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    bundle.config.user_namespace(100_000, 65536).privileged();
    give(&bundle.rootfs(), 100_000, 100_000);
    let container = bundle.pause();
    // A directory that the container's root could not find.
    let closed = bundle.scratch.dir("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let source = bundle.scratch.dir("closed/source");
    let mounted = Mounted::tmpfs(source.clone(), MsFlags::empty());
    place::write(&source.join("file"), "reached");
    mounted.remount(MsFlags::MS_RDONLY);
    let mounts = json!([
        { "destination": "/plain", "source": source, "type": "bind", "options": ["rbind"] },
        { "destination": "/memory", "source": "tmpfs", "type": "tmpfs" },
    ]);
    change(&bundle, "add", &container.id, &mounts).success();
    // Twice: what one command has made on its way is not in the way of the next.
    let document = json!({ "mounts": mounts });
    change(&bundle, "remove", &container.id, &document).success();
    change(&bundle, "add", &container.id, &document).success();
    let script = "cat /plain/file; mount -o remount,bind,rw /plain && echo writable; stat -c ' %u' /plain/file; \
                  echo >/memory/x && mount -o remount,bind,rw /memory && echo own; true";
    assert_eq!(said(&container, script), "reached 65534\nown");
}

#[test]
fn a_later_mount_may_be_id_mapped() {
    require!(id_mapped_mounts, userns, busybox);
    beyond!(
        a_later_mount_may_be_id_mapped,
        [runc(NONE), crun_before("1.22", NONE)]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.writable();
    bundle.config.user_namespace(100_000, 65536);
    give(&bundle.rootfs(), 100_000, 100_000);
    let container = bundle.pause();
    let source = bundle.scratch.dir("source");
    place::write(&source.join("file"), "of root");
    let mounts = json!([
        { "destination": "/mapped", "source": source, "type": "bind", "options": ["bind", "idmap"] },
    ]);
    change(&bundle, "add", &container.id, &mounts).success();
    let script = "echo >/mapped/new; stat -c %u /mapped/file /mapped/new";
    assert_eq!(said(&container, script), "0\n0");
    let new = fs::metadata(source.join("new")).unwrap();
    assert_eq!(new.uid(), 0, "as on the disk");
}

#[test]
fn what_cannot_be_mounted_later_is_refused() {
    require!(containers);
    beyond!(
        what_cannot_be_mounted_later_is_refused,
        [
            runc(NONE),
            crun_before("1.22", NONE),
            crun("mounts over the root")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let refused = |id: &str, verb: &str, mounts: Value, why: &str| {
        change(&bundle, verb, id, &mounts).failure().says(why);
    };
    let one = |destination: &str| json!([{ "destination": destination, "source": "tmpfs", "type": "tmpfs" }]);
    refused(&container.id, "add", one("/"), "must not be the root");
    refused(&container.id, "remove", one("/"), "the root itself");
    refused(
        &container.id,
        "remove",
        one("/bin"),
        "unmount /bin: Invalid argument",
    );
    refused(&container.id, "remove", one("/no/such"), "unmount /no/such");
    refused(&container.id, "add", one("/proc/self/x"), "proc");
    refused(
        &container.id,
        "add",
        json!({ "mounts": "x" }),
        "mounts: invalid type",
    );
    refused(
        &container.id,
        "replace",
        one("/new"),
        "No help topic for 'mounts replace'",
    );
    container.kill("KILL").success();
    container.wait();
    refused(&container.id, "add", one("/new"), "container not running");
    bundle.config.no_namespace("mount");
    for list in ["/linux/maskedPaths", "/linux/readonlyPaths"] {
        bundle.config.set(list, json!([]));
    }
    let shared = bundle.create();
    let id = shared.id.clone();
    change(&bundle, "add", &id, &one("/new"))
        .failure()
        .says("no mount namespace of its own");
}
