//! Bind mounts: sources and targets, flags and their remount, propagation, recursive attributes.

use integration::{Bundle, Kind, beyond, require};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

#[test]
fn a_directory_is_bound_and_shared_with_the_host() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle.scratch.file("host/file", "from the host\n");
    bundle
        .config
        .bind(&host, "/data", &[])
        .probe(&["write-file", "/data/new", "5"]);
    bundle.run().success();
    assert_eq!(std::fs::read(host.join("new")).unwrap().len(), 5);
    let seen = bundle.report(&["cat=/data/file"]);
    assert_eq!(*seen.files["/data/file"], "from the host\n");
}

#[test]
fn a_file_is_bound_to_a_file_that_is_made() {
    require!(containers);
    let mut bundle = Bundle::new();
    let file = bundle.scratch.file("file", "bound\n");
    bundle.config.bind(&file, "/made/for/file", &["ro"]);
    let seen = bundle.report(&[
        "cat=/made/for/file",
        "stat=/made/for/file",
        "try=write:/made/for/file",
    ]);
    assert_eq!(*seen.files["/made/for/file"], "bound\n");
    assert_eq!(seen.stat("/made/for/file").kind, Kind::File);
    assert_eq!(seen.tried("write:/made/for/file"), "EROFS");
    let made = std::fs::metadata(bundle.rootfs().join("made/for/file")).unwrap();
    assert!(made.is_file() && made.len() == 0);
}

#[test]
fn a_device_and_a_socket_are_bound() {
    require!(containers);
    let mut bundle = Bundle::new();
    let socket = bundle.scratch.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bundle
        .config
        .bind(&socket, "/run/socket", &[])
        .bind("/dev/zero", "/dev/other-zero", &[]);
    let seen = bundle.report(&["stat=/run/socket", "stat=/dev/other-zero"]);
    assert_eq!(seen.stat("/run/socket").kind, Kind::Socket);
    assert_eq!(
        (
            seen.stat("/dev/other-zero").kind,
            seen.stat("/dev/other-zero").rdev
        ),
        (Kind::CharDevice, (1, 5))
    );
    drop(listener);
}

#[test]
fn a_relative_source_is_relative_to_the_bundle() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.scratch.file("bundle/beside/file", "x");
    bundle.config.mount("/data", "bind", "beside", &["bind"]);
    assert_eq!(*bundle.report(&["ls=/data"]).lists["/data"], ["file"]);
}

#[test]
fn the_option_bind_makes_a_bind_whatever_the_type() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle.scratch.file("host/file", "x");
    let source = host.to_str().unwrap();
    bundle
        .config
        .mount("/none", "none", source, &["bind"])
        .mount("/empty", "", source, &["rbind"]);
    bundle.config.mount("/odd", "tmpfs", source, &["bind"]);
    let seen = bundle.report(&["ls=/none", "ls=/empty", "ls=/odd"]);
    for target in ["/none", "/empty", "/odd"] {
        assert_eq!(*seen.lists[target], ["file"], "{target}");
    }
}

#[test]
fn the_type_bind_makes_a_bind_without_the_option() {
    require!(containers);
    beyond!(
        the_type_bind_makes_a_bind_without_the_option,
        [
            runc("mounts a file system of that type"),
            crun("mounts a file system of that type")
        ]
    );
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle.scratch.file("host/file", "x");
    bundle
        .config
        .mount("/data", "bind", host.to_str().unwrap(), &["ro"]);
    let seen = bundle.report(&["ls=/data"]);
    assert_eq!(*seen.lists["/data"], ["file"]);
    assert!(seen.mounted("/data").has(&["ro"]));
}

#[test]
fn a_missing_source_is_named() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.bind("/no/such/source", "/data", &[]);
    bundle
        .create_fails()
        .failure()
        .says("/no/such/source")
        .says("no such file or directory");
}

#[test]
fn a_directory_over_a_file_and_a_file_over_a_directory_are_told_apart() {
    require!(containers);
    // Docker has a hint for these words, and exit code 127.
    let mut bundle = Bundle::new();
    let directory = bundle.scratch.dir("directory");
    let file = bundle.scratch.file("file", "");
    bundle.file("etc/file", "");
    bundle.config.bind(&directory, "/etc/file", &[]);
    bundle.create_fails().failure().says("not a directory");
    bundle.config.unmount("/etc/file").bind(&file, "/etc", &[]);
    bundle.create_fails().failure().says("not a directory");
}

