//! Removes a group, with the groups that the container made below it.

use super::events::Events;
use super::{Cgroup, files};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::AsFd;
use std::time::Duration;

/// How long killed processes may take to end. One that is stuck in the kernel may take for ever.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Removes the group unless it has processes or groups below it. True: it is gone.
    pub(crate) fn remove_if_empty(&self) -> Result<bool> {
        match self.rmdir() {
            Err(Errno::EBUSY) => Ok(false),
            result => self.explain(result).map(|()| true),
        }
    }

    /// Removes the group. Its processes must have ended or have been killed: this waits for the kernel's word that the last one is
    /// gone. A group that is gone already is no error.
    pub(crate) fn remove(&self) -> Result<()> {
        match self.rmdir() {
            Err(Errno::EBUSY) => {}
            result => return self.explain(result),
        }
        let events = match Events::open(self) {
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                return Ok(());
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
        files::walk(self.dir.as_fd(), |parent, name, _| {
            match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOENT) => Ok(()),
                result => result,
            }
        })
        .context(|| format!("remove the groups below cgroup '/{}'", self.path))?;
        self.explain(self.rmdir())
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

    fn explain(&self, result: crate::sys::Result<()>) -> Result<()> {
        result.context(|| format!("remove cgroup '/{}'", self.path))
    }
}
