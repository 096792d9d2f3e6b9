//! Waiting for what happens to a group: the kernel marks the files `cgroup.events` and `memory.events` as changed (POLLPRI), so
//! nobody has to look in between.

use super::events::Events;
use super::{Cgroup, files};
use crate::report::{Context, Result};
use crate::sys::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::pread;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A group that is waited for.
pub(crate) struct Watch<'a> {
    events: Events<'a>,
    /// Absent without the memory controller: then nothing is killed for want of memory of the group.
    memory: Option<OwnedFd>,
    oom_kills: u64,
    /// The pidfd of the process whose end is likely to be that of the group, until it has ended. The kernel puts a change off if another was
    /// told in the last 10 ms (cgroup_file_notify), and forgets it if the group is removed meanwhile.
    process: Option<OwnedFd>,
}

/// What has happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The caller's timer has expired.
    pub(crate) timer: bool,
    /// Processes were killed because memory.max of the group, or of one below it, was reached.
    pub(crate) oom: bool,
    /// The last process of the group has ended.
    pub(crate) ended: bool,
}

impl Cgroup {
    /// Begins to watch: what was before does not count.
    pub(crate) fn watch(&self, process: Option<OwnedFd>) -> Result<Watch<'_>> {
        let memory = match files::open(&self.dir, "memory.events", OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => None,
            file => {
                Some(file.context(|| format!("open memory.events of cgroup '/{}'", self.path))?)
            }
        };
        let mut watch = Watch {
            events: Events::open(self)?,
            memory,
            oom_kills: 0,
            process,
        };
        watch.oom_kills = watch.count()?;
        Ok(watch)
    }
}

impl Watch<'_> {
    /// Waits until something has happened. `timer` becomes readable when it expires; the caller reads it.
    pub(crate) fn wait(&mut self, timer: BorrowedFd<'_>) -> Result<News> {
        let mut timeout = PollTimeout::NONE;
        loop {
            let mut fds = vec![
                PollFd::new(timer, PollFlags::POLLIN),
                PollFd::new(self.events.as_fd(), PollFlags::POLLPRI),
            ];
            let process = self.process.as_ref();
            fds.extend(process.map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)));
            let memory = self.memory.as_ref();
            fds.extend(memory.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                result => result.context(|| "wait for the events of a cgroup")?,
            };
            let timer = fds[0].any().unwrap_or(false);
            timeout = PollTimeout::NONE;
            if self.process.is_some() && fds[2].any().unwrap_or(false) {
                self.process = None;
                // It may still be a member for a moment (since Linux 6.19): one more look, after what may be forgotten.
                timeout = PollTimeout::from(20u8);
            }
            // In this order: a kill is counted before the process that it ends is gone.
            let ended = !self.events.state()?.populated;
            let kills = self.count()?;
            let news = News {
                timer,
                oom: kills > self.oom_kills,
                ended,
            };
            self.oom_kills = kills.max(self.oom_kills);
            if news != News::default() {
                return Ok(news);
            }
        }
    }

    fn count(&self) -> Result<u64> {
        let Some(file) = &self.memory else {
            return Ok(0);
        };
        let mut buf = [0; 512];
        let length = loop {
            match pread(file, &mut buf, 0) {
                Err(Errno::EINTR) => {}
                // The group is gone.
                Err(Errno::ENODEV) => break 0,
                length => break length.context(|| "read memory.events of a cgroup")?,
            }
        };
        let text = String::from_utf8_lossy(&buf[..length]);
        Ok(files::number(&text, "oom_kill").unwrap_or_default())
    }
}
