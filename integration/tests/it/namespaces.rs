//! `linux.namespaces`: new ones, joined ones, the host's; and what is set inside them.

use integration::{Bundle, beyond, host, require};
use nix::mount::{MsFlags, mount, umount};
use nix::net::if_::InterfaceFlags;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::os::fd::AsRawFd;

/// As config.json and as /proc/PID/ns names them.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

#[test]
fn the_configured_namespaces_are_new_and_the_others_the_hosts() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    for (_, link) in KINDS {
        assert_ne!(
            seen.namespaces[link],
            host::namespace("self", link),
            "{link}"
        );
    }
    assert_eq!(seen.namespaces["user"], host::namespace("self", "user"));
    if require::namespace("time").is_ok() {
        assert_eq!(seen.namespaces["time"], host::namespace("self", "time"));
    }
}

#[test]
fn a_namespace_that_is_not_configured_is_the_hosts() {
    require!(containers);
    for (kind, link) in KINDS {
        if kind == "mount" {
            continue; // A test of its own.
        }
        let mut bundle = Bundle::new();
        bundle.config.no_namespace(kind);
        if kind == "uts" {
            bundle.config.remove("/hostname");
        }
        if kind == "network" {
            // sysfs shows the network devices and can only be mounted by the owner of the network namespace; root is.
            bundle.config.unmount("/sys/fs/cgroup");
        }
        let seen = bundle.report(&[]);
        assert_eq!(
            seen.namespaces[link],
            host::namespace("self", link),
            "{kind}"
        );
    }
}

#[test]
fn without_a_mount_namespace_the_mounts_are_on_the_host_until_the_container_is_deleted() {
    require!(containers);
    beyond!(
        without_a_mount_namespace_the_mounts_are_on_the_host_until_the_container_is_deleted,
        [
            runc("leaves them there, and makes those of the host slaves"),
            crun("leaves them there")
        ]
    );
    host::in_own_mounts(|| {
        let before = host::mounts();
        let mut bundle = Bundle::new();
        bundle.config.no_namespace("mount");
        bundle.config.set("/linux/maskedPaths", json!([]));
        bundle.config.set("/linux/readonlyPaths", json!([]));
        bundle.config.set("/root/readonly", json!(true));
        let rootfs = bundle.path().join("rootfs");
        let mut container = bundle.pause();
        assert_eq!(
            host::namespace(container.pid, "mnt"),
            host::namespace("thread-self", "mnt")
        );
        let mounts = host::mounts();
        let at = |path: &str| mounts.iter().find(|mount| mount.target == path);
        let root = at(rootfs.to_str().unwrap()).unwrap();
        assert!(root.options.contains("ro"), "{root:?}");
        let proc = at(rootfs.join("proc").to_str().unwrap()).unwrap();
        assert_eq!(proc.fstype, "proc");
        // The root of the mount namespace is the host's, which has no such program.
        assert_eq!(container.exec(&[], &["/bin/probe", "exit", "3"]).code(), 3);
        container.delete_by_force().success();
        assert_eq!(host::mounts(), before);
        // What fails in the middle takes its mounts along.
        bundle.config.set("/process/args", json!(["/no/such"]));
        bundle.create_fails().failure();
        assert_eq!(host::mounts(), before);
        // Nobody else's mounts are taken for the container's.
        let none = None::<&str>;
        mount(Some(&rootfs), &rootfs, none, MsFlags::MS_BIND, none).unwrap();
        let before = host::mounts();
        bundle.config.bind("/no/such", "/mnt", &["rbind"]);
        let id = integration::place::unique("others");
        bundle.call("create", &[], &id).failure().says("/no/such");
        assert_eq!(host::mounts(), before);
        umount(&rootfs).unwrap();
    });
}

#[test]
fn namespaces_of_another_container_are_joined() {
    require!(containers);
    let mut bundle = Bundle::new();
    let first = bundle.pause();
    for (kind, link) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
        ("pid", "pid"),
    ] {
        let mut second = Bundle::new();
        second
            .config
            .join_namespace(kind, &format!("/proc/{}/ns/{link}", first.pid));
        let seen = second.report(&[]);
        assert_eq!(
            seen.namespaces[link],
            host::namespace(first.pid, link),
            "{kind}"
        );
    }
}