#[test]
fn flags_of_a_bind_are_its_own() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    let flags = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"];
    for flag in flags {
        bundle.config.bind(&host, &format!("/data/{flag}"), &[flag]);
    }
    bundle
        .config
        .bind(
            &host,
            "/data/all",
            &["rbind", "ro", "nosuid", "nodev", "noexec"],
        )
        .bind(&host, "/data/plain", &[]);
    bundle.dir("data");
    let seen = bundle.report(&["try=create:/data/ro/x", "try=create:/data/plain/x"]);
    for flag in flags {
        assert!(
            seen.mounted(&format!("/data/{flag}")).has(&[flag]),
            "{flag}"
        );
    }
    assert!(
        seen.mounted("/data/all")
            .has(&["ro", "nosuid", "nodev", "noexec"])
    );
    assert!(seen.mounted("/data/plain").has(&["rw"]));
    assert_eq!(
        (
            seen.tried("create:/data/ro/x"),
            seen.tried("create:/data/plain/x")
        ),
        ("EROFS", "ok")
    );
}

#[test]
fn a_bind_without_options_keeps_the_flags_of_its_source() {
    require!(containers);
    beyond!(
        a_bind_without_options_keeps_the_flags_of_its_source,
        [crun("clears them")]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), NO_SUID_DEV_EXEC);
    bundle.config.bind(&source.0, "/kept", &[]);
    let mount = bundle.report(&[]).mounted("/kept").clone();
    assert!(
        mount.has(&["nosuid", "nodev", "noexec"]),
        "{:?}",
        mount.options
    );
}

#[test]
fn a_bind_with_options_has_the_flags_they_name_and_no_others() {
    require!(containers);
    beyond!(
        a_bind_with_options_has_the_flags_they_name_and_no_others,
        [runc_before(
            "1.2",
            "does not remount for options that only clear"
        )]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), NO_SUID_DEV_EXEC);
    bundle
        .config
        .bind(&source.0, "/more", &["ro", "nosuid", "nodev", "noexec"]);
    bundle
        .config
        .bind(&source.0, "/cleared", &["suid", "dev", "exec"]);
    let seen = bundle.report(&[]);
    assert!(
        seen.mounted("/more")
            .has(&["ro", "nosuid", "nodev", "noexec"])
    );
    let cleared = &seen.mounted("/cleared").options;
    assert!(
        !["nosuid", "nodev", "noexec"]
            .iter()
            .any(|flag| cleared.contains(*flag)),
        "{cleared:?}"
    );
}

#[test]
fn access_times_of_a_bind_are_its_sources_unless_a_word_sets_one() {
    require!(containers);
    let mut bundle = Bundle::new();
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), flags);
    let cases: [(&str, &[&str], [bool; 3]); 6] = [
        ("/plain", &[], [true, true, false]),
        ("/flag", &["nodev"], [true, true, false]),
        (
            "/atime",
            &["nodev", "atime", "diratime"],
            [true, true, false],
        ),
        ("/relatime", &["relatime"], [false, false, true]),
        ("/strictatime", &["strictatime"], [false, false, false]),
        ("/nodiratime", &["nodiratime"], [false, true, true]),
    ];
    for (target, words, _) in &cases {
        bundle.config.bind(&source.0, target, words);
    }
    let seen = bundle.report(&[]);
    for (target, _, expected) in cases {
        let options = &seen.mounted(target).options;
        let has = ["noatime", "nodiratime", "relatime"].map(|word| options.contains(word));
        assert_eq!(has, expected, "{target}: {options:?}");
    }
}

