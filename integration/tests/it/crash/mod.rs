//! Commands and container processes that are killed (SIGKILL) at one of their system calls: whatever is left of them, `delete --force`
//! cleans, and nothing else is left.
//!
//! A sweep carries one command out over and over, and kills each time one call later; see `integration/src/bin/crash.rs` for who
//! is killed when. `SWEEP=every` kills at each call; otherwise a sweep takes some of them, from a place that `SWEEP=NUMBER` chooses,
//! or chance: the number is on standard error.

mod command;
mod process;
mod shape;

use integration::runtime::announce;
use integration::{Bundle, Finished, host, place};
use shape::Shape;
use std::cell::Cell;
use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The exit status of `crash` when the command had ended before it was time.
const NOT_REACHED: i32 = 100;

/// From one call that a sweep takes to the next.
const STRIDE: u64 = 97;

/// Who is killed, and whose calls are counted.
type Roles = [&'static str; 2];

/// One command line that is killed again and again.
struct Sweep<'a> {
    bundle: &'a Bundle,
    shape: &'a Shape,
    roles: Roles,
    /// A process that counts as one that the command has started.
    also: Option<fn(&Bundle) -> i32>,
}

/// One time that it was.
struct Round<'a> {
    sweep: &'a Sweep<'a>,
    id: String,
    finished: Finished,
    /// What lay about before.
    files: Vec<PathBuf>,
}

