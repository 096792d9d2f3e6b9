//! What a user's container can mount, and what takes the place of what it cannot.

use integration::{Bundle, Kind, beyond, place, require, user};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::PathBuf;

#[test]
fn devices_are_the_hosts() {
    require!(unprivileged_user);
    let seen = Bundle::of_user().report(&[
        "stat=/dev/null",
        "stat=/dev/urandom",
        "stat=/dev/tty",
        "try=write:/dev/null",
        "try=read:/dev/urandom",
        "stat=/dev/ptmx",
    ]);
    for (path, rdev) in [
        ("/dev/null", (1, 3)),
        ("/dev/urandom", (1, 9)),
        ("/dev/tty", (5, 0)),
    ] {
        assert_eq!(
            (seen.stat(path).kind, seen.stat(path).rdev),
            (Kind::CharDevice, rdev),
            "{path}"
        );
        assert!(seen.mount(path).is_some(), "{path} is no mount");
    }
    assert_eq!(seen.tried("write:/dev/null"), "ok");
    assert_eq!(seen.tried("read:/dev/urandom"), "ok");
    assert_eq!(seen.stat("/dev/ptmx").link.as_deref(), Some("pts/ptmx"));
}

#[test]
fn a_listed_device_is_bound_if_it_is_the_hosts() {
    require!(unprivileged_user);
    beyond!(
        a_listed_device_is_bound_if_it_is_the_hosts,
        [crun_before(
            "1.21",
            "wants to make it in the host's mount namespace"
        )]
    );
    let mut bundle = Bundle::of_user();
    let device = |path: &str, minor: u32| serde_json::json!([{ "path": path, "type": "c", "major": 1, "minor": minor }]);
    bundle.config.set("/linux/devices", device("/dev/full", 7));
    assert_eq!(
        bundle.report(&["stat=/dev/full"]).stat("/dev/full").rdev,
        (1, 7)
    );
    bundle
        .config
        .set("/linux/devices", device("/dev/there-is-none", 7));
    bundle.create_fails().failure().says("/dev/there-is-none");
}

#[test]
fn the_sysfs_of_the_host_serves_where_the_network_is_the_hosts() {
    require!(unprivileged_user);
    beyond!(
        the_sysfs_of_the_host_serves_where_the_network_is_the_hosts,
        [
            runc("has no substitute for it"),
            crun("binds it with the flags of the host's")
        ]
    );
    let mut bundle = Bundle::of_user();
    let options = ["nosuid", "noexec", "nodev", "ro"];
    bundle
        .config
        .unmount("/sys")
        .mount("/sys", "sysfs", "sysfs", &options);
    let seen = bundle.report(&["try=mkdir:/sys/x", "ls=/sys"]);
    assert_eq!(seen.mounted("/sys").fstype, "sysfs");
    assert!(
        seen.mounted("/sys")
            .has(&["ro", "nosuid", "nodev", "noexec"])
    );
    assert!(seen.lists["/sys"].iter().any(|name| name == "kernel"));
    bundle.config.namespace("network");
    let seen = bundle.report(&["ls=/sys/class/net"]);
    assert_eq!(*seen.lists["/sys/class/net"], ["lo"]);
}

