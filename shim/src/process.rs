//! One process of a container, init or exec: its state, its streams, and its end, which any number of clients may wait for.
//!
//! State is behind a lock that is only held to look or to change it, so that everybody gets an answer at any time. Operations that take time
//! hold `operation` besides.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::{Mutex as Lock, watch};

use crate::error::{Error, Result};
use crate::io::{Stdio, Streams};
use crate::lock::lock;
use crate::protos::task_types::Status;
use crate::reaper::{Child, Exit};

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) streams: Streams,
    /// Held by what changes the process, one at a time: create, start, pause, delete, and the publishing of its end.
    pub(crate) operation: Lock<()>,
    state: Mutex<State>,
    ended: watch::Sender<Option<Ended>>,
    open: Mutex<Open>,
}

/// ```text
///   Registered ──▶ Alive(Created ──▶ Running ⇄ Paused) ──▶ Stopped
/// ```
/// An exec is never Alive(Created): its process runs from its birth.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// An exec that has not been started.
    Registered,
    Alive(Phase, Arc<Child>),
    Stopped(Ended),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running,
    Pausing,
    Paused,
}

/// The end of a process. A pid of 0 is that of an exec whose start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    pub(crate) exit: Exit,
}

#[derive(Debug, Default)]
struct Open {
    stdio: Option<Arc<Stdio>>,
    /// A client may close the input before there is one.
    stdin_closed: bool,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} as pid {}", self.status(), self.pid())?;
        if self.is_busy() {
            f.write_str(", with an operation under way")?;
        }
        Ok(())
    }
}

impl Process {
    pub(crate) fn new(streams: Streams, state: State) -> Self {
        Self {
            streams,
            operation: Lock::new(()),
            state: Mutex::new(state),
            ended: watch::Sender::new(None),
            open: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Nothing comes after the end.
    pub(crate) fn set_phase(&self, phase: Phase, child: Arc<Child>) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Stopped(_)) {
            *state = State::Alive(phase, child);
        }
    }

    pub(crate) fn set_ended(&self, ended: Ended) {
        *lock(&self.state) = State::Stopped(ended);
        self.ended.send_replace(Some(ended));
    }

    /// The end of one that was never started, and cannot be any more.
    pub(crate) fn will_not_run(&self) {
        if matches!(self.state(), State::Registered) {
            self.set_ended(Ended {
                pid: 0,
                exit: Exit::now(255),
            });
        }
    }

    pub(crate) async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = *ended.borrow_and_update() {
                return ended;
            }
            // The sender lives as long as `self`.
            ended.changed().await.ok();
        }
    }

    /// 0 if there is none yet.
    pub(crate) fn pid(&self) -> i32 {
        match self.state() {
            State::Registered => 0,
            State::Alive(_, child) => child.pid,
            State::Stopped(ended) => ended.pid,
        }
    }

    fn is_busy(&self) -> bool {
        self.operation.try_lock().is_err()
    }

    pub(crate) fn status(&self) -> Status {
        match self.state() {
            State::Registered | State::Alive(Phase::Created, _) => Status::CREATED,
            State::Alive(Phase::Running, _) => Status::RUNNING,
            State::Alive(Phase::Pausing, _) => Status::PAUSING,
            State::Alive(Phase::Paused, _) => Status::PAUSED,
            State::Stopped(_) => Status::STOPPED,
        }
    }

    /// Sends a signal to the process itself.
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        let signal = signal.cast_signed();
        match self.state() {
            State::Registered => Err(Error::precondition("process not created")),
            State::Stopped(_) => Err(Error::not_found("process already finished")),
            State::Alive(_, child) => {
                child
                    .signal(signal)
                    .map_err(|error| match error.raw_os_error() {
                        Some(libc::ESRCH) => Error::not_found("process already finished"),
                        _ => Error::os(format!("send signal {signal} to pid {}", child.pid), error),
                    })
            }
        }
    }

    pub(crate) fn set_stdio(&self, stdio: Arc<Stdio>) {
        let mut open = lock(&self.open);
        if open.stdin_closed {
            stdio.close_stdin();
        }
        open.stdio = Some(stdio);
    }

    pub(crate) fn stdio(&self) -> Option<Arc<Stdio>> {
        lock(&self.open).stdio.clone()
    }

    pub(crate) fn close_stdio(&self) {
        lock(&self.open).stdio = None;
    }

    pub(crate) fn close_stdin(&self) {
        let mut open = lock(&self.open);
        open.stdin_closed = true;
        if let Some(stdio) = &open.stdio {
            stdio.close_stdin();
        }
    }
}
