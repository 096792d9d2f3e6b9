//! Commands that are killed, that meet, and that fail: nothing of them is left that `delete --force` does not clean.
//!
//! A command is killed at moments spread evenly over the time that it takes. At every one of its system calls it will be, too.

use integration::place::unique;
use integration::runtime::{Running, deadline, readable};
use integration::{Bundle, beyond, host, require, sys};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// How long one command is killed over and over, and how often at most and at least.
const BUDGET: Duration = Duration::from_secs(4);
const ROUNDS: std::ops::RangeInclusive<u32> = 8..=60;

/// What a container looks like whose commands are killed.
type Shape = (&'static str, fn(&mut Bundle));

const SHAPES: [Shape; 5] = [
    ("plain", |_| {}),
    ("user", |bundle| {
        bundle
            .config
            .user_namespace(100_000, 65536)
            .set("/process/user/uid", 1000);
    }),
    // An unprivileged process dies with its parent only as long as somebody sees to that.
    ("no cgroup", |bundle| {
        bundle.runtime.globals = vec!["--cgroup-manager".to_owned(), "disabled".to_owned()];
        bundle.config.set("/process/user/uid", 1000);
    }),
    ("stage", |bundle| {
        bundle.config.namespace("time").set(
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 1000, "nanosecs": 0 } }),
        );
    }),
    ("terminal", |bundle| {
        bundle.config.set("/process/terminal", true);
    }),
];

/// Kills commands at all times of their lives. `prepare` makes what the command needs and says the command line; its id comes last.
fn kill_over_and_over(bundle: &Bundle, mut prepare: impl FnMut(&str) -> Running) {
    let id = unique("whole");
    let began = Instant::now();
    let whole = prepare(&id);
    let prepared = began.elapsed();
    // What never ends by itself (`run` in the foreground) is given as long as it took to get there.
    let takes = match ends_within(&whole, Duration::from_secs(1)) {
        true => began.elapsed() - prepared,
        false => Duration::from_millis(300),
    };
    finish(bundle, &id, whole);
    let began = Instant::now();
    for round in 0..*ROUNDS.end() {
        if round >= *ROUNDS.start() && began.elapsed() > BUDGET {
            break;
        }
        // Multiples of the golden ratio are spread evenly however many there are.
        let part = (f64::from(round) * 0.618_034).fract();
        let id = unique("killed");
        let command = prepare(&id);
        ends_within(&command, takes.mul_f64(part * 1.1));
        finish(bundle, &id, command);
    }
}

/// Kills the command if it still runs, deletes the container and expects that nothing is left.
fn finish(bundle: &Bundle, id: &str, command: Running) {
    kill(command);
    delete(bundle, id);
}

