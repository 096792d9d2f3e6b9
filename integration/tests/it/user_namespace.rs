//! Containers in a user namespace of their own, made by root.

use integration::place::unique;
use integration::{Bundle, Kind, beyond, host, require};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn root_in_the_container_is_another_user_on_the_host() {
    require!(containers, userns);
    let mut bundle = mapped();
    let container = bundle.pause();
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    assert!(
        status.contains("Gid:\t200000\t200000\t200000\t200000"),
        "{status}"
    );
    assert_ne!(
        host::namespace(container.pid, "user"),
        host::namespace("self", "user")
    );
}

#[test]
fn ids_are_mapped_as_configured() {
    require!(containers, userns);
    let mut bundle = mapped();
    let seen = bundle.report(&[]);
    assert_eq!((seen.uid, seen.gid), ([0; 3], [0; 3]));
    assert_eq!(*seen.uid_map, [[0, 100_000, 65536]]);
    assert_eq!(*seen.gid_map, [[0, 200_000, 65536]]);
    assert_eq!(*seen.setgroups, "allow");

    let uids = json!([{ "containerID": 0, "hostID": 300_000, "size": 1000 }, { "containerID": 5000, "hostID": 310_000, "size": 10 }]);
    bundle
        .config
        .set("/linux/uidMappings", uids)
        .set("/process/user/uid", 5009);
    let seen = bundle.report(&[]);
    assert_eq!(*seen.uid_map, [[0, 300_000, 1000], [5000, 310_000, 10]]);
    assert_eq!(seen.uid, [5009; 3]);
}

#[test]
fn other_users_and_groups_work_in_a_user_namespace() {
    require!(containers, userns);
    let mut bundle = mapped();
    bundle.config.set(
        "/process/user",
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 2000] }),
    );
    let seen = bundle.report(&[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.groups, [5, 2000]);
}

#[test]
fn capabilities_are_those_of_the_namespace() {
    require!(containers, userns);
    let mut bundle = mapped();
    let sets = ["bounding", "effective", "permitted"];
    bundle
        .config
        .writable()
        .capabilities(&sets, &["CAP_SYS_ADMIN", "CAP_CHOWN"]);
    let seen = bundle.report(&["try=mount:/tmp", "try=hostname:inside"]);
    assert_eq!(seen.tried("mount:/tmp"), "ok");
    assert_eq!(seen.tried("hostname:inside"), "ok");
    assert!(seen.caps.effective.contains("CAP_SYS_ADMIN"));
}

#[test]
fn files_of_the_host_are_nobodys() {
    require!(containers, userns);
    let seen = mapped().report(&["stat=/etc/passwd", "stat=/dev"]);
    assert_eq!(
        (seen.stat("/etc/passwd").uid, seen.stat("/etc/passwd").gid),
        (65534, 65534)
    );
    assert_eq!(seen.stat("/dev").uid, 0);
}

#[test]
fn devices_work_in_a_user_namespace() {
    require!(containers, userns);
    let names = ["null", "zero", "full", "tty", "random", "urandom"];
    let questions: Vec<String> = names
        .iter()
        .flat_map(|name| [format!("stat=/dev/{name}"), format!("try=read:/dev/{name}")])
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let seen = mapped().report(
        &[
            &questions[..],
            &[
                "try=write:/dev/null",
                "stat=/dev/ptmx",
                "stat=/dev/pts/ptmx",
            ],
        ]
        .concat(),
    );
    for (name, rdev) in names
        .iter()
        .zip([(1, 3), (1, 5), (1, 7), (5, 0), (1, 8), (1, 9)])
    {
        let stat = seen.stat(&format!("/dev/{name}"));
        assert_eq!(
            (stat.kind, stat.rdev, stat.mode),
            (Kind::CharDevice, rdev, 0o666),
            "{name}"
        );
        if *name != "tty" {
            assert_eq!(seen.tried(&format!("read:/dev/{name}")), "ok", "{name}");
        }
    }
    assert_eq!(seen.tried("write:/dev/null"), "ok");
    assert_eq!(seen.stat("/dev/ptmx").link.as_deref(), Some("pts/ptmx"));
    assert_eq!(seen.stat("/dev/pts/ptmx").mode, 0o666);
}

#[test]
fn the_usual_file_systems_are_mounted_in_a_user_namespace() {
    require!(containers, userns);
    let seen = mapped().report(&[]);
    for (target, fstype) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
    ] {
        assert_eq!(seen.mounted(target).fstype, fstype, "{target}");
    }
}

#[test]
fn message_queues_are_those_of_the_containers_root() {
    require!(containers, userns);
    let seen = mapped().report(&["stat=/dev/mqueue", "stat=/dev/shm"]);
    assert_eq!(seen.stat("/dev/mqueue").uid, 0);
    assert_eq!(seen.stat("/dev/shm").uid, 0);
}

