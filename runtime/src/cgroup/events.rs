//! What the kernel tells about a group: whether it is populated or frozen, as events to wait for, and how often its limits were hit.

use super::{Cgroup, files};
use crate::report::{Context, Result};
use crate::sys::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::pread;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// An open cgroup.events. The kernel signals each change after the last read, so no change between looking and waiting is lost.
pub(super) struct Events<'a> {
    cgroup: &'a Cgroup,
    file: OwnedFd,
}

/// Both are about the group and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) populated: bool,
    pub(super) frozen: bool,
}

impl<'a> Events<'a> {
    pub(super) fn open(cgroup: &'a Cgroup) -> Result<Events<'a>> {
        let file = files::open(&cgroup.dir, "cgroup.events", OFlag::O_RDONLY)
            .context(|| format!("open cgroup.events of cgroup '/{}'", cgroup.path))?;
        Ok(Events { cgroup, file })
    }

    /// The state now. A group that was removed is neither populated nor frozen.
    pub(super) fn state(&self) -> Result<State> {
        let mut buf = [0; 256];
        loop {
            match pread(&self.file, &mut buf, 0) {
                Err(Errno::EINTR) => {}
                Err(Errno::ENODEV) => {
                    return Ok(State {
                        populated: false,
                        frozen: false,
                    });
                }
                read => {
                    let length = read.context(|| {
                        format!("read cgroup.events of cgroup '/{}'", self.cgroup.path)
                    })?;
                    return Ok(State::parse(&String::from_utf8_lossy(&buf[..length])));
                }
            }
        }
    }

    /// Waits until the state is as wanted. False if it was not within the time.
    pub(super) fn wait(&self, timeout: Duration, wanted: impl Fn(State) -> bool) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        while !wanted(self.state()?) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)];
            match poll(
                &mut fds,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            ) {
                Err(Errno::EINTR) => {}
                result => drop(result.context(|| {
                    format!("wait for cgroup.events of cgroup '/{}'", self.cgroup.path)
                })?),
            }
        }
        Ok(true)
    }
}

impl AsFd for Events<'_> {
    /// To wait for a change together with other things: POLLPRI.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl State {
    pub(super) fn parse(text: &str) -> State {
        State {
            populated: files::number(text, "populated") == Some(1),
            frozen: files::number(text, "frozen") == Some(1),
        }
    }
}

/// How often a limit got in the way of the group's processes. What a failed start is blamed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitHits {
    /// Processes that were killed because memory.max was reached.
    pub(crate) oom_kills: u64,
    /// Processes and threads that could not be made because pids.max was reached.
    pub(crate) forks_refused: u64,
}

impl Cgroup {
    /// Counted since the group was made. Zero where the controller is not enabled.
    pub(crate) fn limit_hits(&self) -> Result<LimitHits> {
        let count = |file, key| match files::read(&self.dir, file) {
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(0),
            text => {
                let text = text.context(|| format!("read {file} of cgroup '/{}'", self.path))?;
                Ok(files::number(&text, key).unwrap_or_default())
            }
        };
        Ok(LimitHits {
            oom_kills: count("memory.events", "oom_kill")?,
            forks_refused: count("pids.events", "max")?,
        })
    }
}

impl LimitHits {
    pub(crate) fn any(self) -> bool {
        self != LimitHits::default()
    }
}

impl fmt::Display for LimitHits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hits = Vec::new();
        if self.oom_kills > 0 {
            hits.push(format!(
                "{} process(es) killed at the memory limit (oom_kill {})",
                self.oom_kills, self.oom_kills
            ));
        }
        if self.forks_refused > 0 {
            hits.push(format!(
                "{} fork(s) refused at the pids limit",
                self.forks_refused
            ));
        }
        f.write_str(&hits.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_states_are_read() {
        assert_eq!(
            State::parse("populated 1\nfrozen 0\n"),
            State {
                populated: true,
                frozen: false
            }
        );
        assert_eq!(
            State::parse("populated 0\nfrozen 1\n"),
            State {
                populated: false,
                frozen: true
            }
        );
    }

    #[test]
    fn only_limits_that_were_hit_are_told() {
        let hits = LimitHits {
            oom_kills: 2,
            forks_refused: 0,
        };
        assert_eq!(
            hits.to_string(),
            "2 process(es) killed at the memory limit (oom_kill 2)"
        );
        assert!(!LimitHits::default().any());
    }
}