#[test]
fn a_read_only_source_can_be_bound_writable() {
    require!(containers);
    beyond!(
        a_read_only_source_can_be_bound_writable,
        [
            runc_before("1.2", "does not remount for options that only clear"),
            crun("clears the flag without being asked to")
        ]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    source.remount(MsFlags::MS_RDONLY);
    bundle
        .config
        .bind(&source.0, "/kept", &[])
        .bind(&source.0, "/writable", &["rw"]);
    let tries = bundle.tries(&["create:/kept/x", "create:/writable/x"]);
    assert_eq!(tries, ["EROFS", "ok"]);
}

#[test]
fn a_user_namespace_cannot_clear_flags_that_the_host_set() {
    require!(containers, userns);
    beyond!(
        a_user_namespace_cannot_clear_flags_that_the_host_set,
        [
            runc_before("1.2", "fails to remount"),
            crun_before("1.28", "clears them")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), NO_SUID_DEV_EXEC);
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
fn a_user_namespace_can_clear_nosymfollow_which_is_never_locked() {
    require!(containers, userns);
    beyond!(
        a_user_namespace_can_clear_nosymfollow_which_is_never_locked,
        [
            runc_before("1.2", "fails to remount"),
            crun("has no such word")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    let no_symfollow = MsFlags::from_bits_retain(256);
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::MS_NODEV | no_symfollow);
    for (target, word) in [("plain", "ro"), ("named", "symfollow")] {
        bundle.dir(target);
        bundle
            .config
            .bind(&source.0, &format!("/{target}"), &["nosuid", word]);
    }
    let seen = bundle.report(&[]);
    for target in ["/plain", "/named"] {
        let mount = seen.mounted(target);
        assert!(mount.has(&["nosuid", "nodev"]), "{:?}", mount.options);
        assert!(!mount.has(&["nosymfollow"]), "{:?}", mount.options);
    }
}

#[test]
fn flags_that_the_host_set_are_locked_in_what_only_root_can_reach() {
    require!(containers, userns);
    beyond!(
        flags_that_the_host_set_are_locked_in_what_only_root_can_reach,
        [runc("fails to mount or to remount"), crun("clears them")]
    );
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536).privileged();
    let closed = bundle.scratch.dir("closed");
    // Neither the container's root nor, without rights over all files, the host's can pass.
    integration::place::give_one(&closed, 4321, 4321);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&closed, mode).unwrap();
    let source = Mounted::tmpfs(bundle.scratch.dir("closed/host"), NO_SUID_DEV_EXEC);
    let below = Mounted::tmpfs(source.dir("below"), NO_SUID_DEV_EXEC);
    bundle.scratch.file("closed/host/file", "content");
    for name in ["plain", "more", "all"] {
        bundle.dir(name);
    }
    bundle
        .config
        .bind(&source.0, "/plain", &[])
        .bind(&source.0, "/more", &["ro"])
        .mount(
            "/all",
            "bind",
            source.0.to_str().unwrap(),
            &["rbind", "rprivate"],
        )
        .bind(source.0.join("file"), "/etc/bound", &["ro"]);
    bundle.file("etc/bound", "");
    let places = ["/plain", "/more", "/all", "/all/below", "/etc/bound"];
    let questions = places.map(|place| format!("try=remount:{place}"));
    let mut questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    questions.push("cat=/etc/bound");
    let seen = bundle.report(&questions);
    for place in places {
        let mount = seen.mounted(place);
        let kept = mount.has(&["nosuid", "nodev", "noexec"]);
        assert!(kept, "{place}: {:?}", mount.options);
        assert_eq!(seen.tried(&format!("remount:{place}")), "EPERM", "{place}");
    }
    assert_eq!(*seen.files["/etc/bound"], "content");
    drop(below);
}

#[test]
fn rbind_takes_the_mounts_below_and_bind_does_not() {
    require!(containers);
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    let below = Mounted::tmpfs(source.dir("below"), MsFlags::empty());
    std::fs::create_dir(below.0.join("deep")).unwrap();
    bundle
        .config
        .mount("/all", "bind", source.0.to_str().unwrap(), &["rbind"])
        .bind(&source.0, "/one", &[]);
    let seen = bundle.report(&["ls=/all/below", "ls=/one/below"]);
    assert_eq!(*seen.lists["/all/below"], ["deep"]);
    assert!(seen.lists["/one/below"].is_empty());
    assert!(seen.mount("/all/below").is_some() && seen.mount("/one/below").is_none());
}

#[test]
fn plain_flags_do_not_reach_the_mounts_below() {
    require!(containers);
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    let _below = Mounted::tmpfs(source.dir("below"), MsFlags::empty());
    bundle.config.mount(
        "/data",
        "bind",
        source.0.to_str().unwrap(),
        &["rbind", "ro"],
    );
    assert_eq!(
        bundle.tries(&["create:/data/x", "create:/data/below/x"]),
        ["EROFS", "ok"]
    );
}

#[test]
fn recursive_flags_reach_the_mounts_below() {
    require!(containers, system_call("mount_setattr"));
    beyond!(
        recursive_flags_reach_the_mounts_below,
        [crun("asks mount_setattr for what it refuses")]
    );
    let cases = [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnodiratime", "nodiratime"),
        ("rnoatime", "noatime"),
        ("rrelatime", "relatime"),
    ];
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    let _below = Mounted::tmpfs(source.dir("below"), MsFlags::empty());
    bundle.dir("data");
    for (option, _) in cases {
        bundle.config.mount(
            &format!("/data/{option}"),
            "bind",
            source.0.to_str().unwrap(),
            &["rbind", option],
        );
    }
    let seen = bundle.report(&["try=create:/data/rro/below/x"]);
    for (option, flag) in cases {
        for target in [format!("/data/{option}"), format!("/data/{option}/below")] {
            let mount = seen.mounted(&target);
            assert!(mount.has(&[flag]), "{target}: {:?}", mount.options);
        }
    }
    assert_eq!(seen.tried("create:/data/rro/below/x"), "EROFS");
}

#[test]
fn recursive_flags_can_be_cleared() {
    require!(containers, system_call("mount_setattr"));
    beyond!(
        recursive_flags_can_be_cleared,
        [crun("asks mount_setattr for what it refuses")]
    );
    let mut bundle = Bundle::new();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), flags);
    let below = Mounted::tmpfs(source.dir("below"), flags);
    source.remount(flags | MsFlags::MS_RDONLY);
    below.remount(flags | MsFlags::MS_RDONLY);
    let options = ["rbind", "rrw", "rsuid", "rdev", "rexec", "rstrictatime"];
    bundle
        .config
        .mount("/data", "bind", source.0.to_str().unwrap(), &options);
    let seen = bundle.report(&[]);
    for target in ["/data", "/data/below"] {
        let options = &seen.mounted(target).options;
        let left = ["ro", "nosuid", "nodev", "noexec", "noatime", "relatime"]
            .iter()
            .find(|flag| options.contains(**flag));
        assert_eq!(left, None, "{target}: {options:?}");
    }
}

