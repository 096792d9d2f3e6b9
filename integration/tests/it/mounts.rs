//! `mounts` of config.json: what is mounted where, and with which flags.

use crate::binds::Mounted;
use integration::place::unique;
use integration::seen::Mount;
use integration::{Bundle, Kind, beyond, host, require};
use nix::mount::MsFlags;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn a_file_system_is_remounted_where_it_is() {
    require!(containers);
    let mut bundle = Bundle::new();
    let kept = bundle.file("kept", "kept");
    bundle
        .config
        .mount("/data", "tmpfs", "tmpfs", &["mode=700"])
        .bind(&kept, "/data/kept", &[])
        .mount("/data", "tmpfs", "tmpfs", &["remount", "nosuid", "size=2m"])
        .mount("/dev/shm", "tmpfs", "shm", &["remount", "ro"])
        .mount("/proc", "proc", "proc", &["remount", "ro", "nosuid"]);
    let seen = bundle.report(&["cat=/data/kept", "try=create:/dev/shm/x"]);
    assert_eq!(*seen.files["/data/kept"], "kept");
    assert_eq!(seen.tried("create:/dev/shm/x"), "EROFS");
    for (target, options, of_superblock) in [
        (
            "/data",
            &["rw", "nosuid"][..],
            &["size=2048k", "mode=700"][..],
        ),
        ("/dev/shm", &["ro"], &["size=65536k"]),
        ("/proc", &["ro", "nosuid"], &[]),
    ] {
        let all = seen.mounts.iter().filter(|mount| mount.target == target);
        assert_eq!(all.count(), 1, "{target}");
        let mount = seen.mounted(target);
        assert!(mount.has(options), "{target}: {:?}", mount.options);
        for option in of_superblock {
            assert!(mount.super_options.contains(*option), "{target}: {option}");
        }
    }
}

#[test]
fn what_is_bound_is_not_remounted_for_the_host_too() {
    // Others change the host's file system.
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let path = bundle.scratch.dir("source");
    let _source = Mounted::tmpfs(path.clone(), MsFlags::empty());
    symlink("data", bundle.rootfs().join("link")).unwrap();
    bundle
        .config
        .mount("/link", "tmpfs", "tmpfs", &[])
        .bind(&path, "/data", &[])
        .mount("/link", "tmpfs", "none", &["remount", "ro"]);
    let seen = bundle.report(&["try=create:/data/x"]);
    assert_eq!(seen.tried("create:/data/x"), "EROFS");
    fs::File::create_new(path.join("x")).unwrap();
    bundle
        .config
        .mount("/link", "tmpfs", "none", &["remount", "size=4k"]);
    bundle
        .create_fails()
        .failure()
        .says("only the mount's flags are changed");
}

#[test]
fn the_default_mounts_are_there_with_their_options() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    for (target, fstype, options) in [
        ("/proc", "proc", &["rw"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid"]),
        ("/dev/pts", "devpts", &["rw", "nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec"]),
        (
            "/dev/mqueue",
            "mqueue",
            &["rw", "nosuid", "nodev", "noexec"],
        ),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        (
            "/sys/fs/cgroup",
            "cgroup2",
            &["ro", "nosuid", "nodev", "noexec", "relatime"],
        ),
    ] {
        let mount = seen.mounted(target);
        assert_eq!(mount.fstype, fstype, "{target}");
        assert!(mount.has(options), "{target}: {:?}", mount.options);
    }
    let mode = |target: &str, option: &str| {
        assert!(
            seen.mounted(target).super_options.contains(option),
            "{target} {option}"
        )
    };
    mode("/dev", "mode=755");
    mode("/dev", "size=65536k");
    mode("/dev/pts", "gid=5");
    mode("/dev/pts", "mode=620");
    mode("/dev/pts", "ptmxmode=666");
    mode("/dev/shm", "size=65536k");
}

#[test]
fn the_container_sees_its_own_mounts_only() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    let root = &seen.mounts[0];
    assert!(
        seen.mounts.iter().any(|mount| mount.target == "/"),
        "{root:?}"
    );
    let host = host::mounts();
    let foreign =
        |mount: &&Mount| mount.target != "/" && host.iter().any(|other| other.id == mount.id);
    assert_eq!(seen.mounts.iter().find(foreign), None);
}

