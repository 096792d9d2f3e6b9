//! Removes a group, with the groups that the container made below it, and the unit that it belongs to.

use super::events::Events;
use super::{Cgroup, Saved, files, systemd};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::AsFd;
use std::time::Duration;

/// How long killed processes may take to end. One that is stuck in the kernel may take for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills what is in the group, if it is still there, and removes it.
pub(crate) fn destroy(saved: &Saved) -> Result<()> {
    match (Cgroup::open(saved)?, &saved.unit) {
        (Some(cgroup), _) if cgroup.remove_if_empty()? => Ok(()),
        (Some(cgroup), _) => {
            cgroup.kill()?;
            cgroup.remove()
        }
        // systemd removes the group of a unit with its last process, but keeps a unit that has failed.
        (None, Some(unit)) => systemd::forget(unit, &saved.path),
        (None, None) => Ok(()),
    }
}

impl Cgroup {
    /// Removes the group unless it has processes or groups below it. True: it is gone.
    fn remove_if_empty(&self) -> Result<bool> {
        match self.rmdir() {
            Err(Errno::EBUSY) => Ok(false),
            result => self.finish(result).map(|()| true),
        }
    }

    /// Removes the group. Its processes must have ended or have been killed: this waits for the kernel's word that the last one is
    /// gone. A group that is gone already is no error.
    pub(crate) fn remove(&self) -> Result<()> {
        match self.rmdir() {
            Err(Errno::EBUSY) => {}
            result => return self.finish(result),
        }
        let events = match Events::open(self) {
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                return self.finish(Ok(()));
            }
            events => events?,
        };
        if !events.wait(PATIENCE, |state| !state.populated)? {
            let story = format!(
                "remove cgroup '/{}': after {} s it still has {}",
                self.path,
                PATIENCE.as_secs(),
                self.member_names()
            );
            return Err(Error::new(Kind::System, story));
        }
        let walked = files::walk(self.dir.as_fd(), |parent, name, _| {
            match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOENT) => Ok(()),
                result => result,
            }
        });
        match walked {
            // systemd was faster.
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            walked => walked,
        }
        .context(|| format!("remove the groups below cgroup '/{}'", self.path))?;
        self.finish(self.rmdir())
    }

    fn rmdir(&self) -> crate::sys::Result<()> {
        match unlinkat(
            &self.hierarchy.root,
            self.path.as_str(),
            UnlinkatFlags::RemoveDir,
        ) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// After the directory. What systemd has of a unit without processes is only its name.
    fn finish(&self, removed: crate::sys::Result<()>) -> Result<()> {
        removed.context(|| format!("remove cgroup '/{}'", self.path))?;
        match &self.unit {
            Some(unit) => systemd::stop(unit),
            None => Ok(()),
        }
    }
}
