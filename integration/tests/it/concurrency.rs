//! Commands at the same time, on one container and on many.

use integration::place::{runtime, unique};
use integration::runtime::Running;
use integration::{Bundle, Finished, beyond, host, require};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

#[test]
fn of_two_creates_of_one_id_at_once_one_wins() {
    require!(containers);
    beyond!(
        of_two_creates_of_one_id_at_once_one_wins,
        [runc_race_before(
            "1.3",
            "two may see that there is none, and both make it"
        )]
    );
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
fn creates_at_once_below_a_new_group_have_their_limits() {
    require!(containers, controller("memory"), controller("pids"));
    for _ in 0..5 {
        let parent = unique("together");
        let bundles = [0, 1, 2, 3].map(|number| {
            let mut bundle = Bundle::new();
            bundle
                .config
                .probe(&["exit", "0"])
                .set("/linux/cgroupsPath", format!("/{parent}/{number}"))
                .set("/linux/resources/memory", json!({ "limit": 1 << 30 }))
                .set("/linux/resources/pids", json!({ "limit": 100 }));
            bundle
        });
        let runs = bundles
            .each_ref()
            .map(|bundle| bundle.start("run", &[], &unique("one")));
        for run in runs {
            run.wait().success();
        }
        std::fs::remove_dir(host::hierarchy().join(&parent)).unwrap();
    }
}

#[test]
fn of_two_starts_at_once_one_wins() {
    require!(containers);
    beyond!(
        of_two_starts_at_once_one_wins,
        [runc_race(
            "takes no lock: one of them can wait at the fifo for ever"
        )]
    );
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

/// Commands of which any two may meet on a container; the id stands where `ID` does.
const COMMANDS: [&[&str]; 9] = [
    &["create", "ID"],
    &["start", "ID"],
    &["exec", "ID", "/bin/probe", "exit", "0"],
    &["kill", "ID", "KILL"],
    &["pause", "ID"],
    &["resume", "ID"],
    &["delete", "ID"],
    &["delete", "--force", "ID"],
    &["state", "ID"],
];

/// What has been done to the container before.
const HISTORIES: [&[&[&str]]; 4] = [
    &[],
    &[&["create", "ID"]],
    &[&["create", "ID"], &["start", "ID"]],
    &[&["create", "ID"], &["start", "ID"], &["pause", "ID"]],
];

/// What commands say that come too early or too late.
const OUT_OF_TURN: [&str; 11] = [
    "does not exist",
    "already exists",
    "container not running",
    "container not paused",
    "that has stopped",
    "still being created",
    "already running",
    "that is not stopped",
    "in a paused container",
    "in the paused state",
    // Of an exec: with the container.
    "was killed by signal 9 during its set-up",
];

#[test]
fn any_two_commands_at_once_end_and_leave_one_container_or_none() {
    require!(containers);
    beyond!(
        any_two_commands_at_once_end_and_leave_one_container_or_none,
        [runc_race("takes no lock"), crun_race("takes no lock")]
    );
    let mut bundle = Bundle::new();
    // Waits without a word, which nobody would be there to hear.
    mkfifo(&bundle.rootfs().join("fifo"), Mode::S_IRWXU).unwrap();
    bundle.config.probe(&["cat", "/fifo"]);
    let rounds = match std::env::var("SWEEP").as_deref() {
        Ok("every") => 10,
        _ => 1,
    };
    for round in 0..rounds {
        for (at, one) in COMMANDS.iter().enumerate() {
            for other in &COMMANDS[at..] {
                for history in HISTORIES {
                    // Neither is always the first.
                    let swap = (round + at + history.len()) % 2 == 1;
                    let pair = if swap { [*other, *one] } else { [*one, *other] };
                    meet(&bundle, history, pair);
                }
            }
        }
    }
}

/// Two commands on a new container with this history.
fn meet(bundle: &Bundle, history: &[&[&str]], pair: [&[&str]; 2]) {
    let id = unique("pair");
    for words in history {
        assert!(begin(bundle, words, &id).wait_for_exit().success());
    }
    let [one, other] = pair.map(|words| (words, begin(bundle, words, &id)));
    // What was born into a paused container waits until it is resumed.
    let (first, second) = if one.0[0] == "exec" {
        (other, one)
    } else {
        (one, other)
    };
    let mut ends = vec![(first.0, first.1.wait_for_errors())];
    if second.0[0] == "exec" {
        bundle.runtime.call(&["resume", &id]);
    }
    ends.push((second.0, second.1.wait_for_errors()));
    for (words, finished) in &ends {
        let killed = words[0] == "exec" && finished.code() == 137;
        let out_of_turn = OUT_OF_TURN
            .iter()
            .any(|text| finished.stderr.contains(text));
        assert!(
            finished.code() == 0 || killed || out_of_turn,
            "{pair:?} after {history:?}: {finished}"
        );
    }
    let state = bundle.runtime.call(&["state", &id]);
    if state.status.success() {
        let status = state.json()["status"].as_str().unwrap().to_owned();
        let known = ["created", "running", "paused", "stopped"];
        assert!(known.contains(&status.as_str()), "{pair:?}: {status}");
    } else {
        state.says("does not exist");
    }
    bundle.runtime.call(&["delete", "--force", &id]).success();
    host::await_the_ending(&id);
    bundle.assert_gone(&id);
}

fn begin(bundle: &Bundle, words: &[&str], id: &str) -> Running {
    let words: Vec<&str> = words
        .iter()
        .map(|word| if *word == "ID" { id } else { word })
        .collect();
    match words[..] {
        ["create", id] => bundle.start("create", &[], id),
        _ => bundle.runtime.start(&words),
    }
}

#[test]
fn hooks_may_ask_for_the_state_of_their_container() {
    require!(containers);
    beyond!(
        hooks_may_ask_for_the_state_of_their_container,
        [
            runc("knows the container only once its create hooks have run"),
            crun("knows the container only once its create hooks have run")
        ]
    );
    let mut bundle = Bundle::new();
    let id = unique("asking");
    let root = bundle.runtime.root.display().to_string();
    for kind in ["prestart", "createRuntime", "createContainer", "poststart"] {
        let hook = json!({ "path": runtime(), "args": ["caisson", "--root", root, "state", id], "timeout": 60 });
        bundle.config.push(&format!("/hooks/{kind}"), hook);
    }
    bundle.config.probe(&["exit", "0"]);
    let silent = |finished: Finished| assert_eq!(finished.success().stderr, "");
    silent(bundle.call("create", &[], &id));
    silent(bundle.runtime.call(&["start", &id]));
    silent(bundle.runtime.call(&["delete", "--force", &id]));
    bundle.assert_gone(&id);
    silent(bundle.call("run", &[], &id));
    bundle.assert_gone(&id);
}