#[test]
fn the_host_sees_none_of_the_containers_mounts() {
    require!(containers);
    let before: Vec<u32> = host::mounts().iter().map(|mount| mount.id).collect();
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let ours = |mount: &&Mount| {
        !before.contains(&mount.id)
            && mount
                .target
                .contains(bundle.scratch.path().to_str().unwrap())
    };
    assert_eq!(host::mounts().iter().find(ours), None);
    assert_eq!(container.status(), "running");
}

#[test]
fn each_flag_is_set() {
    require!(containers);
    let cases = [
        ("ro", "ro"),
        ("rw", "rw"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("relatime", "relatime"),
    ];
    let mut bundle = Bundle::new();
    for (option, _) in cases {
        bundle
            .config
            .mount(&format!("/tmp/{option}"), "tmpfs", "tmpfs", &[option]);
    }
    let bundle = writable_tmp(bundle);
    let seen = bundle.report(&[]);
    for (option, shown) in cases {
        let mount = seen.mounted(&format!("/tmp/{option}"));
        assert!(mount.has(&[shown]), "{option}: {:?}", mount.options);
    }
}

#[test]
fn strictatime_and_the_last_of_opposites_win() {
    require!(containers);
    beyond!(
        strictatime_and_the_last_of_opposites_win,
        [crun("an option is not taken back by its opposite")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .mount("/tmp/strict", "tmpfs", "tmpfs", &["strictatime"]);
    bundle.config.mount(
        "/tmp/on",
        "tmpfs",
        "tmpfs",
        &[
            "nosuid", "suid", "nodev", "dev", "noexec", "exec", "ro", "rw",
        ],
    );
    bundle.config.mount(
        "/tmp/off",
        "tmpfs",
        "tmpfs",
        &[
            "suid", "nosuid", "dev", "nodev", "exec", "noexec", "rw", "ro",
        ],
    );
    let seen = writable_tmp(bundle).report(&[]);
    let strict = &seen.mounted("/tmp/strict").options;
    assert!(
        !strict.contains("relatime") && !strict.contains("noatime"),
        "{strict:?}"
    );
    let on = &seen.mounted("/tmp/on").options;
    assert!(
        ["nosuid", "nodev", "noexec", "ro"]
            .iter()
            .all(|option| !on.contains(*option)),
        "{on:?}"
    );
    assert!(
        seen.mounted("/tmp/off")
            .has(&["nosuid", "nodev", "noexec", "ro"])
    );
}

#[test]
fn options_of_the_file_system_are_synchronous_and_lazy_as_configured() {
    require!(containers);
    let mut bundle = Bundle::new();
    for option in ["sync", "dirsync", "lazytime", "mand"] {
        bundle
            .config
            .mount(&format!("/tmp/{option}"), "tmpfs", "tmpfs", &[option]);
    }
    let seen = writable_tmp(bundle).report(&[]);
    for option in ["sync", "dirsync", "lazytime"] {
        let mount = seen.mounted(&format!("/tmp/{option}"));
        assert!(
            mount.super_options.contains(option),
            "{option}: {:?}",
            mount.super_options
        );
    }
}

#[test]
fn what_is_mounted_read_only_is_filled_first() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.unmount("/dev").unmount("/dev/mqueue");
    bundle.config.0["mounts"].as_array_mut().unwrap().insert(
        0,
        serde_json::json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "ro"] }),
    );
    bundle
        .config
        .mount("/tmp", "tmpfs", "tmpfs", &["ro"])
        .mount("/tmp/below", "tmpfs", "tmpfs", &[]);
    let seen = bundle.report(&[
        "stat=/dev/null",
        "try=create:/dev/x",
        "try=create:/tmp/x",
        "try=create:/tmp/below/x",
    ]);
    assert_eq!(seen.stat("/dev/null").kind, Kind::CharDevice);
    assert_eq!(seen.tried("create:/dev/x"), "EROFS");
    assert_eq!(seen.tried("create:/tmp/x"), "EROFS");
    assert_eq!(seen.tried("create:/tmp/below/x"), "ok");
}