#[test]
fn the_message_queues_of_the_host_serve_where_the_ipc_namespace_is_the_hosts() {
    require!(unprivileged_user, path("/dev/mqueue"));
    beyond!(
        the_message_queues_of_the_host_serve_where_the_ipc_namespace_is_the_hosts,
        [runc("cannot mount them"), crun("cannot mount them")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.no_namespace("ipc");
    let _mqueue = (integration::host::mounts()
        .iter()
        .all(|mount| mount.target != "/dev/mqueue"))
    .then(|| Mounted::new("/dev/mqueue".into(), "mqueue", MsFlags::empty()));
    assert_eq!(bundle.report(&[]).mounted("/dev/mqueue").fstype, "mqueue");
}

#[test]
fn the_procfs_of_the_host_serves_where_the_pid_namespace_is_the_hosts() {
    require!(unprivileged_user);
    beyond!(
        the_procfs_of_the_host_serves_where_the_pid_namespace_is_the_hosts,
        [runc("cannot mount it"), crun("cannot mount it")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.no_namespace("pid");
    let seen = bundle.report(&["try=write:/proc/sysrq-trigger"]);
    assert_eq!(seen.mounted("/proc").fstype, "proc");
    assert_eq!(
        seen.namespaces["pid"],
        integration::host::namespace("self", "pid")
    );
    assert_ne!(seen.tried("write:/proc/sysrq-trigger"), "ok");
}

#[test]
fn flags_that_the_host_set_stay_and_others_are_set() {
    require!(unprivileged_user);
    beyond!(
        flags_that_the_host_set_stay_and_others_are_set,
        [runc_before("1.2", "fails to remount")]
    );
    let mut bundle = Bundle::of_user();
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let source = Mounted::new(bundle.scratch.dir("host"), "tmpfs", locked);
    bundle.dir("more");
    bundle.config.bind(&source.0, "/more", &["ro"]);
    let mount = bundle.report(&[]).mounted("/more").clone();
    assert!(
        mount.has(&["ro", "nosuid", "nodev", "noexec"]),
        "{:?}",
        mount.options
    );
}

#[test]
fn a_flag_that_the_host_set_cannot_be_cleared() {
    require!(unprivileged_user);
    beyond!(
        a_flag_that_the_host_set_cannot_be_cleared,
        [runc_before("1.2", "leaves it set"), crun("leaves it set")]
    );
    let mut bundle = Bundle::of_user();
    let source = Mounted::new(
        bundle.scratch.dir("host"),
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_RDONLY,
    );
    bundle.dir("more");
    bundle.config.bind(&source.0, "/more", &["rw"]);
    bundle.create_fails().failure().says("/more");
}

#[test]
fn sources_that_only_the_user_can_reach_are_bound() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let home = bundle.scratch.dir("home");
    bundle.scratch.file("home/file", "secret");
    place::give(&home, user::UID, user::GID);
    for closed in [home.clone(), bundle.path()] {
        std::fs::set_permissions(closed, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
    }
    place::give(&bundle.dir("more"), user::UID, user::GID);
    bundle.config.bind(home.join("file"), "/more/file", &["ro"]);
    assert_eq!(
        *bundle.report(&["cat=/more/file"]).files["/more/file"],
        "secret"
    );
}

#[test]
fn what_the_user_may_not_read_is_not_read_in_the_container() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let secret = bundle.scratch.file("roots/secret", "of root");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(secret, closed).unwrap();
    bundle.scratch.file("roots/plain", "of root");
    bundle.dir("more");
    let source = bundle.scratch.path().join("roots");
    bundle.config.bind(source, "/more", &["ro"]).privileged();
    let seen = bundle.report(&["try=read:/more/secret", "try=read:/more/plain"]);
    assert_eq!(seen.tried("read:/more/secret"), "EACCES");
    assert_eq!(seen.tried("read:/more/plain"), "ok");
}

#[test]
fn a_bind_that_would_uncover_what_the_host_covered_says_so() {
    require!(unprivileged_user);
    beyond!(
        a_bind_that_would_uncover_what_the_host_covered_says_so,
        [runc("gives the errno alone"), crun("gives the errno alone")]
    );
    let mut bundle = Bundle::of_user();
    let below = bundle.scratch.dir("host/below");
    bundle.scratch.file("host/below/covered", "");
    let _cover = Mounted::new(below, "tmpfs", MsFlags::empty());
    bundle.dir("more");
    let source = bundle.scratch.path().join("host");
    bundle.config.bind(&source, "/more", &["ro"]);
    bundle.create_fails().failure().says("rbind");
    bundle
        .config
        .unmount("/more")
        .bind(&source, "/more", &["rbind", "ro"]);
    assert!(bundle.report(&["ls=/more/below"]).lists["/more/below"].is_empty());
}

#[test]
fn masked_and_read_only_paths_hold() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    bundle.file("etc/secret", "hidden");
    bundle
        .config
        .push("/linux/maskedPaths", "/etc/secret")
        .push("/linux/maskedPaths", "/home");
    bundle
        .config
        .push("/linux/readonlyPaths", "/tmp")
        .writable();
    let seen = bundle.report(&[
        "cat=/etc/secret",
        "ls=/home",
        "try=create:/tmp/x",
        "try=create:/root/x",
    ]);
    assert_eq!(*seen.files["/etc/secret"], "");
    assert!(seen.lists["/home"].is_empty());
    assert_eq!(seen.tried("create:/tmp/x"), "EROFS");
    assert_eq!(seen.tried("create:/root/x"), "ok");
}

#[test]
fn an_overlay_is_the_root() {
    require!(unprivileged_user);
    beyond!(
        an_overlay_is_the_root,
        [runc("mounts no overlay"), crun("mounts no overlay")]
    );
    let mut bundle = Bundle::of_user();
    let (base, top) = (
        bundle.scratch.path().join("base"),
        bundle.scratch.dir("top"),
    );
    std::fs::rename(bundle.rootfs(), &base).unwrap();
    std::fs::create_dir(bundle.rootfs()).unwrap();
    bundle
        .scratch
        .file("top/etc/passwd", "root:x:0:0::/elsewhere:/bin/sh\n");
    for name in ["writable/upper", "writable/work"] {
        bundle.scratch.dir(name);
    }
    place::give(bundle.scratch.path(), user::UID, user::GID);
    let name = |name: &str| bundle.scratch.name(name);
    let annotations = serde_json::json!({
        "dev.caisson.overlay.lower": format!("{}:{}", top.display(), base.display()),
        "dev.caisson.overlay.upper": name("writable/upper"),
        "dev.caisson.overlay.work": name("writable/work"),
    });
    bundle.config.writable().set("/annotations", annotations);
    bundle.config.probe(&["write-file", "/etc/written", "9"]);
    bundle.run().success();
    let written =
        std::fs::metadata(bundle.scratch.path().join("writable/upper/etc/written")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&written), user::UID);
    let seen = bundle.report(&["stat=/etc/written", "stat=/bin/probe"]);
    assert_eq!(seen.mounted("/").fstype, "overlay");
    assert_eq!(seen.stat("/etc/written").size, 9);
    assert_eq!(seen.var("HOME"), Some("/elsewhere"));
    bundle
        .config
        .remove("/annotations/dev.caisson.overlay.upper")
        .remove("/annotations/dev.caisson.overlay.work");
    let seen = bundle.report(&["try=create:/etc/x"]);
    assert_eq!(seen.tried("create:/etc/x"), "ok");
}

/// A mount of the test's own mount namespace, taken away when dropped.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn new(target: PathBuf, kind: &str, flags: MsFlags) -> Mounted {
        mount(Some("it"), &target, Some(kind), flags, None::<&str>).unwrap();
        Mounted(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok(); // The scratch directory's removal would show what remained.
    }
}
