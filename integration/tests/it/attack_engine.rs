//! Attacks from outside: a config or a command line that says what it should not, and what is left lying around by who calls.
//!
//! Some of it comes from an image by way of an engine: Podman copies an image's annotations into the config, and working
//! directory, environment and arguments are the image's with all engines.

use integration::host::{cgroup_of, hierarchy, processes};
use integration::place::{probe, unique};
use integration::{Bundle, Finished, Seen, beyond, require};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

mod descriptors {
    use super::*;

    #[test]
    fn of_the_runtime_are_not_passed_on_as_if_they_were_the_callers() {
        require!(containers);
        beyond!(
            of_the_runtime_are_not_passed_on_as_if_they_were_the_callers,
            [
                runc("passes on what it opened itself"),
                crun("passes on what it opened itself")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.runtime.globals = vec!["--log".to_owned(), bundle.scratch.name("log")];
        // As in a service that systemd started by a socket, which has closed what it got but kept the environment.
        for count in 1..=12 {
            bundle.runtime.env = vec![("LISTEN_FDS".to_owned(), count.to_string())];
            bundle.run().failure().says("preserved-fd 1");
        }
        for count in ["4294967293", "4294967294", "4294967295"] {
            bundle.runtime.env = vec![("LISTEN_FDS".to_owned(), count.to_owned())];
            bundle.run().failure();
            bundle.run_with(&["--preserve-fds", "3"]).failure();
        }
        bundle.runtime.env.clear();
        for count in 1..=12 {
            bundle
                .run_with(&["--preserve-fds", &count.to_string()])
                .failure()
                .says("preserved-fd 1");
        }
        let (one, two) = (
            bundle.scratch.file("one", ""),
            bundle.scratch.file("two", ""),
        );
        bundle.runtime = bundle.runtime.with_files(&[&one, &two]);
        bundle
            .run_with(&["--preserve-fds", "3"])
            .failure()
            .says("preserved-fd 3");
        let seen = bundle.report_with(&["--preserve-fds", "1"], &[]);
        assert_eq!(seen.fds.keys().copied().collect::<Vec<i32>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn of_the_runtime_are_not_passed_on_to_exec() {
        require!(containers);
        beyond!(
            of_the_runtime_are_not_passed_on_to_exec,
            [
                runc("passes on what it opened itself"),
                crun("passes on what it opened itself")
            ]
        );
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        for count in 1..=12 {
            let finished = container.exec(
                &["--preserve-fds", &count.to_string()],
                &["/bin/probe", "report"],
            );
            finished.failure().says("preserved-fd 1");
        }
    }

    #[test]
    fn do_not_reach_hooks() {
        require!(containers);
        beyond!(
            do_not_reach_hooks,
            [
                runc("gives its own environment to a hook without one"),
                crun("passes on what its caller left open")
            ]
        );
        let mut bundle = Bundle::new();
        let notes = bundle.scratch.dir("notes").join("all");
        // startContainer hooks see the container's root.
        bundle.config.bind(
            notes.parent().unwrap(),
            notes.parent().unwrap().to_str().unwrap(),
            &["rw"],
        );
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            let path = if kind == "startContainer" {
                Path::new("/bin/probe").to_owned()
            } else {
                probe()
            };
            let hook =
                json!({ "path": path, "args": ["probe", "note", notes.to_str().unwrap(), kind] });
            bundle.config.push(&format!("/hooks/{kind}"), hook);
        }
        bundle.config.probe(&["exit", "0"]);
        bundle.runtime.env = vec![("SECRET".to_owned(), "of the host".to_owned())];
        let root = Path::new("/");
        bundle.runtime = bundle.runtime.with_files(&[root, root, root, root]);
        for flags in [&[][..], &["--preserve-fds", "2"]] {
            fs::remove_file(&notes).ok(); // Absent the first time.
            bundle.run_with(flags).success();
            let text = fs::read_to_string(&notes).unwrap();
            assert_eq!(text.lines().count(), 6);
            for line in text.lines() {
                let note: Value = serde_json::from_str(line).unwrap();
                let seen: Seen = serde_json::from_value(note["seen"].clone()).unwrap();
                // Beside the directory that it reads this from, by a number of which it knows only the one in its own pid namespace.
                let listing =
                    |target: &str| target.starts_with("/proc/") && target.ends_with("/fd");
                let open = seen.fds.iter().filter(|(_, target)| !listing(target));
                let open: Vec<i32> = open.map(|(number, _)| *number).collect();
                assert_eq!(open, [0, 1, 2], "{}: {:?}", note["label"], seen.fds);
                assert_eq!(seen.var("SECRET"), None, "{}", note["label"]);
            }
        }
    }

    #[test]
    fn that_are_closed_are_not_taken_by_files_of_the_runtime() {
        require!(containers);
        beyond!(
            that_are_closed_are_not_taken_by_files_of_the_runtime,
            [
                runc("lets a pipe of its own take the place of a closed stream"),
                crun_before("1.28", "runs nothing if its standard streams are closed")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.config.probe(&["exit", "0"]);
        bundle.config.push(
            "/mounts",
            json!({ "destination": "/notes", "type": "bind", "source": bundle.scratch.dir("notes"), "options": ["bind", "rw"] }),
        );
        bundle.config.probe(&["note", "/notes/all", "x"]);
        bundle.save();
        let arguments = format!(
            "exec {} --root {} run --bundle {} {} 0<&- 1>&- 2>&-",
            bundle.runtime.binary.display(),
            bundle.runtime.root.display(),
            bundle.path().display(),
            unique("closed"),
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &arguments]);
        integration::runtime::finish(command);
        let text = fs::read_to_string(bundle.scratch.path().join("notes/all")).unwrap();
        let note: Value = serde_json::from_str(&text).unwrap();
        for (number, target) in note["seen"]["fds"]["Ok"]
            .as_object()
            .or(note["seen"]["fds"].as_object())
            .unwrap()
        {
            let target = target.as_str().unwrap_or_default();
            assert!(
                target.starts_with("/dev/null") || target.starts_with("/notes"),
                "{number}: {target}"
            );
        }
    }
}

mod paths {
    use super::*;

    #[test]
    fn of_sysctls_do_not_leave_their_namespace() {
        require!(containers);
        let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
        for name in [
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "net/./../kernel/core_pattern",
            "net.ipv4.././../kernel/core_pattern",
            "net/ipv4/../../kernel/core_pattern",
            "net/../../1/oom_score_adj",
            "net/../../../etc/hostname",
            "fs.mqueue.//.//.kernel.core_pattern",
            "/kernel/core_pattern",
            "",
            "net",
            "net/",
            "net..",
            "kernel.sem/../core_pattern",
        ] {
            let mut bundle = Bundle::new();
            bundle
                .config
                .set("/linux/sysctl", json!({ name: "|/bin/false" }));
            bundle.create_fails().failure();
        }
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    }

    #[test]
    fn of_cgroups_do_not_leave_the_hierarchy() {
        require!(containers);
        beyond!(
            of_cgroups_do_not_leave_the_hierarchy,
            [crun("follows .. out of the hierarchy, and fails there")]
        );
        let mut bundle = Bundle::new();
        for (path, place) in [
            ("/../../NAME", "NAME"),
            ("/a/../../../NAME", "NAME"),
            ("/./NAME/../NAME", "NAME"),
        ] {
            let name = unique("astray");
            bundle
                .config
                .set("/linux/cgroupsPath", path.replace("NAME", &name));
            let container = bundle.create();
            assert_eq!(
                cgroup_of(container.pid),
                hierarchy().join(place.replace("NAME", &name))
            );
        }
        // Others have been seen to give the machine itself the limits and the device filter of a container.
        if !integration::peer::is("caisson") {
            return;
        }
        for path in ["/", "..", "/..", "/a/..", "/../.."] {
            bundle.config.set("/linux/cgroupsPath", path);
            let finished = bundle.call("create", &[], "rootless");
            finished.failure();
        }
    }

    #[test]
    fn of_a_cgroup_in_use_are_refused_and_its_processes_live() {
        require!(containers);
        beyond!(
            of_a_cgroup_in_use_are_refused_and_its_processes_live,
            [
                runc_before("1.2", "warns, and puts both containers into one group"),
                crun("puts both containers into one group")
            ]
        );
        let path = format!("/{}", unique("shared"));
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/cgroupsPath", path.as_str());
        let container = bundle.pause();
        let mut second = Bundle::new();
        second.config.set("/linux/cgroupsPath", path.as_str());
        let id = unique("second");
        second.call("create", &[], &id).failure();
        second.runtime.call(&["delete", "--force", &id]).success();
        assert_eq!(container.status(), "running");
    }

    #[test]
    fn of_containers_are_names() {
        require!(containers);
        beyond!(
            of_containers_are_names,
            [crun_before(
                "1.21",
                "leaves a directory of a container that it refused"
            )]
        );
        let bundle = Bundle::new();
        for id in [
            "",
            ".",
            "..",
            "../x",
            "x/../../y",
            "/x",
            "x/y",
            "x\ny",
            "x y",
            "ä",
            "-x/..",
            &"x".repeat(300),
        ] {
            bundle.call("create", &[], id).failure();
            for verb in ["state", "start", "delete"] {
                bundle.runtime.call(&[verb, id]).failure();
            }
        }
        let left = fs::read_dir(&bundle.runtime.root).map_or(0, Iterator::count);
        assert_eq!(left, 0, "in the state directory");
        assert!(
            !bundle.scratch.path().join("x").exists() && !bundle.scratch.path().join("y").exists()
        );
    }

    #[test]
    fn of_overlay_layers_are_not_taken_from_an_image() {
        require!(containers);
        // Podman passes the image's annotations on, and the root that it mounted lies outside of the bundle.
        let mut bundle = Bundle::new();
        let elsewhere = bundle.scratch.path().join("merged");
        fs::rename(bundle.rootfs(), &elsewhere).unwrap();
        bundle
            .config
            .set("/root/path", elsewhere.to_str().unwrap())
            .probe(&["exit", "0"]);
        let plain = bundle.config.clone();
        let secret = bundle.scratch.dir("secret");
        bundle.scratch.file("secret/key", "of the host\n");
        let work = bundle.scratch.dir("work");
        for annotations in [
            json!({ "dev.caisson.overlay.lower": secret }),
            json!({ "dev.caisson.overlay.lower": secret, "dev.caisson.overlay.upper": secret, "dev.caisson.overlay.work": work }),
        ] {
            bundle.config = plain.clone();
            bundle.config.set("/annotations", annotations);
            let finished = bundle.run();
            if integration::peer::is("caisson") {
                finished.failure().says("annotation");
            } else {
                finished.success();
            }
        }
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
    }

    #[test]
    fn of_pid_files_replace_links_and_do_not_follow_them() {
        require!(containers);
        beyond!(
            of_pid_files_replace_links_and_do_not_follow_them,
            [
                runc("is stopped by a file with the name that it writes to first"),
                crun("writes through a link")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.config.probe(&["exit", "0"]);
        let directory = bundle.scratch.dir("shared");
        let victim = bundle.scratch.file("victim", "untouched");
        for name in ["pid", ".pid"] {
            symlink(&victim, directory.join(name)).unwrap();
        }
        let file = directory.join("pid");
        bundle
            .run_with(&["--pid-file", file.to_str().unwrap()])
            .success();
        assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        assert!(fs::read_to_string(&file).unwrap().parse::<u32>().is_ok());
    }

    #[test]
    fn of_console_sockets_that_are_none_are_refused() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.set("/process/terminal", true);
        let (fifo, stream, datagram) = (
            bundle.scratch.path().join("fifo"),
            bundle.scratch.path().join("stream"),
            bundle.scratch.path().join("datagram"),
        );
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        drop(UnixListener::bind(&stream).unwrap()); // Nobody listens any more.
        let _datagram = UnixDatagram::bind(&datagram).unwrap();
        let plain = bundle.scratch.file("plain", "");
        let directory = bundle.scratch.dir("directory");
        let missing = bundle.scratch.path().join("missing");
        for path in [&fifo, &stream, &datagram, &plain, &directory, &missing] {
            let made = bundle.create_with(&["--console-socket", path.to_str().unwrap()]);
            assert!(made.is_err(), "{}", path.display());
        }
        // One that does not take what it gets.
        let busy = bundle.scratch.path().join("busy");
        let listener = UnixListener::bind(&busy).unwrap();
        let container = bundle.create_with(&["--console-socket", busy.to_str().unwrap()]);
        drop(listener);
        drop(container.unwrap());
    }

    #[test]
    fn of_devices_stay_in_the_root() {
        require!(containers);
        let mut bundle = Bundle::new();
        let outside = bundle.scratch.path().join("outside");
        let upwards = format!("/dev/{}{}", "../".repeat(30), outside.display());
        bundle.config.set(
            "/linux/devices",
            json!([{ "path": upwards, "type": "c", "major": 1, "minor": 3, "uid": 7, "gid": 7 }]),
        );
        bundle.config.writable().probe(&["exit", "0"]);
        bundle.run();
        assert!(!outside.exists());
    }
}

mod amounts {
    use super::*;

    #[test]
    fn of_arguments_that_no_kernel_takes_are_an_error() {
        require!(containers);
        beyond!(
            of_arguments_that_no_kernel_takes_are_an_error,
            [
                runc_before("1.2", "takes minutes for so many variables"),
                crun("takes minutes for so many variables")
            ]
        );
        let mut bundle = Bundle::new();
        let huge = "x".repeat(3 << 20);
        bundle.config.args(&["/bin/probe", "echo", &huge]);
        assert_too_long(bundle.run());
        bundle
            .config
            .probe(&["exit", "0"])
            .env(&format!("X={huge}"));
        assert_too_long(bundle.run());
        let many: Vec<String> = (0..200_000)
            .map(|n| format!("V{n}=some value that takes up room"))
            .collect();
        bundle.config.set("/process/env", many);
        assert_too_long(bundle.run());
    }

    fn assert_too_long(finished: Finished) {
        finished.failure().says("argument list too long");
    }

    #[test]
    fn that_the_kernel_takes_are_passed_on() {
        require!(containers);
        let mut bundle = Bundle::new();
        let long = "y".repeat(100_000);
        for n in 0..10 {
            bundle.config.env(&format!("LONG{n}={long}"));
        }
        let seen = bundle.report(&[]);
        assert_eq!(seen.var("LONG9").map(str::len), Some(long.len()));
    }
}

/// The state is only for who owns it: another user's program cannot start a container, nor read its config.
#[test]
fn other_users_reach_nothing_of_the_state() {
    require!(containers);
    let bundle = Bundle::new();
    let container = bundle.create();
    let state = bundle.runtime.root.join(&container.id);
    let actions: Vec<String> = ["exec.fifo", "state.json", "config.json"]
        .iter()
        .flat_map(|name| {
            ["read", "write"].map(|verb| format!("{verb}:{}", state.join(name).display()))
        })
        .collect();
    // Where other users may run it, which a build directory need not be.
    let tool = bundle.scratch.path().join("probe");
    fs::copy(probe(), &tool).unwrap();
    let mut command = Command::new(&tool);
    command.arg("try").args(&actions).uid(12345).gid(12345);
    let finished = integration::runtime::finish(command).success();
    for action in &actions {
        assert_eq!(finished.json()[action], "EACCES", "{action}");
    }
    assert_eq!(container.status(), "created");
}

/// What a caller left in its environment is not the container's business.
#[test]
fn the_environment_of_the_caller_stays_outside() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.runtime.env = vec![
        ("SECRET".to_owned(), "of the host".to_owned()),
        ("LD_PRELOAD".to_owned(), "/no/such/library".to_owned()),
        ("XDG_RUNTIME_DIR".to_owned(), "/run/user/0".to_owned()),
    ];
    let reports = bundle.config.clone();
    let names = |seen: &Seen| {
        seen.env
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&bundle.report(&[])), ["PATH", "TERM", "HOME"]);
    let container = bundle.pause();
    assert_eq!(
        names(&container.exec_report(&[], &[])),
        ["PATH", "TERM", "HOME"]
    );
    assert!(processes(&container.id).contains(&container.pid) || container.pid > 0);
    drop(container);
    bundle.config = reports;
}