/// The kernel lets a user namespace mount sysfs only with a network namespace of its own.
#[test]
fn sysfs_of_the_host_is_bound_where_the_container_may_not_mount_it() {
    require!(containers, userns);
    beyond!(
        sysfs_of_the_host_is_bound_where_the_container_may_not_mount_it,
        [
            runc("has no substitute for it"),
            crun("binds it with the flags of the host's")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .user_namespace(100_000, 65536)
        .no_namespace("network");
    let seen = bundle.report(&["ls=/sys/class/net"]);
    assert_eq!(seen.mounted("/sys").fstype, "sysfs");
    assert!(
        seen.mounted("/sys")
            .has(&["ro", "nosuid", "nodev", "noexec"])
    );
    assert!(seen.lists["/sys/class/net"].contains(&"lo".to_owned()));
}

/// Words that name what is so anyway, and those that the kernel keeps to itself.
#[test]
fn every_other_word_of_the_specification_is_taken() {
    require!(containers);
    beyond!(
        every_other_word_of_the_specification_is_taken,
        [
            runc("passes some to the file system"),
            crun("passes some to the file system")
        ]
    );
    let words = [
        "async",
        "defaults",
        "dev",
        "diratime",
        "exec",
        "iversion",
        "loud",
        "noiversion",
        "nolazytime",
        "nomand",
        "norelatime",
        "nostrictatime",
        "silent",
        "suid",
        "symfollow",
    ];
    let undone = [
        "noatime",
        "nodiratime",
        "nosymfollow",
        "atime",
        "diratime",
        "symfollow",
    ];
    let mut bundle = Bundle::new();
    for word in words {
        bundle
            .config
            .mount(&format!("/tmp/{word}"), "tmpfs", "tmpfs", &[word]);
    }
    bundle
        .config
        .mount("/tmp/undone", "tmpfs", "tmpfs", &undone);
    let seen = writable_tmp(bundle).report(&[]);
    for target in words.iter().chain(&["undone"]) {
        let options = &seen.mounted(&format!("/tmp/{target}")).options;
        let expected = ["relatime", "rw"];
        assert!(
            options
                .iter()
                .all(|option| expected.contains(&option.as_str())),
            "{target}: {options:?}"
        );
    }
}

#[test]
fn nosymfollow_is_a_flag() {
    require!(containers);
    beyond!(
        nosymfollow_is_a_flag,
        [crun("passes it on to the file system")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .mount("/tmp/plain", "tmpfs", "tmpfs", &["nosymfollow"]);
    bundle
        .config
        .bind(bundle.path(), "/tmp/bound", &["nosymfollow", "ro"]);
    let seen = writable_tmp(bundle).report(&[]);
    for target in ["/tmp/plain", "/tmp/bound"] {
        assert!(
            seen.mounted(target).has(&["nosymfollow"]),
            "{:?}",
            seen.mounted(target).options
        );
    }
}

#[test]
fn what_is_no_flag_is_data_for_the_file_system() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.mount(
        "/tmp/data",
        "tmpfs",
        "tmpfs",
        &[
            "size=1m",
            "nosuid",
            "nr_inodes=77",
            "mode=0751",
            "uid=1000",
            "gid=1001",
        ],
    );
    let seen = writable_tmp(bundle).report(&["stat=/tmp/data"]);
    let mount = seen.mounted("/tmp/data");
    for option in [
        "size=1024k",
        "nr_inodes=77",
        "mode=751",
        "uid=1000",
        "gid=1001",
    ] {
        assert!(
            mount.super_options.contains(option),
            "{option}: {:?}",
            mount.super_options
        );
    }
    let stat = seen.stat("/tmp/data");
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o751, 1000, 1001));
}

#[test]
fn options_that_the_file_system_does_not_know_are_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .mount("/tmp/bad", "tmpfs", "tmpfs", &["flavour=strawberry"]);
    writable_tmp(bundle)
        .create_fails()
        .failure()
        .says("tmp/bad");
}