/// Kills the command if it still runs.
fn kill(command: Running) {
    if let Ok(pidfd) = sys::pidfd_open(command.pid()) {
        let arguments = [pidfd.as_raw_fd() as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        sys::call(libc::SYS_pidfd_send_signal, arguments).ok(); // It may have ended just now.
    }
    command.wait_for_exit();
}

fn delete(bundle: &Bundle, id: &str) {
    bundle.runtime.call(&["delete", "--force", id]).success();
    // Without a cgroup, nobody knew of a process that was only just made; it ends by itself when it sees that it is alone.
    for pid in host::processes(id) {
        if let Ok(pidfd) = sys::pidfd_open(pid) {
            readable(&pidfd);
        }
    }
    bundle.assert_gone(id);
}

/// Whether the command has ended, or ends before this time is over.
fn ends_within(command: &Running, time: Duration) -> bool {
    let Ok(pidfd) = sys::pidfd_open(command.pid()) else {
        return true;
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    ppoll(&mut fds, Some(TimeSpec::from(time)), None).unwrap() > 0
}

mod killed {
    use super::*;

    #[test]
    fn create_leaves_nothing_for_good() {
        require!(containers, userns, namespace("time"));
        for (name, change) in SHAPES {
            let mut bundle = Bundle::new();
            change(&mut bundle);
            if name == "terminal" {
                continue; // It needs a console socket, which `run` has not.
            }
            kill_over_and_over(&bundle, |id| bundle.start("create", &[], id));
        }
    }

    #[test]
    fn run_leaves_nothing_for_good() {
        require!(containers, userns, namespace("time"));
        for (_, change) in SHAPES {
            let mut bundle = Bundle::new();
            change(&mut bundle);
            bundle.config.probe(&["pause"]);
            kill_over_and_over(&bundle, |id| bundle.start("run", &[], id));
        }
    }

    #[test]
    fn detached_run_leaves_nothing_for_good() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        kill_over_and_over(&bundle, |id| bundle.start("run", &["--detach"], id));
    }

    #[test]
    fn start_leaves_nothing_for_good() {
        require!(containers);
        let bundle = Bundle::new();
        kill_over_and_over(&bundle, |id| {
            bundle.start("create", &[], id).wait_for_exit();
            bundle.runtime.start(&["start", id])
        });
    }

    /// Whatever state the first one left, the second one knows what to do, and does not wait for what will not come.
    #[test]
    fn start_can_be_tried_again() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        kill_over_and_over(&bundle, |id| {
            bundle.start("create", &[], id).wait_for_exit();
            let first = bundle.runtime.start(&["start", id]);
            ends_within(
                &first,
                Duration::from_micros(u64::from(first.pid() as u32 % 97) * 200),
            );
            kill(first);
            let second = bundle.runtime.start(&["start", id]);
            assert!(ends_within(&second, deadline()), "start does not end");
            second
        });
    }

    #[test]
    fn exec_leaves_nothing_for_good() {
        require!(containers);
        for flags in [&[][..], &["--detach"], &["--user", "1000"], &["--tty"]] {
            let mut bundle = Bundle::new();
            bundle.config.probe(&["pause"]);
            kill_over_and_over(&bundle, |id| {
                bundle.start("run", &["--detach"], id).wait_for_exit();
                let command = [&["exec"], flags, &[id, "/bin/probe", "pause"]].concat();
                bundle.runtime.start(&command)
            });
        }
    }

    #[test]
    fn delete_can_be_tried_again() {
        require!(containers);
        for flags in [&[][..], &["--force"]] {
            let mut bundle = Bundle::new();
            bundle.config.probe(&["pause"]);
            kill_over_and_over(&bundle, |id| {
                bundle.start("create", &[], id).wait_for_exit();
                if !flags.is_empty() {
                    bundle.runtime.call(&["start", id]).success();
                }
                bundle.runtime.start(&[&["delete"], flags, &[id]].concat())
            });
        }
    }

    #[test]
    fn pause_and_resume_leave_what_can_be_deleted() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        for verb in ["pause", "resume"] {
            kill_over_and_over(&bundle, |id| {
                bundle.start("run", &["--detach"], id).wait_for_exit();
                if verb == "resume" {
                    bundle.runtime.call(&["pause", id]).success();
                }
                bundle.runtime.start(&[verb, id])
            });
        }
    }

    /// While a hook runs, which may take as long as it likes.
    #[test]
    fn in_a_hook_leaves_nothing_for_good() {
        require!(containers);
        beyond!(
            in_a_hook_leaves_nothing_for_good,
            [crun("leaves the container's process waiting for ever")]
        );
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            for manager in ["cgroupfs", "disabled"] {
                // Without a cgroup, nothing leads to a hook in a container that was never noted down.
                if manager == "disabled" && matches!(kind, "createContainer") {
                    continue;
                }
                hold_in_hook(kind, manager);
            }
        }
    }

    fn hold_in_hook(kind: &str, manager: &str) {
        let mut bundle = Bundle::new();
        bundle.runtime.globals = vec!["--cgroup-manager".to_owned(), manager.to_owned()];
        let fifo = bundle.rootfs().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let inside = kind == "startContainer";
        let path = if inside {
            "/bin/probe".into()
        } else {
            integration::place::probe()
        };
        let read = if inside { "/fifo".into() } else { fifo.clone() };
        bundle.config.push(
            &format!("/hooks/{kind}"),
            json!({ "path": path, "args": ["probe", "cat", read] }),
        );
        bundle.config.probe(&["pause"]);
        let id = unique("hook");
        let command = match kind {
            "startContainer" | "poststart" => {
                bundle.start("create", &[], &id).wait_for_exit();
                bundle.runtime.start(&["start", &id])
            }
            "poststop" => {
                bundle.start("create", &[], &id).wait_for_exit();
                bundle.runtime.start(&["delete", "--force", &id])
            }
            _ => bundle.start("create", &[], &id),
        };
        // Returns when the hook has opened it to read.
        let hook_runs = OpenOptions::new().write(true).open(&fifo).unwrap();
        kill(command);
        if kind == "poststop" {
            // It runs again, and must be able to end.
            drop(hook_runs);
            fs::remove_file(&fifo).unwrap();
            File::create_new(&fifo).unwrap();
        }
        delete(&bundle, &id);
    }
}

