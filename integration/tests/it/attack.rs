//! Attacks from inside: a hostile image, and a hostile process in a container, on the commands that come to it.
//!
//! What was published once is in `cve`; this is what the code was searched for. Kill at every system call and fuzzing are to come.

use integration::host::alive;
use integration::{Bundle, Container, beyond, require};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What may be in the place of a file that the runtime opens: a maker, given where.
type Trap = (&'static str, fn(&Path));

/// Opening one of these blocks, acts, or shows something that is not the image's.
const TRAPS: [Trap; 9] = [
    ("fifo", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ("directory", |path| fs::create_dir(path).unwrap()),
    ("link to itself", |path| {
        symlink(path.file_name().unwrap(), path).unwrap()
    }),
    ("link to nothing", |path| {
        symlink("/no/such/file", path).unwrap()
    }),
    ("link to the environment", |path| {
        symlink("/proc/self/environ", path).unwrap()
    }),
    ("link to the memory", |path| {
        symlink("/proc/self/mem", path).unwrap()
    }),
    ("link to the kernel's log", |path| {
        symlink("/proc/kmsg", path).unwrap()
    }),
    ("link to a descriptor", |path| {
        symlink("/proc/self/fd/4", path).unwrap()
    }),
    ("device", |path| {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(path, SFlag::S_IFCHR, mode, makedev(5, 0)).unwrap();
    }),
];

mod passwd {
    use super::*;

    #[test]
    fn of_any_kind_costs_no_more_than_the_home_directory() {
        require!(containers);
        beyond!(
            of_any_kind_costs_no_more_than_the_home_directory,
            [
                runc("blocks on a fifo for ever"),
                crun("refuses what it cannot read")
            ]
        );
        for (name, make) in TRAPS {
            let mut bundle = Bundle::new();
            // What the runtime itself was given must not show, whatever it looks like.
            bundle.runtime.env = vec![("X".to_owned(), "x:x:0:0::/leaked:".to_owned())];
            let passwd = bundle.rootfs().join("etc/passwd");
            fs::remove_file(&passwd).unwrap();
            make(&passwd);
            let seen = bundle.report(&[]);
            assert_eq!(seen.var("HOME"), Some("/"), "{name}");
        }
    }

    #[test]
    fn without_end_is_read_to_a_limit() {
        require!(containers);
        beyond!(
            without_end_is_read_to_a_limit,
            [runc_before(
                "1.2",
                "fails at a line that is longer than its buffer"
            )]
        );
        let bundle = Bundle::new();
        let passwd = bundle.rootfs().join("etc/passwd");
        let file = fs::OpenOptions::new().write(true).open(passwd).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(bundle.report(&[]).var("HOME").is_some());
        // One line that is longer than any buffer, and what follows it.
        let line = format!(
            "{}:x:0:0::/long:\nroot:x:0:0::/right:/bin/sh\n",
            "a".repeat(100_000)
        );
        bundle.file("etc/passwd", &line);
        assert!(bundle.report(&[]).var("HOME").is_some());
    }
}

mod device_nodes {
    use super::*;

    /// A bundle whose /dev is the image's own.
    fn with_own_dev() -> Bundle {
        let mut bundle = Bundle::new();
        for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
            bundle.config.unmount(mount);
        }
        bundle.config.writable().probe(&["exit", "0"]);
        bundle
    }

    #[test]
    fn that_are_none_are_not_opened_as_standard_input() {
        require!(containers);
        beyond!(
            that_are_none_are_not_opened_as_standard_input,
            [
                runc_before("1.2", "opens a terminal, or what else there is"),
                crun("leaves the host's /dev/null open")
            ]
        );
        for (name, make) in TRAPS {
            let bundle = with_own_dev();
            make(&bundle.rootfs().join("dev/null"));
            let finished = bundle.run();
            // Nothing there is nothing to be led astray by.
            let harmless = ["link to nothing"].contains(&name);
            assert_eq!(finished.status.success(), harmless, "{name}: {finished}");
        }
    }

    #[test]
    fn that_are_none_are_not_opened_as_a_terminal() {
        require!(containers);
        for (name, make) in TRAPS {
            let mut bundle = with_own_dev();
            bundle.config.set("/process/terminal", true);
            make(&bundle.rootfs().join("dev/ptmx"));
            // Either another one is put in its place or the terminal cannot be made.
            let finished = bundle.run();
            assert!(!finished.stdout.contains("leaked"), "{name}: {finished}");
        }
    }

    #[test]
    fn that_are_replaced_later_make_exec_fail_and_no_more() {
        require!(containers);
        let mut bundle = Bundle::new();
        // Its own would be taken.
        bundle.config.writable().privileged().unmount("/dev/pts");
        let container = bundle.pause();
        let dev = Path::new("/proc")
            .join(container.pid.to_string())
            .join("root/dev/ptmx");
        for (name, make) in TRAPS {
            fs::remove_file(&dev)
                .or_else(|_| fs::remove_dir(&dev))
                .unwrap();
            make(&dev);
            let finished = container.exec(&["--tty"], &["/bin/probe", "exit", "0"]);
            finished.failure();
            let finished = container.exec(&[], &["/bin/probe", "echo", "here"]);
            assert_eq!(finished.success().stdout, "here\n", "{name}");
        }
    }
}

mod mounts {
    use super::*;

    #[test]
    fn on_links_to_the_root_stay_inside() {
        require!(containers);
        let mut bundle = Bundle::new();
        symlink("/", bundle.rootfs().join("slash")).unwrap();
        symlink("../../../..", bundle.rootfs().join("up")).unwrap();
        for target in ["/slash", "/up", "/slash/../slash"] {
            let plain = bundle.config.clone();
            bundle
                .config
                .writable()
                .mount(target, "tmpfs", "astray", &[])
                .probe(&["exit", "0"]);
            bundle.run();
            assert!(
                !integration::host::mounts()
                    .iter()
                    .any(|mount| mount.source == "astray"),
                "{target}"
            );
            bundle.config = plain;
        }
    }

    #[test]
    fn that_copy_up_take_what_the_image_has_and_nothing_of_the_host() {
        require!(containers);
        beyond!(
            that_copy_up_take_what_the_image_has_and_nothing_of_the_host,
            [runc("cannot copy a fifo"), crun("copies device nodes")]
        );
        let mut bundle = Bundle::new();
        let outside = bundle.scratch.file("outside", "of the host\n");
        bundle.file("data/plain", "plain\n");
        let data = bundle.rootfs().join("data");
        symlink(&outside, data.join("link")).unwrap();
        mkfifo(&data.join("fifo"), Mode::S_IRWXU).unwrap();
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&data.join("disk"), SFlag::S_IFBLK, mode, makedev(8, 0)).unwrap();
        bundle
            .config
            .mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
        let seen = bundle.report(&[
            "ls=/data",
            "cat=/data/plain",
            "cat=/data/link",
            "stat=/data/link",
        ]);
        assert_eq!(*seen.files["/data/plain"], "plain\n");
        assert_eq!(seen.stat("/data/link").link.as_deref(), outside.to_str());
        assert!(seen.files["/data/link"].reason().is_some());
        assert!(!seen.lists["/data"].contains(&"disk".to_owned()));
    }

    #[test]
    fn on_loops_of_links_fail() {
        require!(containers);
        let mut bundle = Bundle::new();
        symlink("b", bundle.rootfs().join("a")).unwrap();
        symlink("a", bundle.rootfs().join("b")).unwrap();
        let plain = bundle.config.clone();
        for target in ["/a", "/a/x", "/b/../a/y"] {
            bundle.config = plain.clone();
            bundle
                .config
                .writable()
                .mount(target, "tmpfs", "tmpfs", &[]);
            // `..` is taken by the text alone, so the last one is a plain name if it is one at all.
            let finished = bundle.run();
            assert!(finished.code() < 128, "{target}: {finished}");
        }
        bundle.config = plain;
        for list in ["maskedPaths", "readonlyPaths"] {
            let kept = bundle.config.clone();
            bundle
                .config
                .set(&format!("/linux/{list}"), json!(["/a/x"]));
            bundle.create_fails().failure();
            bundle.config = kept;
        }
    }
}

