//! Writes limits to a group's files. Serves `create`, where the group is empty, and `update`, where it is not.

use super::{Cgroup, controllers, files};
use crate::plan::limits::{Absent, Limits, MemoryCheck, Write};
use crate::report::{Error, Result};
use crate::sys::Errno;

impl Cgroup {
    /// Puts the limits in force, in their order, and returns what was ignored.
    pub(super) fn apply(&self, limits: &Limits) -> Result<Vec<String>> {
        self.apply_each(limits, |_| Ok(()))
    }

    /// The same with something to be done before each write.
    pub(super) fn apply_each(
        &self,
        limits: &Limits,
        mut before: impl FnMut(&Write) -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut warnings = limits.warnings.clone();
        let controllers = limits.controllers();
        if !controllers.is_empty() {
            self.enable(&controllers)?;
        }
        if let Some(check) = limits.memory_check {
            self.check_memory(check)?;
        }
        let mut refused = None;
        for write in &limits.writes {
            before(write)?;
            match self.set(write, &mut warnings) {
                Err(error) if write.retry && error.errno() == Some(Errno::EINVAL) => {
                    refused = Some(write);
                    continue;
                }
                result => result?,
            }
            if let Some(write) = refused.take() {
                self.set(write, &mut warnings)?;
            }
        }
        if let Some(write) = refused {
            self.set(write, &mut warnings)?;
        }
        Ok(warnings)
    }

    /// A controller that somebody else is enabling at the moment is listed already and has no files yet (`cgroup_apply_control_enable` in the
    /// kernel). Whoever writes to the parent's list then waits until they are there. False if it is not that.
    fn settle(&self, file: &str) -> bool {
        let controller = file
            .split_once('.')
            .map_or(file, |(controller, _)| controller);
        let listed = self.read("cgroup.controllers");
        listed.is_ok_and(|list| controllers::missing(&[controller], &list).is_empty())
            && files::write(
                &self.dir,
                "../cgroup.subtree_control",
                &format!("+{controller}"),
            )
            .is_ok()
    }

    fn set(&self, write: &Write, warnings: &mut Vec<String>) -> Result<()> {
        let Write {
            file,
            value,
            absent,
            ..
        } = write;
        let mut result = files::write(&self.dir, file, value);
        if result == Err(Errno::ENOENT) && self.settle(file) {
            result = files::write(&self.dir, file, value);
        }
        match (result, absent) {
            (Err(Errno::ENOENT), Absent::Ignore) => Ok(()),
            (Err(Errno::ENOENT), Absent::Warn(warning)) => {
                warnings.push((*warning).to_owned());
                Ok(())
            }
            (Err(Errno::ENOENT), Absent::Instead { file, value }) => self.write(file, value),
            (result, _) => result.map_err(|errno| self.write_error(file, value, errno)),
        }
    }

    /// The kernel obeys a limit below what is in use by killing processes, so some users want to be refused instead.
    fn check_memory(&self, check: MemoryCheck) -> Result<()> {
        let Some(in_use) = self.memory_in_use()? else {
            return Ok(());
        };
        // In the words and the order of runc.
        let limits = [
            ("memory+swap", check.limit_with_swap),
            ("memory", check.limit),
        ];
        for (what, limit) in limits {
            if let Some(limit) = limit.filter(|limit| *limit <= in_use) {
                let story = format!(
                    "rejecting {what} limit {limit} <= usage {in_use} of cgroup '/{}'",
                    self.path
                );
                return Err(Error::invalid(story));
            }
        }
        Ok(())
    }

    /// In bytes, with everything below the group.
    pub(super) fn memory_in_use(&self) -> Result<Option<u64>> {
        Ok(self.read("memory.current")?.trim_end().parse().ok())
    }
}
