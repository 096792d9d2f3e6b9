//! Whoever takes part in what the supervisor does is killed (SIGKILL) in each phase of it: the daemon, its client, a shim, a process that
//! unpacks or copies, a container's init. The next command starts another daemon. What was reported done is there then, what was not is there
//! as a whole or not at all, and when all is removed nothing is left.
//!
//! The moment is a random one of the phase; `SWEEP=NUMBER` repeats those of a run, whose number is on standard error. `SWEEP=every` plays so
//! many rounds that each of the cells is met ten times, and `ONLY=Commit/Daemon` plays those only.

mod stage;

use integration::require;
use integration::runtime::announce;
use integration::supervisor::IMAGE;
use stage::{Ended, Stage};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// With the unpacking of its layers.
    Import,
    Create,
    /// With a new volume, which the image's files go into.
    Start,
    Run,
    Running,
    Exec,
    /// While a container writes what is followed.
    Logs,
    Stop,
    Restart,
    Kill,
    Remove,
    /// Of one that runs.
    RemoveByForce,
    Commit,
    CopyIn,
    CopyOut,
    Save,
    VolumeCreate,
    VolumeRemove,
    Tag,
    ImageRemove,
    Prune,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Victim {
    Daemon,
    Client,
    Shim,
    /// A process that unpacks or copies.
    Worker,
    Init,
}

use Phase::*;
use Victim::*;

/// Who there is to kill in each phase.
const CELLS: &[(Phase, &[Victim])] = &[
    (Import, &[Daemon, Client, Worker]),
    (Create, &[Daemon, Client]),
    (Start, &[Daemon, Client, Shim, Init]),
    (Run, &[Daemon, Client, Shim, Init]),
    (Running, &[Daemon, Client, Shim, Init]),
    (Exec, &[Daemon, Client, Shim, Init]),
    (Logs, &[Daemon, Client, Shim, Init]),
    (Stop, &[Daemon, Client, Shim, Init]),
    (Restart, &[Daemon, Client, Shim, Init]),
    (Phase::Kill, &[Daemon, Client, Shim, Init]),
    (Remove, &[Daemon, Client]),
    (RemoveByForce, &[Daemon, Client, Shim, Init]),
    (Commit, &[Daemon, Client, Shim, Worker, Init]),
    (CopyIn, &[Daemon, Client, Shim, Worker, Init]),
    (CopyOut, &[Daemon, Client, Shim, Worker, Init]),
    (Save, &[Daemon, Client]),
    (VolumeCreate, &[Daemon, Client]),
    (VolumeRemove, &[Daemon, Client]),
    (Tag, &[Daemon, Client]),
    (ImageRemove, &[Daemon, Client]),
    (Prune, &[Daemon, Client]),
];

/// What the container exits with when it is asked to end.
const CODE: i32 = 7;
const KILLED: i32 = 137;
/// What it does: says that it can be asked, and waits.
const WAITS: &str =
    "trap 'exit 7' TERM; echo kept >/kept; echo ready; while :; do sleep 1000 & wait; done";
/// What it does in [`Logs`]: each line is counted once it has been written.
const WRITES: &str =
    "trap 'exit 7' TERM; i=0; while :; do echo line $i; echo $i >/data/written; i=$((i+1)); done";

#[test]
fn whoever_is_killed_whenever_a_container_is_what_it_was_said_to_be() {
    require!(containers, busybox);
    play(|phase| (Create..=RemoveByForce).contains(&phase));
}

#[test]
fn whoever_is_killed_whenever_images_volumes_and_copies_are_whole_or_absent() {
    require!(containers, busybox);
    play(|phase| !(Create..=RemoveByForce).contains(&phase));
}