#[test]
fn all_namespaces_of_a_pod_are_joined_at_once() {
    require!(containers);
    let mut bundle = Bundle::new();
    let first = bundle.pause();
    let mut second = Bundle::new();
    second.config.set("/hostname", "renamed");
    for (kind, link) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("pid", "pid"),
    ] {
        second
            .config
            .join_namespace(kind, &format!("/proc/{}/ns/{link}", first.pid));
    }
    let seen = second.report(&[]);
    for link in ["net", "ipc", "uts", "pid"] {
        assert_eq!(
            seen.namespaces[link],
            host::namespace(first.pid, link),
            "{link}"
        );
    }
    assert_ne!(
        seen.pid, 1,
        "process 1 of the joined namespace is the first container's"
    );
    assert_eq!(*seen.hostname, "renamed");
    assert_eq!(*first.exec_report(&[], &[]).hostname, "renamed");
}

#[test]
fn a_joined_pid_namespace_outlives_the_container() {
    require!(containers);
    let mut bundle = Bundle::new();
    let first = bundle.pause();
    let mut second = Bundle::new();
    second
        .config
        .join_namespace("pid", &format!("/proc/{}/ns/pid", first.pid));
    let mut joined = second.pause();
    assert_eq!(
        host::namespace(joined.pid, "pid"),
        host::namespace(first.pid, "pid")
    );
    joined.delete_by_force().success();
    assert!(host::alive(first.pid));
    assert_eq!(first.status(), "running");
}

#[test]
fn a_mount_namespace_is_joined() {
    require!(containers);
    // The container's root becomes that of the joined namespace, so it is one that nobody else needs.
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .arg(integration::place::probe())
        .arg("pause");
    let mut holder = integration::runtime::Running::start(command);
    assert_eq!(holder.stdout.line(), "ready");
    let mut bundle = Bundle::new();
    bundle
        .config
        .join_namespace("mount", &format!("/proc/{}/ns/mnt", holder.pid()));
    let seen = bundle.report(&[]);
    assert_eq!(seen.namespaces["mnt"], host::namespace(holder.pid(), "mnt"));
}

#[test]
fn a_namespace_path_must_exist_and_be_of_its_type() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .join_namespace("network", "/proc/self/ns/nothing");
    bundle
        .create_fails()
        .failure()
        .says("no such file or directory");
    bundle.config.join_namespace("network", "/proc/self/ns/ipc");
    bundle.create_fails().failure();
    bundle.config.join_namespace("network", "/etc/hostname");
    bundle.create_fails().failure();
}

#[test]
fn what_cannot_be_joined_is_named_with_its_reason() {
    require!(containers);
    beyond!(
        what_cannot_be_joined_is_named_with_its_reason,
        [
            runc("says what its helper said: cannot allocate memory, invalid argument"),
            crun("says what the system call said")
        ]
    );
    let mut first = Bundle::new();
    let mut gone = first.pause();
    let kept = std::fs::File::open(format!("/proc/{}/ns/pid", gone.pid)).unwrap();
    gone.delete_by_force().success();
    let path = format!("/proc/{}/fd/{}", std::process::id(), kept.as_raw_fd());
    let mut dead = Bundle::new();
    dead.config.join_namespace("pid", &path);
    dead.create_fails().says("has lost its first process");
    let mut own = Bundle::new();
    own.config.join_namespace("user", "/proc/self/ns/user");
    own.create_fails()
        .says("join the container's user namespace (it is the runtime's own): invalid argument");
}

#[test]
fn a_namespace_given_twice_is_refused() {
    require!(containers);
    beyond!(
        a_namespace_given_twice_is_refused,
        [crun_before("1.21", "takes the last one")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .push("/linux/namespaces", json!({ "type": "ipc" }));
    bundle.create_fails().failure();
}

#[test]
fn an_unknown_namespace_is_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.namespace("dreams");
    bundle.create_fails().failure().says("dreams");
}

#[test]
fn a_new_network_namespace_has_its_loopback_up() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    let names: Vec<&str> = seen.interfaces.keys().map(String::as_str).collect();
    assert_eq!(names, ["lo"]);
    assert_ne!(
        seen.interfaces["lo"] & InterfaceFlags::IFF_UP.bits() as u32,
        0
    );
}

#[test]
fn a_new_cgroup_namespace_starts_at_the_containers_cgroup() {
    require!(containers);
    let mut bundle = Bundle::new();
    assert!(bundle.report(&[]).cgroup.lines().any(|line| line == "0::/"));
    bundle.config.no_namespace("cgroup");
    let path = format!("/{}", integration::place::unique("named"));
    bundle.config.set("/linux/cgroupsPath", path.as_str());
    let seen = bundle.report(&[]);
    assert!(
        seen.cgroup.lines().any(|line| line == format!("0::{path}")),
        "{:?}",
        seen.cgroup
    );
}