#[test]
fn a_file_system_that_the_kernel_does_not_know_is_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.mount("/tmp/bad", "strawberryfs", "none", &[]);
    writable_tmp(bundle)
        .create_fails()
        .failure()
        .says("tmp/bad");
}

#[test]
fn a_tmpfs_takes_the_mode_of_the_directory_it_covers() {
    require!(containers);
    beyond!(
        a_tmpfs_takes_the_mode_of_the_directory_it_covers,
        [crun_before("1.21", "leaves the kernel default")]
    );
    let mut bundle = Bundle::new();
    let covered = bundle.dir("covered");
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o1710)).unwrap();
    bundle.config.mount("/covered", "tmpfs", "tmpfs", &[]);
    assert_eq!(
        bundle.report(&["stat=/covered"]).stat("/covered").mode,
        0o1710
    );
}

#[test]
fn tmpcopyup_fills_a_tmpfs_with_what_it_covers() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.file("covered/sub/file", "content\n");
    let script = bundle.file("covered/script", "#!/bin/probe echo\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4750)).unwrap();
    integration::place::give_one(&script, 1000, 1001);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("sub/file", bundle.rootfs().join("covered/link")).unwrap();
    bundle
        .config
        .mount("/covered", "tmpfs", "tmpfs", &["tmpcopyup", "mode=0755"]);
    let seen = bundle.report(&[
        "cat=/covered/sub/file",
        "stat=/covered/script",
        "stat=/covered/link",
        "ls=/covered",
        "try=create:/covered/new",
    ]);
    assert_eq!(seen.mounted("/covered").fstype, "tmpfs");
    assert_eq!(*seen.files["/covered/sub/file"], "content\n");
    assert_eq!(*seen.lists["/covered"], ["link", "script", "sub"]);
    assert_eq!(seen.stat("/covered/link").link.as_deref(), Some("sub/file"));
    let stat = seen.stat("/covered/script");
    assert_eq!((stat.mode & 0o777, stat.uid, stat.gid), (0o750, 1000, 1001));
    assert_eq!(seen.tried("create:/covered/new"), "ok");
    assert!(!bundle.rootfs().join("covered/new").exists());
}

#[test]
fn mounts_are_made_in_the_order_given() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle.scratch.file("host/below/file", "covered");
    bundle
        .config
        .bind(&host, "/tmp/a", &[])
        .mount("/tmp/a/below", "tmpfs", "tmpfs", &[]);
    bundle
        .config
        .bind(&host, "/tmp/b/below", &[])
        .mount("/tmp/b", "tmpfs", "tmpfs", &[]);
    let seen = writable_tmp(bundle).report(&["ls=/tmp/a/below", "ls=/tmp/b"]);
    assert!(seen.lists["/tmp/a/below"].is_empty());
    assert!(seen.lists["/tmp/b"].is_empty());
}