#[test]
fn a_user_that_is_not_mapped_is_refused() {
    require!(containers, userns);
    let mut bundle = mapped();
    bundle.config.set("/process/user/uid", 70_000);
    bundle.create_fails().failure();
    bundle
        .config
        .set("/process/user", json!({ "uid": 0, "gid": 70_000 }));
    bundle.create_fails().failure();
    bundle.config.set(
        "/process/user",
        json!({ "uid": 0, "gid": 0, "additionalGids": [70_000] }),
    );
    bundle.create_fails().failure();
}

#[test]
fn mappings_without_a_user_namespace_change_nothing() {
    require!(containers, userns);
    let mut bundle = mapped();
    bundle.config.no_namespace("user");
    let seen = bundle.report(&[]);
    assert_eq!(seen.namespaces["user"], host::namespace("self", "user"));
    assert_eq!(*seen.uid_map, [[0, 0, u64::from(u32::MAX)]]);
}

#[test]
fn a_user_namespace_of_another_container_is_joined() {
    require!(containers, userns);
    beyond!(
        a_user_namespace_of_another_container_is_joined,
        [runc_before("1.1.15", "wants mappings even then")]
    );
    let mut bundle = mapped();
    let first = bundle.pause();
    let mut second = Bundle::new();
    second
        .config
        .join_namespace("user", &format!("/proc/{}/ns/user", first.pid));
    let seen = second.report(&[]);
    assert_eq!(seen.namespaces["user"], host::namespace(first.pid, "user"));
    assert_eq!(*seen.uid_map, [[0, 100_000, 65536]]);
    assert_eq!(seen.uid, [0; 3]);
}

#[test]
fn exec_enters_the_user_namespace() {
    require!(containers, userns);
    let mut bundle = mapped();
    let container = bundle.pause();
    let seen = container.exec_report(&["--user", "1000:1001"], &[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.uid_map, [[0, 100_000, 65536]]);
    assert_eq!(
        seen.namespaces["user"],
        host::namespace(container.pid, "user")
    );
}

#[test]
fn the_parked_process_cannot_be_traced_from_inside() {
    require!(containers, userns);
    beyond!(
        the_parked_process_cannot_be_traced_from_inside,
        [
            runc_race("leaves its waiting process dumpable on some machines"),
            crun_race("leaves its waiting process dumpable on some machines")
        ]
    );
    // CVE-2019-5736: what runs before the container's program must not be open to the container's users.
    let bundle = mapped();
    let container = bundle.create();
    let exe = std::fs::metadata(format!("/proc/{}/exe", container.pid));
    let owner = std::fs::metadata(format!("/proc/{}/stat", container.pid)).unwrap();
    assert!(exe.is_ok());
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&owner),
        0,
        "a process that is not dumpable belongs to root in /proc"
    );
}

#[test]
fn who_wanted_the_command_to_end_with_him_is_obeyed() {
    require!(containers, userns, program("setpriv"));
    let mut bundle = mapped();
    let shared = bundle.scratch.dir("shared");
    bundle.dir("shared");
    bundle
        .config
        .bind(&shared, "/shared", &["ro"])
        .probe(&["count"]);
    // It looks, with other ids, for what the container's root can reach, and the kernel forgets the signal then.
    let script = "setpriv --pdeathsig TERM -- \"$@\"; true";
    let wrapper = ["/bin/sh", "-c", script, "sh"].map(Into::into);
    bundle.runtime.wrapper.extend(wrapper);
    let id = unique("orphan");
    let mut running = bundle.start("run", &[], &id);
    assert_eq!(running.stdout.line(), "ready");
    running.signal(Signal::SIGKILL);
    // The command passes the signal on, the program ends by it, and the command after that.
    running.stdout.rest();
    running.wait_for_exit();
    bundle.runtime.wrapper.clear();
    bundle.assert_gone(&id);
}

#[test]
fn without_pivot_what_is_locked_of_the_host_is_covered() {
    require!(containers, userns);
    beyond!(
        without_pivot_what_is_locked_of_the_host_is_covered,
        [runc_race("leaves /proc as it is on some machines")]
    );
    let mut bundle = mapped();
    // What it leaves behind stays in the root that the container leaves, where nobody else can look.
    let script = "exec </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; sleep 1000 &";
    let hook =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }]);
    bundle
        .config
        .set("/hooks/createContainer", hook)
        .probe(&["pause"]);
    let container = bundle.create_with(&["--no-pivot"]).unwrap();
    let processes = host::cgroup_file(&container.cgroup(), "cgroup.procs");
    let init = container.pid.to_string();
    let left = processes.lines().find(|pid| *pid != init).unwrap();
    let root = format!("/proc/{left}/root");
    assert!(std::fs::read_dir(format!("{root}/usr")).unwrap().count() > 0);
    for place in ["proc", "sys"] {
        let entries = std::fs::read_dir(format!("{root}/{place}")).unwrap();
        assert_eq!(entries.count(), 0, "{place}");
    }
}

fn mapped() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    bundle.config.set(
        "/linux/gidMappings",
        json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]),
    );
    bundle
}
