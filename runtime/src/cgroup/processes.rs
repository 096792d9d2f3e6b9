//! The processes of a group: listing, adding, killing.

use super::{Cgroup, files, systemd};
use crate::report::{Context, Result};
use crate::sys::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd;

impl Cgroup {
    /// The processes of the group and of all groups below it, by their numbers in the caller's pid namespace.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>> {
        let pids = self.members()?;
        // 0 is a process that the caller's pid namespace does not know; as an argument of kill(2) it would be the caller's own group.
        Ok(pids
            .into_iter()
            .filter(|pid| *pid > 0)
            .map(Pid::from_raw)
            .collect())
    }

    /// Moves a process into the group. For kernels and situations without CLONE_INTO_CGROUP: moving costs an RCU grace period, and
    /// memory that the process has touched stays charged to its former group.
    pub(crate) fn add(&self, pid: Pid, controllers: &[&str]) -> Result<()> {
        match files::write(&self.dir, "cgroup.procs", &pid.to_string()) {
            Err(Errno::EOPNOTSUPP) => {
                self.make_enterable(controllers)?;
                self.write("cgroup.procs", &pid.to_string())
            }
            // The boundary between what is the user's and what is his session's.
            Err(Errno::EACCES | Errno::EPERM) if self.unit.is_some() => self.attach(pid),
            result => result
                .context(|| format!("write '{pid}' to cgroup.procs of cgroup '/{}'", self.path)),
        }
    }

    fn attach(&self, pid: Pid) -> Result<()> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let below = self
            .path
            .split_once(unit.name())
            .map_or("", |(_, below)| below);
        systemd::attach(unit, below, pid)
    }

    /// Sends SIGKILL to every process of the group and of all groups below it, frozen or not. Does not wait: see `remove`.
    pub(crate) fn kill(&self) -> Result<()> {
        match files::write(&self.dir, "cgroup.kill", "1") {
            // KERNEL(5.14): drop ENOENT. A group of threads refuses the write (EOPNOTSUPP).
            Err(Errno::ENOENT | Errno::EOPNOTSUPP) => self.kill_one_by_one(),
            Err(Errno::ENODEV) => Ok(()),
            result => {
                result.context(|| format!("write '1' to cgroup.kill of cgroup '/{}'", self.path))
            }
        }
    }

    /// In a frozen group no process can fork, or end and leave its number to a stranger.
    fn kill_one_by_one(&self) -> Result<()> {
        let frozen = self.freeze();
        for pid in self.processes()? {
            match kill(pid, Signal::SIGKILL) {
                Err(Errno::ESRCH) => {}
                result => {
                    result.context(|| format!("kill process {pid} of cgroup '/{}'", self.path))?
                }
            }
        }
        frozen?;
        self.thaw()
    }

    /// As the kernel lists them: 0 for each process of a foreign pid namespace.
    pub(super) fn members(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        let mut collect = |group: &dyn AsFd| {
            let text = match files::read(group.as_fd(), "cgroup.procs") {
                // A group of threads lists only these.
                Err(Errno::EOPNOTSUPP) => files::read(group.as_fd(), "cgroup.threads"),
                text => text,
            };
            match text {
                Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
                text => text.map(|text| {
                    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()))
                }),
            }
        };
        collect(&self.dir)
            .and_then(|()| files::walk(self.dir.as_fd(), |_, _, group| collect(group)))
            .context(|| format!("list the processes of cgroup '/{}'", self.path))?;
        Ok(pids)
    }

    /// The processes with their names, for an error about them.
    pub(super) fn member_names(&self) -> String {
        let Ok(pids) = self.processes() else {
            return "its processes cannot be listed".to_owned();
        };
        let name = |pid: &Pid| match files::read(AT_FDCWD, &format!("/proc/{pid}/comm")) {
            Ok(name) => format!("{pid} ({})", name.trim_end()),
            Err(_) => pid.to_string(),
        };
        let names: Vec<_> = pids.iter().take(10).map(name).collect();
        let more = if pids.len() > 10 {
            format!(" and {} more", pids.len() - 10)
        } else {
            String::new()
        };
        format!("{} process(es): {}{more}", pids.len(), names.join(", "))
    }
}
