//! The command is killed, at its own calls and at those of the processes that it has started.

use super::shape::{self, Shape, each_shape};
use super::{Round, Sweep, pid};
use integration::runtime::Running;
use integration::{Bundle, beyond, host, place, require};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::json;
use std::fs::File;
use std::os::unix::process::CommandExt;

const COMMAND: [&str; 2] = ["command", "command"];
const WHILE_CHILD: [&str; 2] = ["command", "child"];

const NO_TRAIL: &str = "has not saved its state by then, so that delete knows nothing";
const NO_STATUS: &str =
    "leaves a directory without a status, of which state does not say that there is no container";

each_shape!(
    create_leaves_nothing_for_good,
    super::create,
    "has not saved its state by then, so that delete knows nothing",
    [
        plain,
        hooks,
        user_namespace,
        stage,
        stage_without_cgroup,
        terminal,
        overlay,
        without_cgroup
    ]
);

each_shape!(
    detached_run_leaves_nothing_for_good,
    super::detached_run,
    "has not saved its state by then, so that delete knows nothing",
    [plain, hooks, stage_without_cgroup, terminal]
);

fn create(shape: &Shape) {
    making(shape, &["create"]);
}

fn detached_run(shape: &Shape) {
    making(shape, &["run", "--detach"]);
}

#[test]
fn run_in_the_foreground_leaves_nothing_for_good() {
    require!(containers);
    beyond!(
        run_in_the_foreground_leaves_nothing_for_good,
        [runc_race(NO_TRAIL), crun_race(NO_TRAIL)]
    );
    for shape in [shape::plain(), shape::hooks()] {
        let bundle = shape.bundle();
        let path = bundle.path();
        let words = ["run", "--bundle", path.to_str().unwrap(), "ID"];
        let mut ends = bundle.config.clone();
        ends.probe(&["exit", "0"]);
        let prepare = |_: &str| place::write(&path.join("config.json"), ends.0.to_string());
        for roles in [COMMAND, WHILE_CHILD] {
            Sweep::new(&bundle, &shape, roles).of(prepare, &words, |round| round.was_killed());
        }
    }
}

fn making(shape: &Shape, verb: &[&str]) {
    let bundle = shape.bundle();
    let words = shape.making(&bundle, verb);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for roles in [COMMAND, WHILE_CHILD] {
        let sweep = Sweep::new(&bundle, shape, roles);
        sweep.of(|_| {}, &words, |round| round.was_killed());
    }
}