mod at_once {
    use super::*;

    /// Two commands on one container, with what must have been done before them.
    type Pair = (
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    );

    const PAIRS: [Pair; 17] = [
        (&[], &["create"], &["create"]),
        (&[], &["create"], &["delete", "--force"]),
        (&[], &["create"], &["start"]),
        (&[], &["create"], &["kill", "KILL"]),
        (&[], &["run", "--detach"], &["delete", "--force"]),
        (&[], &["run", "--detach"], &["exec"]),
        (&["create"], &["start"], &["delete", "--force"]),
        (&["create"], &["start"], &["kill", "KILL"]),
        (&["create"], &["start"], &["exec"]),
        (&["create"], &["start"], &["pause"]),
        (&["create"], &["delete"], &["delete"]),
        (&["create"], &["delete"], &["start"]),
        (
            &["create", "start"],
            &["kill", "KILL"],
            &["delete", "--force"],
        ),
        (&["create", "start"], &["exec"], &["delete", "--force"]),
        (&["create", "start"], &["exec"], &["kill", "KILL"]),
        (&["create", "start"], &["pause"], &["delete", "--force"]),
        (&["create", "start"], &["pause"], &["resume"]),
    ];

    #[test]
    fn two_commands_end_and_leave_one_container_or_none() {
        require!(containers);
        beyond!(
            two_commands_end_and_leave_one_container_or_none,
            [crun_race("takes no lock"), runc_race("takes no lock")]
        );
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        for (before, one, other) in PAIRS {
            for round in 0..6 {
                let id = unique("pair");
                for verb in before {
                    assert!(begin(&bundle, &[verb], &id).wait_for_exit().success());
                }
                // Neither is always the first.
                let (one, other) = if round % 2 == 0 {
                    (one, other)
                } else {
                    (other, one)
                };
                let commands = [begin(&bundle, one, &id), begin(&bundle, other, &id)];
                for (command, words) in commands.into_iter().zip([one, other]) {
                    let status = command.wait_for_exit();
                    // It may be too early or too late, but it knows that.
                    let legal = matches!(status.code(), Some(0 | 1 | 255))
                        || (words == ["exec"] && status.code() == Some(137));
                    assert!(legal, "{words:?} with {one:?}, {other:?}: {status}");
                }
                let state = bundle.runtime.call(&["state", &id]);
                if state.status.success() {
                    let status = state.json()["status"].to_string();
                    assert!(
                        ["\"created\"", "\"running\"", "\"paused\"", "\"stopped\""]
                            .contains(&status.as_str()),
                        "{one:?}, {other:?}: {status}"
                    );
                }
                delete(&bundle, &id);
            }
        }
    }

    fn begin(bundle: &Bundle, words: &[&str], id: &str) -> Running {
        match words {
            [verb @ ("create" | "run"), flags @ ..] => bundle.start(verb, flags, id),
            ["exec"] => bundle
                .runtime
                .start(&["exec", id, "/bin/probe", "exit", "0"]),
            ["kill", signal] => bundle.runtime.start(&["kill", id, signal]),
            _ => bundle.runtime.start(&[words, &[id]].concat()),
        }
    }

    /// A pod's worth at once, each by commands that are killed.
    #[test]
    fn killed_commands_on_many_containers_do_not_disturb_each_other() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        let ids: Vec<String> = (0..12).map(|_| unique("many")).collect();
        let commands: Vec<Running> = ids
            .iter()
            .map(|id| bundle.start("create", &[], id))
            .collect();
        for (n, command) in commands.into_iter().enumerate() {
            ends_within(&command, Duration::from_millis(n as u64 * 5));
            kill(command);
        }
        let deletes: Vec<Running> = ids
            .iter()
            .map(|id| bundle.runtime.start(&["delete", "--force", id]))
            .collect();
        for delete in deletes {
            delete.wait().success();
        }
        for id in ids {
            delete(&bundle, &id);
        }
    }
}