mod processes {
    use super::*;

    #[test]
    fn without_their_first_thread_are_alive() {
        require!(containers);
        beyond!(
            without_their_first_thread_are_alive,
            [
                runc("takes them for stopped"),
                crun("takes them for stopped")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.config.probe(&["leaderless"]);
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "ready");
        let zombie = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid)).unwrap();
            stat.contains(") Z ")
        };
        while !zombie() {
            std::thread::yield_now();
        }
        assert_eq!(container.status(), "running");
        container.call("delete", &[]).failure();
        container.kill("KILL").success();
        assert_eq!(container.wait(), 137);
        assert_eq!(container.status(), "stopped");
        container.delete().success();
    }

    #[test]
    fn with_deceptive_names_are_what_they_are() {
        require!(containers);
        for name in [
            "2920 5a203120312031",
            "29205a2031",
            "fffe80c328",
            "0a0a0a",
            "2829282928",
        ] {
            let name = name.replace(' ', "");
            let mut bundle = Bundle::new();
            bundle.config.probe(&["name", &name, "pause"]);
            let mut container = bundle.create();
            container.start().success();
            assert_eq!(container.stdout.line(), "ready");
            assert_eq!(container.status(), "running", "{name}");
            bundle
                .runtime
                .call(&["ps", "--format", "json", &container.id])
                .success();
            bundle.runtime.call(&["list"]).success();
            container.exec(&[], &["/bin/probe", "exit", "0"]).success();
            container.kill("KILL").success();
            assert_eq!(container.wait(), 137);
            container.delete().success();
        }
    }

    #[test]
    fn that_trace_do_not_hide_the_end_of_others() {
        require!(containers);
        beyond!(
            that_trace_do_not_hide_the_end_of_others,
            [runc_race("waits for ever for a process that is traced")]
        );
        let mut bundle = Bundle::new();
        bundle.config.privileged().probe(&["seize"]);
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "ready");
        for _ in 0..30 {
            let finished =
                container.exec(&[], &["/bin/probe", "write-file", "/dev/shm/x", "9000000"]);
            assert_eq!(finished.code(), 0, "{finished}");
        }
        container.kill("KILL").success();
        assert!(
            container.stdout.rest().contains("seized"),
            "nothing was traced"
        );
    }

    /// CVE-2016-9962: between clone and execve, a process of the runtime has the host's files open.
    #[test]
    fn that_share_a_pid_namespace_see_nothing_of_one_that_waits_to_be_started() {
        require!(containers);
        let mut first = Bundle::new();
        first.config.probe(&["spy"]);
        waits_unseen(first, |_| {});
    }

    #[test]
    fn that_share_a_user_namespace_see_nothing_of_one_that_waits_to_be_started() {
        require!(containers, userns);
        beyond!(
            that_share_a_user_namespace_see_nothing_of_one_that_waits_to_be_started,
            [
                runc_before("1.1.15", "wants mappings for a namespace that is joined"),
                crun_race("leaves its waiting process dumpable on some machines")
            ]
        );
        let mut first = Bundle::new();
        first
            .config
            .user_namespace(100_000, 65536)
            .privileged()
            .probe(&["spy"]);
        waits_unseen(first, |config| {
            config.privileged();
        });
    }

    /// `first` spies; a second container joins its pid namespace, and its user namespace if it has one, and waits at the start.
    fn waits_unseen(first: Bundle, change: impl Fn(&mut integration::Config)) {
        let mut spy = first.create();
        spy.start().success();
        assert_eq!(spy.stdout.line(), "ready");
        let has_user = first.config.0["linux"]["namespaces"].as_array().unwrap();
        let has_user = has_user.iter().any(|namespace| namespace["type"] == "user");
        let mut second = Bundle::new();
        second
            .config
            .join_namespace("pid", &format!("/proc/{}/ns/pid", spy.pid));
        if has_user {
            second
                .config
                .join_namespace("user", &format!("/proc/{}/ns/user", spy.pid));
        }
        second.config.probe(&["pause"]);
        // The same file, so that the spy takes the program for one of its own once it runs.
        let program = second.rootfs().join("bin/probe");
        fs::remove_file(&program).unwrap();
        fs::hard_link(first.rootfs().join("bin/probe"), &program).unwrap();
        change(&mut second.config);
        let mut waiting = second.create();
        let mut seen = spy.stdout.until("exe E");
        waiting.start().success();
        assert_eq!(waiting.stdout.line(), "ready");
        waiting.kill("KILL").success();
        waiting.wait();
        waiting.delete().success();
        spy.kill("KILL").success();
        seen += &spy.stdout.rest();
        for line in seen.lines() {
            let (_, outcome) = line.split_once(' ').unwrap_or_default();
            assert!(
                matches!(outcome, "EACCES" | "EPERM" | ""),
                "the spy got something: {seen}"
            );
        }
    }

    #[test]
    fn many_and_deep_in_groups_of_their_own_are_all_removed() {
        require!(containers, busybox);
        beyond!(
            many_and_deep_in_groups_of_their_own_are_all_removed,
            [crun_race(
                "removes groups only while processes still leave them"
            )]
        );
        let mut bundle = Bundle::with_busybox();
        let nest = "cd /sys/fs/cgroup; n=0
            while [ $n -lt 30 ]; do
                mkdir g side; cd g; sleep 1000 & echo $! > cgroup.procs; n=$((n+1))
            done
            echo nested; exec sleep 1000";
        bundle
            .config
            .privileged()
            .writable()
            .unmount("/sys/fs/cgroup")
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
            .args(&["/bin/sh", "-c", nest]);
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "nested");
        container.delete_by_force().success();
        assert!(!alive(container.pid));
        bundle.assert_gone(&container.id);
    }
}

/// What `exec` finds is what the container made of itself in the meantime.
#[test]
fn exec_survives_a_root_that_was_covered() {
    require!(containers);
    beyond!(
        exec_survives_a_root_that_was_covered,
        [
            runc("executes only where /dev and /proc are its own"),
            crun_before("1.21", "executes only where /proc is its own")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.privileged().writable();
    let container = bundle.pause();
    let probe = |args: &[&str]| container.exec(&[], &[&["/bin/probe"], args].concat());
    for place in ["/etc", "/dev", "/sys", "/proc", "/tmp"] {
        let tried = format!("mount:{place}");
        assert_eq!(probe(&["try", &tried]).success().json()[&tried], "ok");
        assert_eq!(
            probe(&["echo", "here"]).success().stdout,
            "here\n",
            "{place}"
        );
        with_user(&container);
    }
}

fn with_user(container: &Container) {
    let finished = container.exec(&["--user", "1000:1000"], &["/bin/probe", "echo", "here"]);
    assert_eq!(finished.success().stdout, "here\n");
}