impl<'a> Sweep<'a> {
    fn new(bundle: &'a Bundle, shape: &'a Shape, roles: Roles) -> Sweep<'a> {
        Sweep {
            bundle,
            shape,
            roles,
            also: None,
        }
    }

    /// `prepare` makes what the command needs of the container with this id, `words` are the command's, of which one may be `ID`, for the id. `judge`
    /// looks at what has become of it; then all that there is must go.
    #[track_caller]
    fn of(&self, prepare: impl Fn(&str), words: &[&str], judge: impl Fn(&Round<'_>)) {
        let (first, stride) = pace(&(self.shape.name, self.roles, words));
        for call in (first..).step_by(stride as usize) {
            if self.round(call, &prepare, words, &judge).is_some() {
                continue;
            }
            assert!(call > first || stride > 1, "killed nobody");
            if stride == 1 {
                let (shape, [victim, clock], calls) = (self.shape.name, self.roles, call - 1);
                let words = words.join(" ");
                announce(&format!(
                    "swept: {shape}: {victim} at each of {calls} calls of {clock}: {words}"
                ));
            }
            break;
        }
    }

    /// Only at these calls, of so many.
    #[track_caller]
    fn part(&self, part: fn(u64) -> Range<u64>, words: &[&str], judge: impl Fn(&Round<'_>)) {
        let calls = Cell::new(0);
        let count = |round: &Round<'_>| calls.set(round.calls());
        assert!(self.round(u64::MAX, &|_| {}, words, &count).is_none());
        assert!(calls.get() > 0, "counted nothing");
        for call in part(calls.get()) {
            self.round(call, &|_| {}, words, &judge);
        }
    }

    /// Kills at this call. None if there was none.
    #[track_caller]
    fn round(
        &self,
        call: u64,
        prepare: &impl Fn(&str),
        words: &[&str],
        judge: &impl Fn(&Round<'_>),
    ) -> Option<()> {
        let files = self.files();
        let id = place::unique("crash");
        self.shape.renew(self.bundle);
        prepare(&id);
        self.shape.renew(self.bundle);
        let mut runtime = self.bundle.runtime.clone();
        let count = call.to_string();
        let also = self.also.map(|pid| pid(self.bundle).to_string());
        let also: Vec<&str> = also.iter().map(String::as_str).collect();
        let crash = [&self.roles[..], &[&count], &also, &["--"]].concat();
        runtime.wrapper.push(place::crash().into());
        runtime.wrapper.extend(crash.iter().map(Into::into));
        // As a whole word: the name of a scratch directory may have these two letters.
        let named = |word: &&str| {
            if *word == "ID" {
                id.clone()
            } else {
                (*word).to_owned()
            }
        };
        let words: Vec<String> = words.iter().map(named).collect();
        let finished = runtime.call(&words);
        let reached = finished.code() != NOT_REACHED;
        let _told = Told(format!("{}: {finished}", self.shape.name));
        let round = Round {
            sweep: self,
            id,
            finished,
            files,
        };
        if reached || call == u64::MAX {
            judge(&round);
        }
        round.clear();
        reached.then_some(())
    }

    /// What lies about, beside the state and below the root.
    fn files(&self) -> Vec<PathBuf> {
        let scratch = self.bundle.scratch.path();
        let list = |directory| {
            fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        };
        let mut files: Vec<PathBuf> = list(scratch).chain(list(&self.bundle.path())).collect();
        // The state directory is made by the first command that needs it.
        files.retain(|file| *file != self.bundle.runtime.root);
        files.sort();
        files
    }
}

impl Round<'_> {
    /// The status that `state` says, or none if it says that there is no such container. It must say one of these, whatever was killed.
    #[track_caller]
    fn status(&self) -> Option<String> {
        let runtime = &self.sweep.bundle.runtime;
        runtime.call(&["list"]).success();
        let state = runtime.call(&["state", &self.id]);
        if state.status.success() {
            return Some(state.json()["status"].as_str().unwrap().to_owned());
        }
        state.failure().says("does not exist");
        None
    }

    /// How many calls there were.
    #[track_caller]
    fn calls(&self) -> u64 {
        let mut lines = self.finished.stderr.lines();
        let count = lines.find_map(|line| line.strip_prefix("crash: ")?.strip_suffix(" calls"));
        count.unwrap().parse().unwrap()
    }

    /// The command that was killed said nothing that it would have to take back.
    #[track_caller]
    fn was_killed(&self) {
        assert_eq!(self.finished.code(), 137, "{}", self.finished);
    }

    /// Whether any command of this one's succeeds now.
    #[track_caller]
    fn call(&self, words: &[&str]) -> Finished {
        let words = [words, &[&self.id]].concat();
        self.sweep.bundle.runtime.call(&words)
    }

    /// Removes the container, if there is one, by force: nothing may remain of it. Then there can be another one of this name.
    #[track_caller]
    fn clear(&self) {
        let bundle = self.sweep.bundle;
        self.status();
        self.call(&["delete", "--force"]).success();
        if self.sweep.shape.is_unknown_to_delete {
            // Nothing leads to a process that was only just made. It ends by itself when it sees that it is alone, and may have made another.
            while let Some(pid) = host::processes(&self.id).first() {
                assert!(host::await_end(*pid), "process {pid} lives on");
            }
        }
        self.assert_gone();
        self.sweep.shape.renew(bundle);
        let flags = [
            &self.sweep.shape.flags(bundle)[..],
            &["--detach".to_owned()],
        ]
        .concat();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        bundle.call("run", &flags, &self.id).success();
        assert_eq!(self.status().as_deref(), Some("running"));
        self.call(&["delete", "--force"]).success();
        self.assert_gone();
    }

    /// Nothing of the container is left.
    #[track_caller]
    fn assert_gone(&self) {
        self.take_pid_file();
        host::await_the_ending(&self.id);
        self.sweep.bundle.assert_gone(&self.id);
        assert_eq!(self.sweep.files(), self.files);
    }

    /// Whoever finds a pid file finds a number in it.
    #[track_caller]
    fn take_pid_file(&self) {
        let path = self.sweep.bundle.scratch.path().join("pid");
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            text => {
                let text = text.unwrap();
                assert!(text.parse::<u32>().is_ok(), "pid file: {text:?}");
            }
        }
        fs::remove_file(path).unwrap();
    }
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

/// The first call to kill at, and how many to go on by.
fn pace(sweep: &impl Hash) -> (u64, u64) {
    static SEED: OnceLock<Option<u64>> = OnceLock::new();
    let seed = SEED.get_or_init(|| match std::env::var("SWEEP").as_deref() {
        Ok("every") => None,
        Ok(number) => Some(number.parse().unwrap()),
        Err(_) => {
            let seed = RandomState::new().build_hasher().finish() % 1000;
            announce(&format!("SWEEP={seed}"));
            Some(seed)
        }
    });
    let Some(seed) = seed else { return (1, 1) };
    let mut hasher = DefaultHasher::new();
    (seed, sweep).hash(&mut hasher);
    // Emulated, a command takes ten times as long.
    let emulated = integration::require::throwaway_machine().is_ok();
    let stride = if emulated { 2 * STRIDE } else { STRIDE };
    (1 + hasher.finish() % stride, stride)
}

/// The process that `--pid-file` told of.
fn pid(bundle: &Bundle) -> i32 {
    let path = bundle.scratch.path().join("pid");
    fs::read_to_string(path).unwrap().parse().unwrap()
}
