//! Goes through operations with one runtime and with the other, and compares what came of it.

use integration::place;
use integration::runtime::{self, Finished};
use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// One thing that people do with an engine.
pub(super) struct Operation {
    /// What they would say they do.
    what: &'static str,
    /// How: a shell script. The [`Setting`] is its environment.
    script: &'static str,
    /// Its exit code, with any runtime.
    code: i32,
    /// What its output must contain, with any runtime: that both do the same is not enough if both fail.
    shows: &'static str,
    /// Whether it is left out unless every operation is asked for.
    seldom: bool,
}

/// An [`Operation`].
pub(super) const fn operation(
    what: &'static str,
    script: &'static str,
    code: i32,
    shows: &'static str,
) -> Operation {
    Operation {
        what,
        script,
        code,
        shows,
        seldom: false,
    }
}

/// An [`Operation`] for which there is time only now and then.
pub(super) const fn seldom(
    what: &'static str,
    script: &'static str,
    code: i32,
    shows: &'static str,
) -> Operation {
    Operation {
        seldom: true,
        ..operation(what, script, code, shows)
    }
}

/// Whether every operation is to be done: `OPERATIONS=every`.
pub(super) fn every() -> bool {
    env::var_os("OPERATIONS").is_some_and(|value| value == "every")
}

/// What an operation's script finds in its environment.
#[derive(Default)]
pub(super) struct Setting {
    variables: Vec<(&'static str, String)>,
}

impl Setting {
    /// A later value counts.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Setting {
        self.variables.push((name, value.to_owned()));
        self
    }
}

/// Fails the test, and shows what differs, unless all operations do the same with the runtime under test as with runc, and
/// what they should.
#[track_caller]
pub(super) fn assert_same(lists: &[&[Operation]], setting: impl Fn(&Path) -> Setting) {
    let all = lists.iter().copied().flatten();
    let operations: Vec<_> = all.filter(|one| every() || !one.seldom).collect();
    let yardstick = place::in_path(Path::new("runc")).unwrap();
    let runtimes = [super::installed(), yardstick];
    let [ours, theirs] = runtimes.map(|runtime| {
        let setting = setting(&runtime);
        let done = operations.iter();
        done.map(|operation| perform(operation, &setting, &runtime))
            .collect::<Vec<_>>()
    });
    let mut faults = String::new();
    for (at, operation) in operations.into_iter().enumerate() {
        let fault = fault(operation, &ours[at], &theirs[at]);
        if let Some(fault) = fault {
            let (what, ours, theirs) = (operation.what, &ours[at], &theirs[at]);
            write!(
                faults,
                "\n=== {what}: {fault}\n{ours}=== with runc\n{theirs}"
            )
            .unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

fn fault(operation: &Operation, ours: &Finished, theirs: &Finished) -> Option<&'static str> {
    let is_wrong = |finished: &Finished| {
        finished.code() != operation.code
            || !(finished.stdout.contains(operation.shows)
                || finished.stderr.contains(operation.shows))
    };
    if is_wrong(theirs) {
        Some("does not do with runc what the test expects")
    } else if is_wrong(ours) {
        Some("does not do what it should")
    } else if ours.stdout != theirs.stdout {
        Some("its output differs from runc's")
    } else {
        None
    }
}

fn perform(operation: &Operation, setting: &Setting, runtime: &Path) -> Finished {
    let mut command = Command::new("sh");
    // Where every user may be.
    command.args(["-c", operation.script]).current_dir("/");
    command.envs(setting.variables.iter().map(|(name, value)| (name, value)));
    // Engines live for too short to collect garbage, and to be interrupted all the time while they do not: emulated, that is a
    // quarter of what they cost.
    command.envs([
        ("GOGC", "off"),
        ("GOMEMLIMIT", "256MiB"),
        ("GODEBUG", "asyncpreemptoff=1"),
    ]);
    let mut finished = runtime::finish(command);
    finished.stdout = normalised(&finished.stdout, runtime);
    finished
}

/// Without what differs from one container to the next, and from one runtime to the other: ids, and the runtime's own path.
fn normalised(text: &str, runtime: &Path) -> String {
    let mut plain = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let id = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let hexadecimal = id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        // Short and long; sets of capabilities have 16 digits.
        if hexadecimal && matches!(id.len(), 12 | 64) {
            plain.push_str("ID");
            plain.push_str(&word[id.len()..]);
        } else {
            plain.push_str(word);
        }
    }
    // script(1) writes a zero at the end of its input, which its terminal shows unless the engine has made it raw by then.
    let plain = plain.replace("^@", "");
    plain.replace(&runtime.display().to_string(), "RUNTIME")
}
