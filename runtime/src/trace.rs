//! The trace of a command (`--trace`): when each of its phases began, and each step of the container's process.
//!
//! Runs in the runtime command. Init neither logs nor sees the file: it stores the time of each step into a word of memory that it shares with
//! its parent, which takes no system call where the vDSO reads the clock, and the parent puts the names to the times. Lines are kept until nothing
//! earlier can come, sorted by time and appended in one write. Without `--trace`, all this is a None that is looked at.

use crate::plan::{Plan, Step};
use crate::report::{Context, Error, Result};
use crate::sys::clock::{monotonic_us, shared_words};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::Serialize;
use std::cell::RefCell;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the lines go, if anywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Option<Rc<Sink>>);

#[derive(Debug)]
struct Sink {
    file: File,
    /// This command's.
    pid: i32,
    waiting: RefCell<Vec<Line>>,
}

/// One line of the file.
#[derive(Debug, Serialize)]
struct Line {
    /// CLOCK_MONOTONIC as this command sees it, in microseconds: when it began.
    us: u64,
    pid: i32,
    process: &'static str,
    /// The number of a step of init's, as in the log and in `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    name: String,
}

/// The times of init's steps, written by init.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) words: &'static [AtomicU64],
    /// From which step on init's clock may be one of a time namespace.
    shifted_from: usize,
}

impl Trace {
    /// Opens the file, making it if there is none.
    pub(crate) fn open(path: Option<&Path>) -> Result<Trace> {
        let Some(path) = path else {
            return Ok(Trace::default());
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC;
        let file = open(path, flags, Mode::from_bits_truncate(0o644));
        Ok(Trace(Some(Rc::new(Sink {
            file: file.context(|| format!("open trace {path:?}"))?.into(),
            pid: std::process::id().cast_signed(),
            waiting: RefCell::default(),
        }))))
    }

    /// A phase of the command begins.
    pub(crate) fn begin(&self, name: impl Display) {
        if let Some(sink) = &self.0 {
            sink.waiting.borrow_mut().push(Line {
                us: monotonic_us(),
                pid: sink.pid,
                process: "command",
                step: None,
                name: name.to_string(),
            });
        }
    }

    /// Room for the times of a plan's steps.
    pub(crate) fn times(&self, plan: &Plan) -> Result<Option<Times>> {
        if self.0.is_none() {
            return Ok(None);
        }
        let words = shared_words(plan.steps.len())
            .map_err(|errno| Error::os("map memory for the times of steps", errno))?;
        const TIME: u64 = crate::plan::namespaces::CLONE_NEWTIME as u64;
        let stage = plan.birth.stage.as_ref();
        let before = stage.is_some_and(|stage| {
            stage.time_offsets.is_some() || stage.join.iter().any(|join| join.flags & TIME != 0)
        });
        let joins = |step: &Step| matches!(step, Step::Join(join) if join.flags & TIME != 0);
        let shifted_from = match before {
            true => 0,
            false => plan
                .steps
                .iter()
                .position(joins)
                .map_or(usize::MAX, |at| at + 1),
        };
        Ok(Some(Times {
            words,
            shifted_from,
        }))
    }

    /// Takes the times of the steps that have begun by now and were not taken before.
    pub(crate) fn steps(&self, pid: i32, steps: &[Step], times: Option<&Times>) {
        let (Some(sink), Some(times)) = (&self.0, times) else {
            return;
        };
        let mut shift = None;
        let mut waiting = sink.waiting.borrow_mut();
        for (step, (word, name)) in times.words.iter().zip(steps).enumerate() {
            let us = word.swap(0, Relaxed);
            if us == 0 {
                continue;
            }
            let shift = match step < times.shifted_from {
                true => Some(0),
                false => *shift.get_or_insert_with(|| Some(offset(pid)? - offset_of("self")?)),
            };
            // A process that has ended does not tell its clock's offset any more.
            let Some(shift) = shift else { continue };
            waiting.push(Line {
                us: us.saturating_add_signed(-shift),
                pid,
                process: "init",
                step: Some(step),
                name: name.to_string(),
            });
        }
    }

    /// Writes what is known by now. Whatever comes later began later.
    pub(crate) fn write(&self) -> Result<()> {
        let Some(sink) = &self.0 else { return Ok(()) };
        let mut lines = sink.waiting.take();
        lines.sort_unstable_by_key(|line| (line.us, line.step));
        let mut text = Vec::new();
        for line in &lines {
            let written = serde_json::to_writer(&mut text, line);
            written.map_err(|e| {
                Error::new(crate::report::Kind::System, format!("write a trace: {e}"))
            })?;
            text.push(b'\n');
        }
        (&sink.file).write_all(&text).context(|| "write the trace")
    }
}

fn offset(pid: i32) -> Option<i64> {
    offset_of(&pid.to_string())
}

/// How far a process's CLOCK_MONOTONIC is ahead of the machine's, in microseconds (time_namespaces(7)).
fn offset_of(process: &str) -> Option<i64> {
    let text = match std::fs::read_to_string(format!("/proc/{process}/timens_offsets")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && process == "self" => {
            return Some(0); // a kernel without time namespaces
        }
        read => read.ok()?,
    };
    let line = text.lines().find(|line| line.starts_with("monotonic"))?;
    let mut numbers = line.split_whitespace().skip(1);
    let seconds: i64 = numbers.next()?.parse().ok()?;
    let nanoseconds: i64 = numbers.next()?.parse().ok()?;
    Some(seconds * 1_000_000 + nanoseconds / 1000)
}
