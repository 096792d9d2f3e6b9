//! The processes that a command has started are killed: that of the container, the one before it, hooks. The command says so, and
//! what it did not finish is gone without a `delete`.

use super::shape::{self, Shape, each_shape};
use super::{Round, Sweep, pid};
use integration::{beyond, require};

const AT_ITS_CALL: [&str; 2] = ["child", "child"];
const MEANWHILE: [&str; 2] = ["child", "command"];

const SILENT: &str = "does not say what has become of its process";

each_shape!(
    create_says_that_its_process_was_killed_and_leaves_nothing,
    super::create,
    "does not say what has become of its process",
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
    detached_run_says_that_its_process_was_killed_and_leaves_nothing,
    super::detached_run,
    "does not say what has become of its process",
    [plain, hooks, stage_without_cgroup, terminal]
);

fn create(shape: &Shape) {
    making(shape, &["create"]);
}

fn detached_run(shape: &Shape) {
    making(shape, &["run", "--detach"]);
}

fn making(shape: &Shape, verb: &[&str]) {
    let bundle = shape.bundle();
    let words = shape.making(&bundle, verb);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for roles in [AT_ITS_CALL, MEANWHILE] {
        Sweep::new(&bundle, shape, roles).of(|_| {}, &words, has_taken_back);
    }
}

/// The one before the container's ends when that is born, and may be unable to tell.
#[test]
fn create_does_not_wait_for_a_stage_that_was_killed() {
    // Without mount_setattr, another child comes first.
    require!(containers, namespace("time"), no_filter);
    beyond!(
        create_does_not_wait_for_a_stage_that_was_killed,
        [
            runc_before("1.2", "knows no time namespaces"),
            runc(SILENT),
            crun(SILENT)
        ]
    );
    for shape in [shape::stage(), shape::stage_without_cgroup()] {
        let bundle = shape.bundle();
        let words = shape.making(&bundle, &["create"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Sweep::new(&bundle, &shape, AT_ITS_CALL).part(|_| 1..30, &words, has_taken_back);
    }
}

fn has_taken_back(round: &Round<'_>) {
    if round.finished.code() == 0 {
        // Killed when the command had seen all that it waits for, or had not begun.
        assert!(round.status().is_some());
    } else {
        says_who_was_killed(round, 1);
        round.assert_gone();
    }
}

#[test]
fn exec_says_that_its_process_was_killed() {
    // Without mount_setattr, another child comes first.
    require!(containers, no_filter);
    beyond!(
        exec_says_that_its_process_was_killed,
        [runc_race(SILENT), crun_race(SILENT)]
    );
    for flags in [&[][..], &["--detach"]] {
        let shape = shape::plain();
        let words = [&["exec"], flags, &["ID", "/bin/probe", "exit", "0"]].concat();
        let bundle = shape.bundle();
        for roles in [AT_ITS_CALL, MEANWHILE] {
            let prepare = |id: &str| drop(bundle.call("run", &["--detach"], id).success());
            Sweep::new(&bundle, &shape, roles).of(prepare, &words, |round| {
                // 137: it was the program already.
                if !matches!(round.finished.code(), 0 | 137) {
                    says_who_was_killed(round, 255);
                }
                assert_eq!(round.status().as_deref(), Some("running"));
            });
        }
    }
}

#[test]
fn start_says_if_the_container_has_stopped() {
    require!(containers);
    beyond!(
        start_says_if_the_container_has_stopped,
        [runc_race(SILENT), crun_race(SILENT)]
    );
    for shape in [shape::plain(), shape::hooks()] {
        let bundle = shape.bundle();
        let flags = ["--pid-file", &bundle.scratch.name("pid")];
        for roles in [AT_ITS_CALL, MEANWHILE] {
            let sweep = Sweep {
                also: Some(pid),
                ..Sweep::new(&bundle, &shape, roles)
            };
            let prepare = |id: &str| drop(bundle.call("create", &flags, id).success());
            sweep.of(prepare, &["start", "ID"], |round| {
                let finished = &round.finished;
                // 0: it was the program already, or nearly so.
                if finished.code() != 0 && !finished.stderr.contains("has stopped") {
                    says_who_was_killed(round, 1);
                }
                assert_eq!(round.status().as_deref(), Some("stopped"), "{finished}");
                round.call(&["delete"]).success();
            });
        }
    }
}

/// In the words for a process of a container or for a hook.
#[track_caller]
fn says_who_was_killed(round: &Round<'_>, code: i32) {
    let finished = &round.finished;
    assert_eq!(finished.code(), code, "{finished}");
    let killed = ["killed by signal 9", "signal: killed"];
    assert!(
        killed.iter().any(|words| finished.stderr.contains(words)),
        "{finished}"
    );
}