#[test]
fn a_missing_target_directory_is_made() {
    require!(containers);
    beyond!(
        a_missing_target_directory_is_made,
        [crun("makes it with the sticky bit")]
    );
    let mut bundle = Bundle::new();
    bundle.config.mount("/made/here", "tmpfs", "tmpfs", &[]);
    bundle.report(&[]).mounted("/made/here");
    let made = bundle.rootfs().join("made/here");
    assert_eq!(
        fs::metadata(&made).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn a_target_may_be_given_without_the_leading_slash() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.mount("data", "tmpfs", "tmpfs", &[]);
    bundle.report(&[]).mounted("/data");
}

#[test]
fn links_in_a_target_stay_inside_the_root() {
    require!(containers);
    beyond!(
        links_in_a_target_stay_inside_the_root,
        [crun(
            "does not make the directory that a link in the target points to"
        )]
    );
    // The root's links name places of the host, and climb; both must end inside.
    let mut bundle = Bundle::new();
    let outside = bundle.scratch.dir("outside");
    let root = bundle.rootfs();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../../../../../../../..", root.join("climbing")).unwrap();
    symlink("/bin/../../../../home", root.join("roundabout")).unwrap();
    bundle.config.mount("/absolute/a", "tmpfs", "tmpfs", &[]);
    bundle.config.mount("/climbing/b", "tmpfs", "tmpfs", &[]);
    bundle.config.mount("/roundabout/c", "tmpfs", "tmpfs", &[]);
    bundle.config.mount("/../../d", "tmpfs", "tmpfs", &[]);
    let seen = bundle.report(&[]);
    seen.mounted(&format!("{}/a", outside.display()));
    seen.mounted("/b");
    seen.mounted("/home/c");
    seen.mounted("/d");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn the_last_link_of_a_target_is_followed_inside_the_root() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.dir("real");
    symlink("/real", bundle.rootfs().join("link")).unwrap();
    let file = bundle.scratch.file("file", "bound\n");
    bundle.file("real-file", "");
    symlink("real-file", bundle.rootfs().join("file-link")).unwrap();
    bundle
        .config
        .mount("/link", "tmpfs", "tmpfs", &[])
        .bind(&file, "/file-link", &[]);
    let seen = bundle.report(&["cat=/real-file"]);
    seen.mounted("/real");
    assert_eq!(*seen.files["/real-file"], "bound\n");
}

#[test]
fn a_dangling_link_as_target_is_resolved_inside_the_root() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.path().join(unique("never-made"));
    symlink(&host, bundle.rootfs().join("dangling")).unwrap();
    bundle.config.mount("/dangling", "tmpfs", "tmpfs", &[]);
    // Whether it is made inside or refused: the host must not be touched.
    bundle.config.probe(&["exit", "0"]);
    bundle.run();
    assert!(!host.exists());
}

#[test]
fn proc_is_mounted_on_directories_only() {
    require!(containers);
    // CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys as a link.
    for (name, target) in [
        ("proc", "/tmp/elsewhere"),
        ("sys", "/tmp/elsewhere"),
        ("proc", "tmp"),
        ("sys", "tmp"),
    ] {
        let bundle = Bundle::new();
        bundle.dir("tmp/elsewhere");
        let place = bundle.rootfs().join(name);
        fs::remove_dir(&place).unwrap();
        symlink(target, &place).unwrap();
        bundle.create_fails().failure().says(name);
    }
}

#[test]
fn only_procfs_may_cover_proc() {
    require!(containers);
    beyond!(only_procfs_may_cover_proc, [crun("allows it")]);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle
        .config
        .unmount("/proc")
        .mount("/proc", "tmpfs", "tmpfs", &[]);
    bundle.create_fails().failure().says("/proc");
    let mut bundle = Bundle::new();
    bundle.config.bind(&host, "/proc", &[]);
    bundle.create_fails().failure().says("/proc");
}

#[test]
fn inside_proc_only_known_files_may_be_covered() {
    require!(containers);
    let mut bundle = Bundle::new();
    let file = bundle.scratch.file("file", "from the host\n");
    for name in [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
    ] {
        bundle.config.bind(&file, &format!("/proc/{name}"), &["ro"]);
    }
    let seen = bundle.report(&["cat=/proc/meminfo", "cat=/proc/uptime"]);
    assert_eq!(
        (
            seen.files["/proc/meminfo"].as_str(),
            seen.files["/proc/uptime"].as_str()
        ),
        ("from the host\n", "from the host\n")
    );
}

#[test]
fn inside_proc_other_files_may_not_be_covered() {
    require!(containers);
    beyond!(
        inside_proc_other_files_may_not_be_covered,
        [crun("allows it")]
    );
    for target in [
        "/proc/version",
        "/proc/sys/kernel/hostname",
        "/proc/1/status",
        "/proc/self/attr",
        "/proc/../proc/version",
    ] {
        let mut bundle = Bundle::new();
        let file = bundle.scratch.file("file", "x");
        bundle.config.bind(&file, target, &[]);
        bundle.create_fails().failure().says("/proc");
    }
}

