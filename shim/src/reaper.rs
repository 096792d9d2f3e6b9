//! The one place that waits for children: commands of the runtime, and the processes of containers, which become ours when their
//! command has ended, as this process is a subreaper.
//!
//! A child is known by its pidfd, from when its pid was read until it is reaped; its pid cannot be another's meanwhile, since only we reap.
//! While somebody expects a pid that he does not know yet ([`Reaper::expect`]), no unknown child is reaped: a process that dies
//! before its pid was read stays a zombie until it can be claimed. Others that come to us, orphans of containers, are reaped at once; also
//! while a command takes long ([`LONG`]) and lives, since what it makes is its own child until it ends.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use crate::lock::lock;
use crate::sys::{self, Children};

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 128 and its number for a signal.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

/// The status of a process that has died of SIGKILL.
pub(crate) const KILLED: u32 = 128 + libc::SIGKILL.cast_unsigned();

impl Exit {
    /// Of what nobody has seen end.
    pub(crate) fn now(status: u32) -> Self {
        Self {
            status,
            at: SystemTime::now(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper(Arc<Mutex<Known>>);

/// How long zombies may gather for a command. One that is a script, and makes a process by another command, has so long.
const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Known {
    children: HashSet<i32>,
    expected: HashMap<usize, Expected>,
    next: usize,
}

#[derive(Debug)]
struct Expected {
    since: Instant,
    /// The command that will say the pid; 0 if there is none yet.
    command: i32,
}

impl Known {
    /// Whether an unknown child may be what somebody expects.
    fn may_be_expected(&self) -> bool {
        self.expected.values().any(|expected| {
            let lives = self.children.contains(&expected.command)
                && matches!(
                    sys::wait(Children::Pid(expected.command), libc::WNOWAIT),
                    Ok(None)
                );
            expected.since.elapsed() < LONG || !lives
        })
    }
}

/// While it lives, no unknown child is reaped.
#[derive(Debug)]
pub(crate) struct Expectation(Reaper, usize);

/// A child that will be reaped by [`Child::exited`], or by [`Child::reap`].
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    reaper: Reaper,
    /// From then on its pid may be another's.
    reaped: AtomicBool,
}

impl Reaper {
    /// Starts to reap orphans. To be called in the runtime (tokio's).
    pub(crate) fn new() -> io::Result<Self> {
        let reaper = Self::default();
        let mut signals = signal(SignalKind::child())?;
        let sweeping = reaper.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                sweeping.sweep();
            }
        });
        Ok(reaper)
    }

    pub(crate) fn expect(&self) -> Expectation {
        let mut known = self.known();
        let number = known.next;
        known.next += 1;
        let expected = Expected {
            since: Instant::now(),
            command: 0,
        };
        known.expected.insert(number, expected);
        Expectation(self.clone(), number)
    }

    /// Reaps what has ended and nobody waits for. A child that somebody waits for ends it: he will reap it and have us look again.
    fn sweep(&self) {
        let known = self.known();
        // In this order: what a command has made comes to us before its own end is seen.
        while let Ok(Some(ended)) = sys::wait(Children::All, libc::WNOWAIT)
            && !known.children.contains(&ended.pid)
            && !known.may_be_expected()
            && sys::wait(Children::Pid(ended.pid), 0).is_ok()
        {}
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0)
    }
}

impl Expectation {
    /// The command that is going to say it.
    pub(crate) fn is_told_by(&self, command: &Child) {
        if let Some(expected) = self.0.known().expected.get_mut(&self.1) {
            expected.command = command.pid;
        }
    }

    /// Takes the process as ours to wait for. It need not be alive any more, but must be our child or about to become it.
    pub(crate) fn claim(&self, pid: i32) -> io::Result<Child> {
        let pidfd = sys::register(sys::pidfd_open(pid)?, Interest::READABLE)?;
        self.0.known().children.insert(pid);
        Ok(Child {
            pid,
            pidfd,
            reaper: self.0.clone(),
            reaped: AtomicBool::new(false),
        })
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.0.known().expected.remove(&self.1);
        self.0.sweep();
    }
}

impl Child {
    /// Waits for its end and reaps it. Once; a second call would find no child.
    pub(crate) async fn exited(&self) -> io::Result<Exit> {
        let exit = self.ended().await;
        self.reap();
        exit
    }

    /// Waits for its end. It stays a zombie, whose end the next subreaper is told if we die, until [`Child::reap`].
    pub(crate) async fn ended(&self) -> io::Result<Exit> {
        let ended = loop {
            let mut ready = self.pidfd.readable().await?;
            match self.look() {
                Ok(Some(ended)) => break ended,
                Ok(None) => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        Ok(Exit {
            status: ended.status,
            at: SystemTime::now(),
        })
    }

    /// How it ended, if it has. It stays what it is.
    fn look(&self) -> io::Result<Option<sys::Ended>> {
        sys::wait(Children::Pidfd(self.pidfd.as_fd()), libc::WNOWAIT)
    }

    /// Takes its end from the kernel.
    pub(crate) fn reap(&self) {
        // That it is no child of ours has been told by `ended`.
        sys::wait(Children::Pidfd(self.pidfd.as_fd()), 0).ok();
        self.forget();
    }

    /// It is no more ours to wait for; what it may have kept from being reaped is looked for. Once.
    fn forget(&self) {
        if !self.reaped.swap(true, Ordering::Relaxed) {
            self.reaper.known().children.remove(&self.pid);
            self.reaper.sweep();
        }
    }

    /// Ends it if it has not ended. Nobody need wait for it then: it is reaped as an orphan is.
    pub(crate) fn abandon(&self) {
        if !self.reaped.load(Ordering::Relaxed) {
            // ESRCH: it has ended just now.
            self.signal(libc::SIGKILL).ok();
        }
    }

    /// ESRCH if it has ended.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal)
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.look(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.forget();
    }
}