#[test]
fn hostname_and_domainname_are_set_in_the_container_only() {
    require!(containers);
    beyond!(
        hostname_and_domainname_are_set_in_the_container_only,
        [runc_before("1.2", "knows no domainname")]
    );
    let own = nix::sys::utsname::uname().unwrap();
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/hostname", "inside")
        .set("/domainname", "example.org");
    let seen = bundle.report(&[]);
    assert_eq!(
        (seen.hostname.as_str(), seen.domainname.as_str()),
        ("inside", "example.org")
    );
    assert_eq!(
        nix::sys::utsname::uname().unwrap().nodename(),
        own.nodename()
    );
}

#[test]
fn hostname_and_domainname_need_a_uts_namespace() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("uts");
    bundle.create_fails().failure().says("hostname");
}

#[test]
fn a_domainname_needs_a_uts_namespace() {
    require!(containers);
    beyond!(
        a_domainname_needs_a_uts_namespace,
        [runc_before("1.2", "knows no domainname")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .no_namespace("uts")
        .remove("/hostname")
        .set("/domainname", "example.org");
    bundle.create_fails().failure().says("domainname");
}

#[test]
fn a_time_namespace_shifts_the_clocks() {
    require!(containers, namespace("time"));
    beyond!(
        a_time_namespace_shifts_the_clocks,
        [
            runc_before("1.2", "knows no time namespaces"),
            crun_before("1.9", "its first process dies")
        ]
    );
    let mut bundle = Bundle::new();
    let offsets = json!({ "monotonic": { "secs": 7881, "nanosecs": 2718281 }, "boottime": { "secs": 1337000, "nanosecs": 3141519 } });
    bundle
        .config
        .namespace("time")
        .set("/linux/timeOffsets", offsets);
    let now = |clock| clock_gettime(clock).unwrap().tv_sec();
    let before = (now(ClockId::CLOCK_MONOTONIC), now(ClockId::CLOCK_BOOTTIME));
    let seen = bundle.report(&[]);
    let after = (now(ClockId::CLOCK_MONOTONIC), now(ClockId::CLOCK_BOOTTIME));
    assert_ne!(seen.namespaces["time"], host::namespace("self", "time"));
    assert!(
        (before.0 + 7881..=after.0 + 7882).contains(&*seen.monotonic),
        "{:?} {before:?}",
        seen.monotonic
    );
    assert!(
        (before.1 + 1_337_000..=after.1 + 1_337_001).contains(&*seen.boottime),
        "{:?} {before:?}",
        seen.boottime
    );
}

#[test]
fn a_time_namespace_belongs_to_the_new_user_namespace() {
    require!(containers, userns, namespace("time"));
    beyond!(
        a_time_namespace_belongs_to_the_new_user_namespace,
        [
            runc_before("1.2", "knows no time namespaces"),
            crun("may not write the offsets, or its first process dies")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .user_namespace(100_000, 65536)
        .namespace("time")
        .set(
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 777_777 } }),
        );
    let before = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().tv_sec();
    assert!(*bundle.report(&[]).boottime >= before + 777_777);
}

#[test]
fn a_time_namespace_is_joined() {
    require!(containers, namespace("time"));
    beyond!(
        a_time_namespace_is_joined,
        [
            runc_before("1.2", "knows no time namespaces"),
            crun_before("1.9", "its first process dies"),
            crun_from("1.9", "loses its process when it joins one")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .namespace("time")
        .set("/linux/timeOffsets", json!({ "boottime": { "secs": 777 } }));
    let first = bundle.pause();
    let mut second = Bundle::new();
    second
        .config
        .join_namespace("time", &format!("/proc/{}/ns/time", first.pid));
    assert_eq!(
        second.report(&[]).namespaces["time"],
        host::namespace(first.pid, "time")
    );
}

#[test]
fn time_offsets_need_a_time_namespace() {
    require!(containers, namespace("time"));
    beyond!(
        time_offsets_need_a_time_namespace,
        [
            runc_before("1.2", "knows no time namespaces"),
            crun_before("1.21", "ignores them")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/timeOffsets", json!({ "boottime": { "secs": 1 } }));
    bundle.create_fails().failure().says("time");
}