#[track_caller]
fn play(is_wanted: impl Fn(Phase) -> bool) {
    let only = std::env::var("ONLY").unwrap_or_default();
    let cells: Vec<_> = CELLS
        .iter()
        .flat_map(|(phase, victims)| victims.iter().map(|victim| (*phase, *victim)))
        .filter(|(phase, _)| is_wanted(*phase))
        .filter(|(phase, victim)| format!("{phase:?}/{victim:?}").contains(&only))
        .collect();
    let (seed, rounds) = match std::env::var("SWEEP").as_deref() {
        Ok("every") => (
            RandomState::new().build_hasher().finish() % 1000,
            10 * cells.len(),
        ),
        Ok(number) => (number.parse().unwrap(), cells.len()),
        Err(_) => (
            RandomState::new().build_hasher().finish() % 1000,
            cells.len(),
        ),
    };
    announce(&format!("SWEEP={seed}"));
    let mut stage = Stage::new();
    let mut lasts = BTreeMap::new();
    let mut killed = 0;
    for number in 0..rounds {
        let (phase, victim) = cells[number % cells.len()];
        let lasts = *lasts
            .entry(phase)
            .or_insert_with(|| undisturbed(&mut stage, phase));
        let mut hasher = DefaultHasher::new();
        (seed, number / cells.len(), phase, victim).hash(&mut hasher);
        let after = lasts.mul_f64((hasher.finish() % 1000) as f64 / 1000.0);
        let round = Round {
            phase,
            victim,
            after,
        };
        let _told = Told(format!("round {number} of SWEEP={seed}: {round:?}"));
        killed += usize::from(round.play(&mut stage));
    }
    announce(&format!(
        "killed in {killed} of {rounds} rounds, else it was too late"
    ));
    assert!(
        killed * 2 >= rounds,
        "somebody was killed in {killed} of {rounds} rounds only"
    );
}

/// How long the phase takes when nobody is killed. Then all of it is reported done.
#[track_caller]
fn undisturbed(stage: &mut Stage, phase: Phase) -> Duration {
    let _told = Told(format!("{phase:?}, nobody is killed"));
    prepare(stage, phase);
    let begin = Instant::now();
    let running = stage.supervisor.start(&command(phase, stage));
    let lasts = if matches!(phase, Running | Logs) {
        // These go on until the container ends.
        std::thread::park_timeout(Duration::from_millis(60));
        let lasts = begin.elapsed();
        stage.supervisor.says(&["kill", "-s", "TERM", "box"]);
        running.wait().success();
        lasts
    } else {
        let finished = running.wait();
        assert_eq!(finished.code(), usual(phase), "{finished}");
        begin.elapsed()
    };
    let ended = Ended {
        done: true,
        victim: None,
    };
    check(stage, phase, &ended);
    stage.clear();
    lasts
}

/// Says in which round a test failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            announce(&self.0);
        }
    }
}

#[derive(Debug)]
struct Round {
    phase: Phase,
    victim: Victim,
    /// The beginning of the phase.
    after: Duration,
}

impl Round {
    /// False if there was nobody to kill any more.
    #[track_caller]
    fn play(&self, stage: &mut Stage) -> bool {
        prepare(stage, self.phase);
        let daemon = stage.supervisor.pid();
        let init = stage.init();
        let running = stage.supervisor.start(&command(self.phase, stage));
        std::thread::park_timeout(self.after);
        let client = running.pid();
        let killed = loop {
            let victim = match self.victim {
                Daemon => Some(daemon),
                Client => Some(client),
                Shim => stage.shim(),
                Worker => stage.worker(daemon),
                Init => stage.init().or(init),
            };
            if let Some(victim) = victim.filter(|pid| integration::host::alive(*pid)) {
                stage::kill(victim);
                break Some(victim);
            }
            if !integration::host::alive(client) {
                break None;
            }
            std::thread::yield_now();
        };
        // What goes on by itself ends with its container, or with us.
        let goes_on = matches!(self.phase, Running | Logs);
        let done = if goes_on && matches!(self.victim, Daemon | Client | Worker) {
            drop(running);
            false
        } else {
            running.wait().code() == usual(self.phase) && !goes_on
        };
        let ended = Ended {
            done,
            victim: killed.map(|_| self.victim),
        };
        check(stage, self.phase, &ended);
        stage.clear();
        killed.is_some()
    }
}