/// The lock belongs to an open file that init has, too, while it waits for `start`.
#[test]
fn a_create_that_was_all_but_done_leaves_no_lock() {
    require!(containers);
    beyond!(
        a_create_that_was_all_but_done_leaves_no_lock,
        [runc_race(NO_TRAIL), crun(NO_STATUS)]
    );
    let shape = shape::plain();
    let bundle = shape.bundle();
    let words = shape.making(&bundle, &["create"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let last = |calls: u64| calls - 24..calls;
    Sweep::new(&bundle, &shape, COMMAND).part(last, &words, |round| round.was_killed());
}

#[test]
fn start_leaves_a_container_in_a_state_that_is_told() {
    require!(containers);
    beyond!(
        start_leaves_a_container_in_a_state_that_is_told,
        [
            runc_race("lets a container start that counts as created"),
            crun_race("lets a container start that counts as created")
        ]
    );
    for shape in [shape::plain(), shape::hooks()] {
        let bundle = shape.bundle();
        let flags = ["--pid-file", &bundle.scratch.name("pid")];
        for roles in [COMMAND, WHILE_CHILD] {
            let sweep = Sweep {
                also: Some(pid),
                ..Sweep::new(&bundle, &shape, roles)
            };
            let prepare = |id: &str| drop(bundle.call("create", &flags, id).success());
            sweep.of(prepare, &["start", "ID"], |round| {
                round.was_killed();
                let status = round.status().unwrap();
                let again = round.call(&["start"]);
                match status.as_str() {
                    "created" => drop(again.success()),
                    "running" | "stopped" => drop(again.failure()),
                    other => panic!("{other}"),
                }
            });
        }
    }
}

#[test]
fn exec_leaves_the_container_running() {
    require!(containers);
    for flags in [&[][..], &["--detach"], &["--user", "1000"]] {
        let shape = shape::plain();
        let words = [&["exec"], flags, &["ID", "/bin/probe", "exit", "0"]].concat();
        let bundle = shape.bundle();
        for roles in [COMMAND, WHILE_CHILD] {
            let sweep = Sweep::new(&bundle, &shape, roles);
            let prepare = |id: &str| drop(bundle.call("run", &["--detach"], id).success());
            sweep.of(prepare, &words, |round| {
                round.was_killed();
                assert_eq!(round.status().as_deref(), Some("running"));
            });
        }
    }
}

#[test]
fn kill_leaves_a_container_that_can_be_killed() {
    require!(containers);
    on_container(
        &shape::plain(),
        &["run", "--detach"],
        &["kill", "ID", "KILL"],
        |round| {
            round.status().unwrap();
        },
    );
}

#[test]
fn pause_leaves_a_container_that_can_be_resumed_or_paused() {
    require!(containers);
    on_container(
        &shape::plain(),
        &["run", "--detach"],
        &["pause", "ID"],
        |round| match round.status().unwrap().as_str() {
            "running" => drop(round.call(&["pause"]).success()),
            "paused" => drop(round.call(&["resume"]).success()),
            other => panic!("{other}"),
        },
    );
}

#[test]
fn resume_leaves_a_container_that_can_be_resumed_or_paused() {
    require!(containers);
    let shape = shape::plain();
    let bundle = shape.bundle();
    let sweep = Sweep::new(&bundle, &shape, COMMAND);
    let prepare = |id: &str| {
        bundle.call("run", &["--detach"], id).success();
        bundle.runtime.call(&["pause", id]).success();
    };
    sweep.of(prepare, &["resume", "ID"], |round| {
        round.was_killed();
        match round.status().unwrap().as_str() {
            "running" => drop(round.call(&["pause"]).success()),
            "paused" => drop(round.call(&["resume"]).success()),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn delete_can_be_repeated() {
    require!(containers);
    beyond!(
        delete_can_be_repeated,
        [runc("has no --cgroup-manager"), crun_race(NO_STATUS)]
    );
    for shape in [shape::plain(), shape::hooks(), shape::without_cgroup()] {
        for (made, words) in [
            (&["create"][..], &["delete", "ID"][..]),
            (&["run", "--detach"], &["delete", "--force", "ID"]),
        ] {
            on_container(&shape, made, words, |_| {});
        }
    }
}

#[test]
fn state_and_list_change_nothing() {
    require!(containers);
    for words in [&["state", "ID"][..], &["list"]] {
        on_container(&shape::plain(), &["create"], words, |round| {
            assert_eq!(round.status().as_deref(), Some("created"));
        });
    }
}

/// Kills a command on a container that was made by this one.
fn on_container(shape: &Shape, made: &[&str], words: &[&str], judge: impl Fn(&Round<'_>)) {
    let bundle = shape.bundle();
    let sweep = Sweep::new(&bundle, shape, COMMAND);
    let [verb, flags @ ..] = made else {
        panic!("no verb")
    };
    let prepare = |id: &str| drop(bundle.call(verb, flags, id).success());
    sweep.of(prepare, words, |round| {
        round.was_killed();
        judge(round);
    });
}

/// What is not SIGKILL ends `create` in the same way; `run` in the foreground passes it on when the container runs.
#[test]
fn a_signal_during_set_up_leaves_nothing_for_good() {
    require!(containers);
    beyond!(
        a_signal_during_set_up_leaves_nothing_for_good,
        [runc_race(NO_TRAIL), crun_race(NO_TRAIL)]
    );
    let shape = shape::hooks();
    let bundle = shape.bundle();
    let path = bundle.path();
    let mut ends = bundle.config.clone();
    ends.probe(&["exit", "0"]);
    let prepare = |_: &str| place::write(&path.join("config.json"), ends.0.to_string());
    for (victim, code) in [("command=SIGINT", 130), ("command=SIGTERM", 143)] {
        for verb in ["create", "run"] {
            let words = [verb, "--bundle", path.to_str().unwrap(), "ID"];
            Sweep::new(&bundle, &shape, [victim, "command"]).of(prepare, &words, |round| {
                // 0: it was about to exit, or stays with a container that ends by itself.
                let finished = &round.finished;
                assert!([0, code].contains(&finished.code()), "{finished}");
            });
        }
    }
}

/// In a terminal, Ctrl-C goes to the command and to its hook, which is in its process group. Those in a container are in its session.
#[test]
fn ctrl_c_while_a_hook_hangs_ends_a_run_that_leaves_nothing() {
    require!(containers);
    beyond!(
        ctrl_c_while_a_hook_hangs_ends_a_run_that_leaves_nothing,
        [
            runc_before("1.2", "does not say of which kind the hook is"),
            crun("blocks signals while it waits for its hooks")
        ]
    );
    for kind in ["prestart", "createRuntime"] {
        let mut bundle = Bundle::new();
        let fifo = bundle.scratch.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let hook = json!({ "path": place::probe(), "args": ["probe", "cat", fifo] });
        bundle.config.push(&format!("/hooks/{kind}"), hook);
        bundle.save();
        let id = place::unique("interrupted");
        let path = bundle.path();
        let words = ["run", "--bundle", path.to_str().unwrap(), &id];
        let mut command = bundle.runtime.command(&words);
        command.process_group(0);
        let run = Running::start(command);
        // Returns when the hook has opened it to read.
        let hangs = File::options().write(true).open(&fifo).unwrap();
        killpg(Pid::from_raw(run.pid()), Signal::SIGINT).unwrap();
        let finished = run.wait();
        drop(hangs);
        assert_eq!(finished.code(), 1, "{kind}: {finished}");
        finished.says(kind);
        host::await_the_ending(&id);
        bundle.assert_gone(&id);
    }
}
