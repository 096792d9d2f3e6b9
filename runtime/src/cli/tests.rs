use super::values::User;
use super::*;
use crate::report::Kind;
use crate::state::ContainerId;

mod manual;

fn run(line: &[&str]) -> std::result::Result<Invocation, Rejected> {
    parse(
        ["caisson"].iter().chain(line).map(OsString::from),
        &Surroundings::default(),
    )
}

fn ok(line: &[&str]) -> Command {
    run(line)
        .unwrap_or_else(|rejected| panic!("{line:?}: {}", rejected.error))
        .command
}

fn text(line: &[&str]) -> String {
    run(line).unwrap_err().error.to_string()
}

fn printed(line: &[&str]) -> String {
    match ok(line) {
        Command::Print(text) => text,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn cid(id: &str) -> ContainerId {
    ContainerId::new(id).unwrap()
}

fn plain_create(id: &str) -> Create {
    Create {
        id: cid(id),
        bundle: ".".into(),
        config: None,
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        dry_run: None,
    }
}

/// The lines that engines use, from what they are seen to call.
mod engines {
    use super::*;

    #[test]
    fn containerd_creates() {
        let line = "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup create \
                    --bundle /b --pid-file /b/init.pid --console-socket /t/pty.sock --no-pivot --no-new-keyring web";
        let invocation = run(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            invocation.global,
            Global {
                as_runc: false,
                root: "/run/containerd/runc/k8s.io".into(),
                root_is_xdg: false,
                log: log::Settings {
                    to: log::Destination::File("/b/log.json".into()),
                    format: log::Format::Json,
                    level: log::Level::Warning
                },
                trace: None,
                cgroup_manager: CgroupManager::Systemd,
                rootless: Rootless::Auto,
            }
        );
        let expected = Create {
            bundle: "/b".into(),
            pid_file: Some("/b/init.pid".into()),
            console_socket: Some("/t/pty.sock".into()),
            no_pivot: true,
            no_new_keyring: true,
            ..plain_create("web")
        };
        assert_eq!(invocation.command, Command::Create(expected));
    }

    #[test]
    fn containerd_executes_from_a_file() {
        let line = [
            "exec",
            "--process",
            "/p/runc-process1",
            "--detach",
            "--pid-file",
            "/b/x.pid",
            "web",
        ];
        let Command::Exec(exec) = ok(&line) else {
            panic!()
        };
        assert_eq!(exec.process, ExecProcess::File("/p/runc-process1".into()));
        assert!(exec.detach);
        assert_eq!(exec.pid_file.unwrap(), Path::new("/b/x.pid"));
    }

    #[test]
    fn conmon_rs_executes_from_arguments() {
        let line = [
            "exec",
            "-d",
            "--console-socket=/s",
            "--tty",
            "--pid-file=/p",
            "c1",
            "sh",
            "-c",
            "ls --all",
        ];
        let Command::Exec(exec) = ok(&line) else {
            panic!()
        };
        let ExecProcess::Changed(changes) = exec.process else {
            panic!()
        };
        assert_eq!(changes.args, ["sh", "-c", "ls --all"]);
        assert!(changes.terminal && exec.detach);
    }

    #[test]
    fn buildkit_runs() {
        let Command::Run(run) = ok(&["run", "--bundle", "/b", "--keep", "x"]) else {
            panic!()
        };
        assert!(run.keep && !run.detach && !run.no_subreaper);
        let Command::Run(run) = ok(&["run", "-no-subreaper", "-d", "x"]) else {
            panic!()
        };
        assert!(run.no_subreaper && run.detach);
    }

    #[test]
    fn podman_disables_cgroups() {
        let line = [
            "--log-format=json",
            "--log=/l",
            "--cgroup-manager",
            "disabled",
            "state",
            "x",
        ];
        assert_eq!(
            run(&line).unwrap().global.cgroup_manager,
            CgroupManager::Disabled
        );
    }

    #[test]
    fn signals_come_in_all_forms() {
        for line in [
            &["kill", "x", "9"][..],
            &["kill", "x", "KILL"],
            &["kill", "x", "sigkill"],
            &["kill", "--", "x", "9"],
        ] {
            assert_eq!(
                ok(line),
                Command::Kill {
                    whom: Whom::One(cid("x")),
                    signal: Signal::KILL,
                    all: false
                }
            );
        }
        for line in [
            &["kill", "--all", "x", "9"][..],
            &["kill", "-a", "x", "9"],
            &["kill", "x", "9", "--all"],
        ] {
            assert_eq!(
                ok(line),
                Command::Kill {
                    whom: Whom::One(cid("x")),
                    signal: Signal::KILL,
                    all: true
                }
            );
        }
        assert_eq!(
            ok(&["kill", "x"]),
            Command::Kill {
                whom: Whom::One(cid("x")),
                signal: Signal::TERM,
                all: false
            }
        );
        assert_eq!(text(&["kill", "x", "FOO"]), "unknown signal \"FOO\"");
    }

    #[test]
    fn processes_are_listed() {
        let expected = Command::Ps {
            id: cid("x"),
            format: Format::Json,
            options: vec![],
        };
        assert_eq!(ok(&["ps", "--format", "json", "x"]), expected);
        let expected = Command::Ps {
            id: cid("x"),
            format: Format::Table,
            options: vec!["-o".into(), "pid".into()],
        };
        assert_eq!(ok(&["ps", "x", "-o", "pid"]), expected);
    }
}

#[test]
fn create_takes_all_of_its_flags() {
    let line = "create -b B -f F --no-subreaper --console-socket C --pidfd-socket D --pid-file P --no-pivot --no-new-keyring --preserve-fds 3 x";
    let expected = Create {
        id: cid("x"),
        bundle: "B".into(),
        config: Some("F".into()),
        console_socket: Some("C".into()),
        pidfd_socket: Some("D".into()),
        pid_file: Some("P".into()),
        no_pivot: true,
        no_new_keyring: true,
        preserve_fds: 3,
        dry_run: None,
    };
    assert_eq!(
        ok(&line.split(' ').collect::<Vec<_>>()),
        Command::Create(expected)
    );
}

#[test]
fn exec_takes_all_of_its_flags() {
    let line = "exec --cwd /w -e A=1 --env B=2 -t -u 1:2 -g 3 -g 4 --process-label L --apparmor P --no-new-privs \
                -c CAP_A --cap CAP_B --preserve-fds=1 --cgroup sub --ignore-paused x cmd -x --y -- z";
    let expected = Exec {
        id: cid("x"),
        process: ExecProcess::Changed(ProcessChanges {
            args: ["cmd", "-x", "--y", "--", "z"].map(String::from).into(),
            terminal: true,
            cwd: Some("/w".into()),
            env: ["A=1", "B=2"].map(String::from).into(),
            user: Some(User {
                uid: 1,
                gid: Some(2),
            }),
            additional_gids: vec![3, 4],
            selinux_label: Some("L".into()),
            apparmor_profile: Some("P".into()),
            no_new_privileges: Some(true),
            capabilities: ["CAP_A", "CAP_B"].map(String::from).into(),
        }),
        detach: false,
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        preserve_fds: 1,
        cgroup: Some("sub".into()),
        ignore_paused: true,
    };
    assert_eq!(
        ok(&line.split_whitespace().collect::<Vec<_>>()),
        Command::Exec(expected)
    );
}

#[test]
fn mounts_are_added_and_removed() {
    for (word, change) in [("add", MountsChange::Add), ("remove", MountsChange::Remove)] {
        let expected = Command::Mounts {
            change,
            id: cid("x"),
            file: "-".into(),
        };
        assert_eq!(ok(&["mounts", word, "x", "-"]), expected);
    }
}

#[test]
fn the_other_commands_take_all_of_their_flags() {
    assert_eq!(ok(&["create", "x"]), Command::Create(plain_create("x")));
    assert_eq!(ok(&["start", "x"]), Command::Start { id: cid("x") });
    assert_eq!(ok(&["state", "x"]), Command::State { id: cid("x") });
    assert_eq!(ok(&["pause", "x"]), Command::Pause { id: cid("x") });
    assert_eq!(ok(&["resume", "x"]), Command::Resume { id: cid("x") });
    assert_eq!(
        ok(&["delete", "x"]),
        Command::Delete {
            whom: Whom::One(cid("x")),
            force: false
        }
    );
    assert_eq!(
        ok(&["delete", "-f", "x"]),
        Command::Delete {
            whom: Whom::One(cid("x")),
            force: true
        }
    );
    assert_eq!(
        ok(&["delete", "-r", "^web|/"]),
        Command::Delete {
            whom: Whom::Matching("^web|/".to_owned()),
            force: false
        }
    );
    assert_eq!(
        ok(&["list"]),
        Command::List {
            format: Format::Table,
            quiet: false
        }
    );
    assert_eq!(
        ok(&["list", "-f", "json", "-q"]),
        Command::List {
            format: Format::Json,
            quiet: true
        }
    );
    assert_eq!(
        ok(&["spec"]),
        Command::Spec {
            file: "./config.json".into(),
            rootless: false
        }
    );
    assert_eq!(
        ok(&["spec", "-b", "B", "--rootless"]),
        Command::Spec {
            file: "B/config.json".into(),
            rootless: true
        }
    );
    assert_eq!(
        ok(&["spec", "-f", "F"]),
        Command::Spec {
            file: "F".into(),
            rootless: false
        }
    );
    assert_eq!(ok(&["features"]), Command::Features);
    let expected = Command::SeccompDump {
        profile: "F".into(),
        raw: true,
    };
    assert_eq!(
        ok(&["seccomp", "dump", "--raw", "--profile", "F"]),
        expected
    );
}

#[test]
fn global_flags_come_before_the_command() {
    let global = run(&[
        "--debug",
        "--rootless=true",
        "--criu",
        "/c",
        "--root",
        "r",
        "list",
    ])
    .unwrap()
    .global;
    assert_eq!(global.log.level, log::Level::Debug);
    assert_eq!(global.rootless, Rootless::True);
    assert_eq!(global.root, Path::new("r"));
    assert_eq!(
        run(&["--log-level", "error", "list"])
            .unwrap()
            .global
            .log
            .level,
        log::Level::Error
    );
    assert_eq!(
        text(&["list", "--debug"]),
        "flag provided but not defined: -debug"
    );
}

#[test]
fn the_log_goes_to_a_file_or_to_a_log_of_the_system() {
    let to = |log: &str| run(&["--log", log, "list"]).unwrap().global.log.to;
    let service = |protocol, name: &str| log::Destination::Service(protocol, name.to_owned());
    assert_eq!(to(""), log::Destination::StandardError);
    assert_eq!(to("/a:b"), log::Destination::File("/a:b".into()));
    assert_eq!(
        to("file:syslog:x"),
        log::Destination::File("syslog:x".into())
    );
    assert_eq!(to("journald:web"), service(log::Protocol::Journal, "web"));
    assert_eq!(to("syslog:web"), service(log::Protocol::Syslog, "web"));
}

#[test]
fn bad_global_values_are_named() {
    for (line, expected) in [
        (["--log-format", "xml", "list"], "invalid log-format: xml"),
        (["--log-level", "loud", "list"], "invalid log-level: loud"),
        (["--rootless", "maybe", "list"], "invalid rootless: maybe"),
        (
            ["--cgroup-manager", "x", "list"],
            "invalid cgroup-manager: x",
        ),
        (
            ["--root", "/", "list"],
            "invalid root: '/' cannot hold the state of containers",
        ),
        (
            ["--root", "//.", "list"],
            "invalid root: '/' cannot hold the state of containers",
        ),
        (["--root", "", "list"], "invalid root: empty path"),
    ] {
        assert_eq!(text(&line), expected);
    }
}

#[test]
fn the_default_root_is_runcs_with_our_name() {
    let at = |euid, in_userns, user: Option<&str>, xdg: Option<&str>| {
        let here = Surroundings {
            euid,
            in_userns,
            user: user.map(Into::into),
            xdg_runtime_dir: xdg.map(Into::into),
        };
        let (path, sticky) = default_root(&here);
        (path.into_os_string().into_string().unwrap(), sticky)
    };
    let run = ("/run/caisson".to_owned(), false);
    let xdg = ("/x/caisson".to_owned(), true);
    assert_eq!(at(0, false, None, Some("/x")), run);
    assert_eq!(at(1000, false, None, Some("/x")), xdg);
    assert_eq!(at(1000, false, None, None), run);
    assert_eq!(at(1000, false, None, Some("")), run);
    assert_eq!(at(0, true, None, Some("/x")), xdg);
    assert_eq!(at(0, true, Some("me"), Some("/x")), xdg);
    assert_eq!(at(0, true, Some("root"), Some("/x")), run);
}

#[test]
fn wrong_numbers_of_arguments_are_told_as_by_runc() {
    for (line, expected) in [
        (
            &["create"][..],
            "caisson: \"create\" requires exactly 1 argument(s)",
        ),
        (
            &["create", "a", "b"],
            "caisson: \"create\" requires exactly 1 argument(s)",
        ),
        (
            &["kill"],
            "caisson: \"kill\" requires a minimum of 1 argument(s)",
        ),
        (
            &["kill", "a", "9", "b"],
            "caisson: \"kill\" requires a maximum of 2 argument(s)",
        ),
        (
            &["exec"],
            "caisson: \"exec\" requires a minimum of 1 argument(s)",
        ),
        (
            &["list", "x"],
            "caisson: \"list\" requires exactly 0 argument(s)",
        ),
        (&["exec", "x"], "process args cannot be empty"),
        (&["nosuch"], "No help topic for 'nosuch'"),
        (&["seccomp", "x"], "No help topic for 'seccomp x'"),
        (
            &["mounts", "list", "x", "f"],
            "No help topic for 'mounts list'",
        ),
        (
            &["seccomp", "dump"],
            "seccomp dump needs a container or --profile",
        ),
    ] {
        assert_eq!(text(line), expected);
    }
}

#[test]
fn an_exec_that_fails_does_not_look_like_its_process() {
    assert_eq!(
        run(&["exec", "-u", "root", "x", "ls"])
            .unwrap_err()
            .exit_code,
        255
    );
    assert_eq!(run(&["exec", "x"]).unwrap_err().exit_code, 255);
    assert_eq!(run(&["exec"]).unwrap_err().exit_code, 1);
    assert_eq!(run(&["kill", "x", "FOO"]).unwrap_err().exit_code, 1);
}

#[test]
fn errors_of_a_command_go_to_the_log() {
    let rejected = run(&["--log", "/l", "--log-format", "json", "create"]).unwrap_err();
    assert_eq!(rejected.log.to, log::Destination::File("/l".into()));
    assert_eq!(rejected.log.format, log::Format::Json);
    assert_eq!(rejected.error.kind(), Kind::Usage);
}

#[test]
fn bad_values_of_flags_are_named() {
    for (line, part) in [
        (
            &["run", "--preserve-fds", "x", "x"][..],
            "invalid value \"x\" for flag -preserve-fds",
        ),
        (
            &["run", "--preserve-fds", "-1", "x"],
            "invalid value \"-1\" for flag -preserve-fds",
        ),
        (&["list", "-f", "xml"], "invalid format option"),
        (&["list", "-q=maybe"], "invalid boolean value"),
        (&["exec", "-u", "root", "x", "ls"], "invalid uid \"root\""),
        (&["exec", "-g", "-1", "x", "ls"], "invalid gid \"-1\""),
        (
            &["exec", "--cgroup", "cpu:a", "x", "ls"],
            "invalid --cgroup argument: cpu:a",
        ),
        (
            &["exec", "--cgroup", "a", "--cgroup", "b", "x", "ls"],
            "invalid --cgroup argument: a",
        ),
        (
            &["exec", "--cgroup", "a/../../b", "x", "ls"],
            "invalid --cgroup argument: a/../../b is not a sub cgroup path",
        ),
        (&["state", "a/b"], "invalid container ID format: \"a/b\""),
        (&["state", ".."], "invalid container ID format"),
        (&["state", ""], "invalid container ID format"),
    ] {
        assert!(text(line).starts_with(part), "{line:?}: {}", text(line));
    }
}

#[test]
fn help_and_version_win() {
    for line in [
        &[][..],
        &["--help"],
        &["-h"],
        &["help"],
        &["h"],
        &["--help", "create"],
        &["--help", "--version"],
    ] {
        assert!(
            printed(line).starts_with("NAME:\n   caisson - Open Container"),
            "{line:?}"
        );
    }
    for line in [
        &["create", "--help"][..],
        &["create", "x", "-h"],
        &["help", "create"],
        &["create", "--help", "a", "b"],
    ] {
        assert!(
            printed(line).starts_with("NAME:\n   caisson create - "),
            "{line:?}"
        );
    }
    assert!(printed(&["--version", "list"]).starts_with("caisson version "));
    let Command::Exec(exec) = ok(&["exec", "x", "ls", "--help"]) else {
        panic!()
    };
    assert!(
        matches!(exec.process, ExecProcess::Changed(changes) if changes.args == ["ls", "--help"])
    );
}

#[test]
fn a_link_named_runc_answers_as_runc() {
    let version = |argv0: &str| {
        let argv = [argv0, "-v"].map(OsString::from);
        match parse(argv, &Surroundings::default()).unwrap().command {
            Command::Print(text) => text.lines().next().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    for name in ["/usr/bin/runc", "runc", "buildkit-runc"] {
        assert!(version(name).starts_with("runc version "), "{name}");
    }
    for name in ["caisson", "/x/crun", "", "/"] {
        assert!(version(name).starts_with("caisson version "), "{name}");
    }
}

mod images {
    use super::*;
    use crate::cli::images::{CgroupsMode, Checkpoint, NetworkLock, Restore};

    fn checkpoint(line: &[&str]) -> Checkpoint {
        match ok(&[&["checkpoint"], line].concat()) {
            Command::Checkpoint(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn restore(line: &[&str]) -> Restore {
        match ok(&[&["restore"], line].concat()) {
            Command::Restore(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn podman_checkpoints_twice() {
        let line = "--image-path /i --work-path /w --leave-running --tcp-established --file-locks --pre-dump --parent-path ../pre-checkpoint web";
        let request = checkpoint(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(request.parent_path, Some("../pre-checkpoint".into()));
        assert!(request.pre_dump && request.leave_running);
        let images = request.images;
        assert_eq!(images.path, PathBuf::from("/i"));
        assert!(images.tcp_established && images.file_locks && !images.shell_job);
        assert_eq!(
            checkpoint(&["web"]).images.path,
            PathBuf::from("checkpoint")
        );
    }

    #[test]
    fn containerd_restores() {
        let line = "--image-path /i --work-path /w --detach --pid-file /p --no-pivot -no-subreaper --bundle /b web";
        let request = restore(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(request.create.bundle, PathBuf::from("/b"));
        assert!(request.detach && request.no_subreaper && request.create.no_pivot);
    }

    #[test]
    fn podmans_probe_is_told_that_a_value_is_missing() {
        let text = text(&["restore", "--lsm-mount-context"]);
        assert!(text.contains("flag needs an argument"), "{text}");
    }

    #[test]
    fn what_criu_would_not_understand_is_refused_in_runcs_words() {
        let refused = |flag: &str, value: &str| text(&["checkpoint", flag, value, "web"]);
        assert_eq!(
            refused("--parent-path", "/x"),
            "--parent-path must be relative"
        );
        assert_eq!(
            refused("--empty-ns", "pid"),
            "namespace \"pid\" is not supported"
        );
        let mode = refused("--manage-cgroups-mode", "none");
        assert_eq!(mode, "invalid manage-cgroups-mode value");
        let lock = refused("--network-lock", "none");
        assert_eq!(lock, "unknown network lock method specified");
        let usage = "Use --page-server ADDRESS:PORT to specify page server";
        for wrong in ["host", ":1", "host:"] {
            assert_eq!(refused("--page-server", wrong), usage);
        }
        for wrong in ["host:x", "host:0", "host:65536"] {
            assert_eq!(refused("--page-server", wrong), "Invalid port number");
        }
        let server = checkpoint(&["--page-server", "[::1]:27", "web"]).page_server;
        let server = server.unwrap();
        assert_eq!((server.address.as_str(), server.port), ("::1", 27));
        let images = restore(&["--manage-cgroups-mode=strict", "web"]).images;
        assert_eq!(images.cgroups, CgroupsMode::Strict);
        assert_eq!(images.network_lock, None);
        let images = checkpoint(&["--network-lock", "nftables", "web"]).images;
        assert_eq!(images.network_lock, Some(NetworkLock::Nftables));
    }
}
