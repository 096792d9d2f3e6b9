//! Commands at the same time, on one container and on many.

use integration::place::unique;
use integration::{Bundle, beyond, require};

#[test]
fn of_two_creates_of_one_id_at_once_one_wins() {
    require!(containers);
    let bundle = Bundle::new();
    let id = unique("race");
    let commands: Vec<_> = (0..4).map(|_| bundle.start("create", &[], &id)).collect();
    // The winner's container holds the output open: only the commands' ends are waited for.
    let outcomes: Vec<bool> = commands
        .into_iter()
        .map(|command| command.wait_for_exit().success())
        .collect();
    assert_eq!(
        outcomes.iter().filter(|won| **won).count(),
        1,
        "{outcomes:?}"
    );
    let state = bundle.runtime.call(&["state", &id]).success().json();
    assert_eq!(state["status"], "created");
    bundle.runtime.call(&["delete", "--force", &id]).success();
    bundle.assert_gone(&id);
}

#[test]
fn of_two_starts_at_once_one_wins() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let starts: Vec<_> = (0..4)
        .map(|_| bundle.runtime.start(&["start", &container.id]))
        .collect();
    let won = starts
        .into_iter()
        .map(|start| start.wait())
        .filter(|end| end.status.success())
        .count();
    assert_eq!(won, 1);
    assert_eq!(container.stdout.line(), "ready");
}

#[test]
fn deletes_at_once_all_leave_nothing() {
    require!(containers);
    beyond!(
        deletes_at_once_all_leave_nothing,
        [crun_race(
            "takes no lock: one `delete --force` fails when another has just removed the state"
        )]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let deletes: Vec<_> = (0..4)
        .map(|_| bundle.runtime.start(&["delete", "--force", &container.id]))
        .collect();
    for delete in deletes {
        delete.wait().success();
    }
    assert_eq!(container.wait(), 137);
    bundle.assert_gone(&container.id);
}

#[test]
fn different_containers_are_created_and_deleted_side_by_side() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "4"]);
    let ids: Vec<String> = (0..8).map(|_| unique("many")).collect();
    let runs: Vec<_> = ids.iter().map(|id| bundle.start("run", &[], id)).collect();
    for run in runs {
        let finished = run.wait();
        assert_eq!(finished.code(), 4, "{finished}");
    }
    for id in ids {
        bundle.assert_gone(&id);
    }
}