#[test]
fn proc_of_the_host_may_be_bound_over_proc() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .no_namespace("pid")
        .unmount("/proc")
        .mount("/proc", "bind", "/proc", &["rbind"]);
    assert_eq!(bundle.report(&[]).mounted("/proc").fstype, "proc");
}

#[test]
fn the_cgroup_mount_shows_the_containers_own_group() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let seen = container.exec_report(
        &[],
        &[
            "cat=/sys/fs/cgroup/cgroup.procs",
            "try=mkdir:/sys/fs/cgroup/x",
        ],
    );
    assert!(
        seen.files["/sys/fs/cgroup/cgroup.procs"]
            .lines()
            .any(|pid| pid == "1"),
        "{:?}",
        seen.files
    );
    assert_eq!(seen.mounted("/sys/fs/cgroup").fstype, "cgroup2");
    assert_eq!(seen.tried("mkdir:/sys/fs/cgroup/x"), "EROFS");
}

#[test]
fn the_cgroup_mount_shows_the_whole_hierarchy_without_a_namespace() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("cgroup");
    let container = bundle.pause();
    // Where /proc/self/cgroup says that the process is, there it must find its group.
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid)).unwrap();
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    let file = format!("/sys/fs/cgroup{own}/cgroup.procs");
    let seen = container.exec_report(&[], &[&format!("cat={file}")]);
    assert_eq!(seen.files[&file].lines().next(), Some("1"));
}

#[test]
fn a_cgroup_mount_bears_the_name_of_its_source() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .unmount("/sys/fs/cgroup")
        .mount("/sys/fs/cgroup", "cgroup2", "groups", &["ro"]);
    assert_eq!(
        bundle.report(&[]).mounted("/sys/fs/cgroup").source,
        "groups"
    );
}

#[test]
fn a_writable_cgroup_mount_lets_the_container_make_groups() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.unmount("/sys/fs/cgroup").mount(
        "/sys/fs/cgroup",
        "cgroup2",
        "cgroup",
        &["nosuid", "nodev", "noexec", "rw"],
    );
    assert_eq!(bundle.tries(&["mkdir:/sys/fs/cgroup/inside"]), ["ok"]);
}

#[test]
fn mqueue_and_devpts_are_the_containers_own() {
    require!(containers);
    let seen = Bundle::new().report(&["ls=/dev/mqueue", "ls=/dev/pts"]);
    assert!(seen.lists["/dev/mqueue"].is_empty());
    assert_eq!(*seen.lists["/dev/pts"], ["ptmx"]);
    let own = host::mounts()
        .into_iter()
        .find(|mount| mount.fstype == "devpts");
    assert!(own.is_none_or(|own| own.device != seen.mounted("/dev/pts").device));
}

#[test]
fn subset_pid_hides_the_rest_of_proc() {
    require!(containers);
    beyond!(
        subset_pid_hides_the_rest_of_proc,
        [runc_from("1.2", "reads the container's /proc/sys")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths");
    bundle
        .config
        .unmount("/proc")
        .mount("/proc", "proc", "proc", &["nosuid", "subset=pid"]);
    let seen = bundle.report(&["stat=/proc/1", "stat=/proc/meminfo"]);
    assert_eq!(seen.stat("/proc/1").kind, Kind::Directory);
    assert!(seen.stats["/proc/meminfo"].reason().is_some());
}

/// /tmp of the root is a tmpfs, so that targets can be made in it.
fn writable_tmp(mut bundle: Bundle) -> Bundle {
    let mounts = bundle.config.0["mounts"].take();
    bundle.config.set("/mounts", serde_json::json!([]));
    bundle
        .config
        .mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    for mount in mounts.as_array().unwrap() {
        bundle.config.push("/mounts", mount.clone());
    }
    bundle
}