#[test]
fn recursive_access_times_and_links_go_back_to_the_default() {
    require!(containers, system_call("mount_setattr"));
    beyond!(
        recursive_access_times_and_links_go_back_to_the_default,
        [
            runc_before("1.2", "does not know all of them"),
            crun("does not know all of them")
        ]
    );
    const NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);
    let mut bundle = Bundle::new();
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME | NOSYMFOLLOW;
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), flags);
    let _below = Mounted::tmpfs(source.dir("below"), flags);
    let path = source.0.to_str().unwrap();
    bundle.dir("data");
    for word in ["ratime", "rnorelatime", "rnostrictatime"] {
        let options = ["rbind", word, "rdiratime", "rsymfollow"];
        let target = format!("/data/{word}");
        bundle.config.mount(&target, "bind", path, &options);
    }
    let seen = bundle.report(&[]);
    for word in ["ratime", "rnorelatime", "rnostrictatime"] {
        for target in [format!("/data/{word}"), format!("/data/{word}/below")] {
            let options = &seen.mounted(&target).options;
            let left = ["noatime", "nodiratime", "nosymfollow"];
            assert!(
                options.contains("relatime") && !left.iter().any(|o| options.contains(*o)),
                "{target}: {options:?}"
            );
        }
    }
}

#[test]
fn nosymfollow_reaches_the_mounts_below() {
    require!(containers, system_call("mount_setattr"));
    beyond!(
        nosymfollow_reaches_the_mounts_below,
        [crun("knows no rnosymfollow")]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    let _below = Mounted::tmpfs(source.dir("below"), MsFlags::empty());
    bundle.config.mount(
        "/data",
        "bind",
        source.0.to_str().unwrap(),
        &["rbind", "rnosymfollow"],
    );
    let seen = bundle.report(&[]);
    for target in ["/data", "/data/below"] {
        assert!(
            seen.mounted(target).has(&["nosymfollow"]),
            "{target}: {:?}",
            seen.mounted(target).options
        );
    }
}

#[test]
fn propagation_is_as_configured() {
    require!(containers);
    beyond!(
        propagation_is_as_configured,
        [
            runc_from("1.2", "leaves a slave shared"),
            crun("leaves a slave shared")
        ]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    source.change(MsFlags::MS_SHARED);
    bundle.config.set("/linux/rootfsPropagation", "rshared");
    for option in [
        "shared",
        "slave",
        "private",
        "unbindable",
        "rshared",
        "rslave",
        "rprivate",
        "runbindable",
    ] {
        bundle.config.mount(
            &format!("/data/{option}"),
            "bind",
            source.0.to_str().unwrap(),
            &["rbind", option],
        );
    }
    bundle.dir("data");
    let seen = bundle.report(&[]);
    let tags = |option: &str| {
        seen.mounted(&format!("/data/{option}"))
            .propagation
            .join(" ")
    };
    for r in ["", "r"] {
        assert!(
            tags(&format!("{r}shared")).contains("shared:"),
            "{}",
            tags(&format!("{r}shared"))
        );
        let slave = tags(&format!("{r}slave"));
        assert!(
            slave.contains("master:") && !slave.contains("shared:"),
            "{slave}"
        );
        assert_eq!(tags(&format!("{r}private")), "");
        assert_eq!(tags(&format!("{r}unbindable")), "unbindable");
    }
}

#[test]
fn mounts_that_the_host_makes_later_reach_a_slave_and_not_a_private_mount() {
    require!(containers);
    beyond!(
        mounts_that_the_host_makes_later_reach_a_slave_and_not_a_private_mount,
        [crun(
            "makes all mounts private unless rootfsPropagation says otherwise"
        )]
    );
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    source.change(MsFlags::MS_SHARED);
    let path = source.0.to_str().unwrap();
    bundle
        .config
        .mount("/slave", "bind", path, &["rbind", "rslave"])
        .mount("/private", "bind", path, &["rbind", "rprivate"]);
    source.dir("later");
    let container = bundle.pause();
    let _later = Mounted::tmpfs(source.0.join("later"), MsFlags::empty());
    let seen = container.exec_report(&[], &[]);
    assert!(seen.mount("/slave/later").is_some());
    assert!(seen.mount("/private/later").is_none());
}

#[test]
fn mounts_that_the_container_makes_reach_the_host_through_a_shared_mount() {
    require!(containers);
    let mut bundle = Bundle::new();
    let source = Mounted::tmpfs(bundle.scratch.dir("host"), MsFlags::empty());
    source.change(MsFlags::MS_SHARED);
    source.dir("later");
    bundle
        .config
        .privileged()
        .set("/linux/rootfsPropagation", "rshared");
    bundle.config.mount(
        "/shared",
        "bind",
        source.0.to_str().unwrap(),
        &["rbind", "rshared"],
    );
    let container = bundle.pause();
    let outcome = container
        .exec(&[], &["/bin/probe", "try", "mount:/shared/later"])
        .success()
        .json();
    assert_eq!(outcome["mount:/shared/later"], "ok");
    let later = source.0.join("later");
    let seen = integration::host::mounts()
        .into_iter()
        .any(|mount| Path::new(&mount.target) == later);
    umount2(&later, MntFlags::MNT_DETACH).unwrap();
    assert!(seen, "the container's mount did not reach the host");
}

#[test]
fn a_bind_may_be_remounted_later_in_the_list() {
    require!(containers);
    let mut bundle = Bundle::new();
    let host = bundle.scratch.dir("host");
    bundle.config.bind(&host, "/data", &["noexec"]).bind(
        &host,
        "/data",
        &["remount", "ro", "noexec"],
    );
    let mount = bundle.report(&[]).mounted("/data").clone();
    assert!(mount.has(&["ro", "noexec"]), "{:?}", mount.options);
}

#[test]
fn binds_within_the_root_see_the_mounts_before_them_and_may_name_it_by_its_path_on_the_host() {
    require!(containers, userns);
    beyond!(
        binds_within_the_root_see_the_mounts_before_them_and_may_name_it_by_its_path_on_the_host,
        [
            runc_before("1.2", "opens sources before it mounts"),
            crun("takes the path on the host for one in the container")
        ]
    );
    for userns in [false, true] {
        let mut bundle = Bundle::new();
        if userns {
            bundle.config.user_namespace(100_000, 65536);
        }
        bundle.dir("first");
        bundle.dir("second");
        let outside = bundle.scratch.dir("outside/x");
        bundle.scratch.file("outside/x/file", "");
        let root = bundle.rootfs();
        let within = |path: &str| root.join(path).display().to_string();
        bundle
            .config
            .bind(outside.parent().unwrap(), "/first", &["bind"])
            .mount(&within("second"), "bind", &within("first/x"), &["rbind"]);
        let seen = bundle.report(&["ls=/second"]);
        assert_eq!(*seen.lists["/second"], ["file"], "userns {userns}");
    }
}

#[test]
fn a_source_that_is_a_link_is_copied_bound_itself_or_followed() {
    require!(containers);
    beyond!(
        a_source_that_is_a_link_is_copied_bound_itself_or_followed,
        [
            runc("does not know the options"),
            crun("refuses the options together, or does not know them")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.scratch.file("host/file", "x");
    let link = bundle.scratch.path().join("host/link");
    std::os::unix::fs::symlink("file", &link).unwrap();
    bundle
        .config
        .bind(&link, "/copied/link", &["copy-symlink"])
        .bind(&link, "/copied/again/../link", &["copy-symlink"])
        .bind(&link, "/bound", &["src-nofollow"])
        .bind(&link, "/followed", &[])
        .bind(
            link.with_file_name("file"),
            "/no-link",
            &["copy-symlink", "src-nofollow"],
        );
    let seen = bundle.report(&[
        "stat=/copied/link",
        "stat=/bound",
        "stat=/followed",
        "cat=/no-link",
    ]);
    for path in ["/copied/link", "/bound"] {
        assert_eq!(seen.stat(path).link.as_deref(), Some("file"), "{path}");
    }
    assert_eq!(seen.stat("/followed").kind, Kind::File);
    assert_eq!(*seen.files["/no-link"], "x");
    assert!(seen.mount("/copied/link").is_none());
}

#[test]
fn a_link_is_not_copied_over_something_else() {
    require!(containers);
    beyond!(
        a_link_is_not_copied_over_something_else,
        [runc("does not know the option"), crun("words it otherwise")]
    );
    let mut bundle = Bundle::new();
    let link = bundle.scratch.path().join("link");
    std::os::unix::fs::symlink("file", &link).unwrap();
    bundle.file("etc/there", "x");
    bundle.config.bind(&link, "/etc/there", &["copy-symlink"]);
    bundle
        .create_fails()
        .failure()
        .says("/etc/there")
        .says("create the destination: file exists");
}

#[test]
fn a_destination_that_is_a_link_is_covered_itself_or_followed() {
    require!(containers);
    beyond!(
        a_destination_that_is_a_link_is_covered_itself_or_followed,
        [
            runc("does not know the option"),
            crun("fails to make what a link leads to, or does not know the option")
        ]
    );
    let mut bundle = Bundle::new();
    let file = bundle.scratch.file("file", "bound");
    for name in ["covered", "followed"] {
        bundle.file(&format!("etc/{name}-target"), "behind");
        std::os::unix::fs::symlink(
            format!("{name}-target"),
            bundle.rootfs().join("etc").join(name),
        )
        .unwrap();
    }
    bundle
        .config
        .bind(&file, "/etc/covered", &["dest-nofollow"])
        .bind(&file, "/etc/followed", &[])
        .bind(&file, "/etc/new", &["dest-nofollow"]);
    let seen = bundle.report(&[
        "cat=/etc/covered",
        "cat=/etc/covered-target",
        "cat=/etc/followed-target",
        "cat=/etc/new",
    ]);
    assert_eq!(*seen.files["/etc/covered"], "bound");
    assert_eq!(*seen.files["/etc/covered-target"], "behind");
    assert_eq!(*seen.files["/etc/followed-target"], "bound");
    assert_eq!(*seen.files["/etc/new"], "bound");
}

#[test]
fn options_for_links_are_for_binds() {
    require!(containers);
    beyond!(
        options_for_links_are_for_binds,
        [
            runc("passes them to the file system"),
            crun("takes them for any mount")
        ]
    );
    for option in ["copy-symlink", "src-nofollow", "dest-nofollow"] {
        let mut bundle = Bundle::new();
        bundle.config.mount("/data", "tmpfs", "tmpfs", &[option]);
        bundle.create_fails().failure().says("are for bind mounts");
    }
}

const NO_SUID_DEV_EXEC: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// A mount of the test's own mount namespace, taken away when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    pub(crate) fn tmpfs(target: PathBuf, flags: MsFlags) -> Mounted {
        mount(Some("it"), &target, Some("tmpfs"), flags, Some("mode=0777")).unwrap();
        let mounted = Mounted(target);
        mounted.change(MsFlags::MS_PRIVATE);
        mounted
    }

    #[track_caller]
    fn change(&self, propagation: MsFlags) {
        mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            propagation,
            None::<&str>,
        )
        .unwrap();
    }

    #[track_caller]
    pub(crate) fn remount(&self, flags: MsFlags) {
        mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
    }

    #[track_caller]
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok(); // The scratch directory's removal would show what remained.
    }
}
