//! The one place that waits for children: commands of the runtime, and the processes of containers, which become ours when their
//! command has ended, as this process is a subreaper.
//!
//! A child is known by its pidfd, from when its pid was read until it is reaped; its pid cannot be another's meanwhile, since only we reap.
//! While somebody expects a pid that he does not know yet ([`Reaper::expect`]), no unknown child is reaped: a process that dies
//! before its pid was read stays a zombie until it can be claimed. Others that come to us, orphans of containers, are reaped at once.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use crate::sys;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 128 and its number for a signal.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    children: HashSet<i32>,
    expected: usize,
}

/// While it lives, no unknown child is reaped.
#[derive(Debug)]
pub(crate) struct Expectation(Reaper);

/// A child that will be reaped by [`Child::exited`].
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    reaper: Reaper,
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
        self.known().expected += 1;
        Expectation(self.clone())
    }

    /// Reaps what has ended and nobody waits for. A child that somebody waits for ends it: he will reap it and have us look again.
    fn sweep(&self) {
        let known = self.known();
        while known.expected == 0 {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let Ok(Some(pid)) =
                waitid(Id::All, flags | WaitPidFlag::WNOWAIT).map(|status| status.pid())
            else {
                break;
            };
            if known.children.contains(&pid.as_raw()) || waitid(Id::Pid(pid), flags).is_err() {
                break;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expectation {
    /// Takes the process as ours to wait for. It need not be alive any more, but must be our child or about to become it.
    pub(crate) fn claim(&self, pid: i32) -> io::Result<Child> {
        let pidfd = sys::register(sys::pidfd_open(pid)?, Interest::READABLE)?;
        self.0.known().children.insert(pid);
        Ok(Child {
            pid,
            pidfd,
            reaper: self.0.clone(),
        })
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.0.known().expected -= 1;
        self.0.sweep();
    }
}

impl Child {
    /// Waits for its end and reaps it. Once; a second call would find no child.
    pub(crate) async fn exited(&self) -> io::Result<Exit> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            let at = SystemTime::now();
            match waitid(
                Id::PIDFd(self.pidfd.as_fd()),
                WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
            ) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => ready.clear_ready(),
                Ok(WaitStatus::Exited(_, code)) => {
                    return Ok(Exit {
                        status: code.cast_unsigned(),
                        at,
                    });
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Ok(Exit {
                        status: 128 + (signal as i32).cast_unsigned(),
                        at,
                    });
                }
                Ok(other) => {
                    return Err(io::Error::other(format!("pid {} has {other:?}", self.pid)));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// ESRCH if it has ended.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal)
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::PIDFd(self.pidfd.as_fd()), flags),
            Ok(WaitStatus::StillAlive)
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reaper.known().children.remove(&self.pid);
        self.reaper.sweep();
    }
}
