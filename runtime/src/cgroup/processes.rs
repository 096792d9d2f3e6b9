//! The processes of a group: listing, adding, killing.

use super::{Cgroup, files, systemd};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::path::Path;

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

    /// The group below this one, or this one, that a process is in now. A container moves its processes where it likes, and systemd does
    /// so first of all. One that is somewhere else is not followed: there the container's limits do not hold.
    pub(crate) fn of(&self, pid: i32) -> Result<Cgroup> {
        let file = format!("/proc/{pid}/cgroup");
        let memberships = files::read(AT_FDCWD, &file).context(|| format!("read {file}"))?;
        let path = memberships
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let below = path.strip_prefix(&self.path);
        match below.filter(|below| below.is_empty() || below.starts_with('/')) {
            Some(below) => self.below(Path::new(below)),
            None => Err(Error::new(
                Kind::State,
                format!(
                    "cgroup '/{}' takes no process, and process {pid} is in none below it but in '/{path}'",
                    self.path
                ),
            )),
        }
    }

    /// Moves a process into the group. For kernels and situations without CLONE_INTO_CGROUP: moving costs an RCU grace period, and
    /// memory that the process has touched stays charged to its former group.
    pub(crate) fn add(&self, pid: Pid) -> Result<()> {
        match files::write(&self.dir, "cgroup.procs", &pid.to_string()) {
            Err(Errno::EOPNOTSUPP) => {
                self.make_enterable(&[])?;
                self.write("cgroup.procs", &pid.to_string())
            }
            // The boundary between what is the user's and what is his session's.
            Err(Errno::EACCES | Errno::EPERM) if self.unit.is_some() => self.attach(pid),
            // In words that those of runc's users look for.
            result => result.context(|| {
                let directory = self.host_path();
                format!(
                    "error adding pid {pid} to cgroups: write {}/cgroup.procs",
                    directory.display()
                )
            }),
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
        // A group without this file is gone: systemd removes its units' groups as soon as they are empty.
        if let Err(Errno::ENOENT | Errno::ENODEV) = files::read(&self.dir, "cgroup.procs") {
            return Ok(());
        }
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
        let story = || format!("list the processes of cgroup '/{}'", self.path);
        let mut pids = Vec::new();
        match collect(&self.dir, "cgroup.procs", &mut pids) {
            // A group of threads does not know of processes, and neither do those below it.
            Err(Errno::EOPNOTSUPP) => return self.members_of_threads().context(story),
            listed => listed.context(story)?,
        }
        let walked = files::walk(self.dir.as_fd(), |_, _, group| {
            match collect(group, "cgroup.procs", &mut pids) {
                // A group of threads: the group above that is not one lists their processes.
                Err(Errno::EOPNOTSUPP) => Ok(()),
                listed => listed,
            }
        });
        walked.context(story)?;
        Ok(pids)
    }

    fn members_of_threads(&self) -> crate::sys::Result<Vec<i32>> {
        let mut threads = Vec::new();
        collect(&self.dir, "cgroup.threads", &mut threads)?;
        files::walk(self.dir.as_fd(), |_, _, group| {
            collect(group, "cgroup.threads", &mut threads)
        })?;
        // Threads that are foreign, or have ended, are kept as they are: callers tell the ones, and do not mind the others.
        let process = |thread: &i32| process_of(*thread).unwrap_or(*thread);
        let mut processes: Vec<_> = threads.iter().map(process).collect();
        processes.sort_unstable();
        processes.dedup();
        Ok(processes)
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

/// Adds what a group lists in a file. Groups that vanish have nothing.
fn collect(group: impl AsFd, file: &str, pids: &mut Vec<i32>) -> crate::sys::Result<()> {
    match files::read(group, file) {
        Err(Errno::ENOENT | Errno::ENODEV) => {}
        text => pids.extend(text?.lines().filter_map(|line| line.parse::<i32>().ok())),
    }
    Ok(())
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Option<i32> {
    let status = files::read(AT_FDCWD, &format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}