/// Everything that precedes the phase.
#[track_caller]
fn prepare(stage: &mut Stage, phase: Phase) {
    let volume = ["--name", "box", "-v", "kept:/data"];
    let detached = |script: &str| {
        stage.supervisor.detached(&volume, script);
    };
    match phase {
        Start => {
            stage.create(&["-v", "filled:/bin"], "sleep 1000");
        }
        Logs => detached(WRITES),
        Running
        | Exec
        | Stop
        | Restart
        | Phase::Kill
        | RemoveByForce
        | Commit
        | CopyIn
        | CopyOut => {
            detached(WAITS);
            stage.await_ready();
        }
        Remove => {
            detached("echo kept >/kept; echo ready");
            stage.supervisor.says(&["wait", "box"]);
        }
        VolumeRemove => drop(stage.supervisor.says(&["volume", "create", "vol"])),
        ImageRemove => stage.import(),
        Prune => {
            stage.import();
            stage
                .supervisor
                .says(&["tag", "new:1", &format!("{IMAGE}:other")]);
            stage.create(&["-v", "/anonymous"], "true");
        }
        Import | Create | Run | Save | VolumeCreate | Tag => {}
    }
}

/// The command that is the phase.
fn command(phase: Phase, stage: &Stage) -> Vec<&str> {
    let box_of = |verb| [verb, "--name", "box", "-v", "kept:/data"].to_vec();
    match phase {
        Import => vec!["load", "-q", "-i", &stage.archive],
        Create => [box_of("create"), vec![IMAGE, "sh", "-c", WAITS]].concat(),
        Start => vec!["start", "box"],
        Run => [box_of("run"), vec!["-d", IMAGE, "sh", "-c", WAITS]].concat(),
        Running => vec!["wait", "box"],
        Exec => vec!["exec", "box", "sh", "-c", "exit 3"],
        Logs => vec!["logs", "-f", "box"],
        Stop => vec!["stop", "box"],
        Restart => vec!["restart", "box"],
        Phase::Kill => vec!["kill", "box"],
        Remove => vec!["rm", "box"],
        RemoveByForce => vec!["rm", "-f", "box"],
        Commit => vec!["commit", "box", "made:1"],
        CopyIn => vec!["cp", &stage.file, "box:/copied"],
        CopyOut => vec!["cp", "box:/bin/busybox", &stage.copied],
        Save => vec!["save", "-o", &stage.saved, IMAGE],
        VolumeCreate => vec!["volume", "create", "vol"],
        VolumeRemove => vec!["volume", "rm", "vol"],
        Tag => vec!["tag", IMAGE, "other:1"],
        ImageRemove => vec!["rmi", "new:1"],
        Prune => vec!["system", "prune", "-a", "-f", "--volumes"],
    }
}

/// The exit code of a command that did what it should.
fn usual(phase: Phase) -> i32 {
    if phase == Exec { 3 } else { 0 }
}

/// What must be so after the phase.
#[track_caller]
fn check(stage: &Stage, phase: Phase, ended: &Ended) {
    stage.everything_verifies();
    let supervisor = &stage.supervisor;
    match phase {
        Import => {
            stage.image("new:1", ended.done.then_some(true));
            if stage.has_image("new:1") {
                supervisor.says(&["rmi", "new:1"]);
            }
            // Once more, over whatever is left.
            stage.import();
        }
        Create => stage.container(ended, &["created"], &["created"]),
        Start => {
            stage.container(ended, &["running"], &["created", "running", "exited"]);
            stage.volume_is_filled();
        }
        Run => stage.container(ended, &["running"], &["created", "running", "exited"]),
        Running | Exec | CopyOut | CopyIn | Commit => {
            stage.stays(ended);
            stage.copies(
                phase == CopyOut && ended.done,
                phase == CopyIn && ended.done,
            );
            stage.committed(phase == Commit && ended.done);
        }
        Logs => {
            stage.stays(ended);
            stage.log_is_whole(ended);
        }
        Stop | Phase::Kill => stage.stopped(ended, if phase == Stop { CODE } else { KILLED }),
        Restart => stage.restarted(ended),
        Remove => stage.removed(ended, "exited"),
        RemoveByForce => stage.removed(ended, "running"),
        Save => stage.archive_is_whole(ended.done),
        VolumeCreate => stage.volume("vol", ended.done.then_some(true)),
        VolumeRemove => stage.volume("vol", ended.done.then_some(false)),
        Tag => stage.image("other:1", ended.done.then_some(true)),
        ImageRemove => stage.image("new:1", ended.done.then_some(false)),
        Prune => stage.pruned(ended.done),
    }
}
