//! Notices that the kernel has killed something of a group for want of memory: `oom_kill` of memory.events increases, which poll(2) tells
//! (POLLPRI, Documentation/admin-guide/cgroup-v2.rst, "memory.events").
//!
//! Runs in the serving shim. Not inotify(7): a user has 128 instances of that by default, and it tells a little later, from a queue
//! of the kernel's. The file is read where it is open, so it needs no path. When the group has been removed, the file answers ENODEV, and
//! what was read before stands. systemd removes a scope's group as soon as it is empty, which can be before anybody has read what its last
//! process died of: the count of the group above, which has those of all below it, says that then.

use std::fs::File;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::sys::uio::pread;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::error::told;
use crate::lock::lock;
use crate::sys;

const EVENTS: &str = "memory.events";

/// Two open files and one task, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    group: Arc<Group>,
    task: AbortHandle,
}

struct Group {
    events: AsyncFd<OwnedFd>,
    /// The last `oom_kill`, and what it was in the beginning.
    kills: Mutex<(u64, u64)>,
    /// The file of the group above, and its `oom_kill` in the beginning. The root has none.
    above: Option<(OwnedFd, u64)>,
    killed: Box<dyn Fn() + Send + Sync>,
}

impl Watch {
    /// Watches the group whose directory this is. `killed` is called each time `oom_kill` has increased.
    pub(crate) fn new(group: &Path, killed: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        let path = group.join(EVENTS);
        let context = |error| told(format_args!("watch {}", path.display()), error);
        // Read before it is registered: what happens from now on is an event.
        let (file, kills) = counted(&path).map_err(context)?;
        let above = group
            .parent()
            .and_then(|above| counted(&above.join(EVENTS)).ok());
        let events = sys::register(file, Interest::PRIORITY).map_err(context)?;
        let group = Arc::new(Group {
            events,
            kills: Mutex::new((kills, kills)),
            above,
            killed: Box::new(killed),
        });
        let task = tokio::spawn(watch(group.clone())).abort_handle();
        Ok(Self { group, task })
    }

    /// Reads once more, calls `killed` if there is something new, and ends: to be called before an exit is published. True if anything
    /// was ever killed. `of_sigkill`: the last process died of a SIGKILL that nobody is known to have sent.
    pub(crate) fn finish(self, of_sigkill: bool) -> bool {
        let seen = self.group.look();
        let (last, first) = *lock(&self.group.kills);
        if last > first {
            return true;
        }
        // It might have been another group's there, and whoever sent the SIGKILL did not ask us. That all comes together is not to be expected.
        let missed = seen.is_err() && of_sigkill && self.group.above_has_increased();
        if missed {
            (self.group.killed)();
        }
        missed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("events", &self.events)
            .field("kills", &self.kills)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// ENODEV if the group has been removed.
    fn look(&self) -> Result<()> {
        let kills = kills(self.events.get_ref())?;
        let increased = {
            let mut known = lock(&self.kills);
            let before = std::mem::replace(&mut known.0, kills);
            kills > before
        };
        if increased {
            (self.killed)();
        }
        Ok(())
    }

    fn above_has_increased(&self) -> bool {
        let above = self.above.as_ref();
        above.is_some_and(|(file, first)| kills(file).is_ok_and(|kills| kills > *first))
    }
}

async fn watch(group: Arc<Group>) {
    while let Ok(mut changed) = group.events.ready(Interest::PRIORITY).await {
        changed.clear_ready();
        // What is to be said of a group that has gone, `finish` says.
        group.look().ok();
    }
}

/// Opens the file, and reads it.
fn counted(events: &Path) -> Result<(OwnedFd, u64)> {
    let file = OwnedFd::from(File::open(events)?);
    let kills = kills(&file)?;
    Ok((file, kills))
}

/// Reading also has the kernel take the present state as seen.
fn kills(file: &OwnedFd) -> Result<u64> {
    let mut text = [0; 512];
    let length = pread(file, &mut text, 0)?;
    Ok(oom_kill(&String::from_utf8_lossy(&text[..length])))
}

/// `oom_group_kill` is another line.
fn oom_kill(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_oom_kill_counts() {
        assert_eq!(
            oom_kill("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"),
            4
        );
        assert_eq!(oom_kill("low 1\noom_group_kill 5\n"), 0);
    }
}
