//! The container's cgroup, in the v2 hierarchy.
//!
//! Runs in the runtime's own processes, never in init. `create` carries out a `plan::cgroup::CgroupPlan`: it makes the group and has
//! all limits and the device filter in force before the first process is in it, and hands out a directory descriptor for
//! CLONE_INTO_CGROUP, so that no process is ever moved. Later commands reach the group again through [`Saved`].
//!
//! Who makes the group is the plan's choice: we, as a directory of the cgroup file system, or systemd, as the group of a unit. Only making,
//! changing and removing it differ, and only `systemd` talks to systemd.
//!
//! Two kinds of hosts have a v2 hierarchy: those where it is all there is, at /sys/fs/cgroup, and hybrid ones, where it is at
//! /sys/fs/cgroup/unified and most controllers belong to v1 hierarchies. On the latter, groups, freezing, killing and device filters
//! work all the same, and a limit whose controller is missing is refused.
//!
//! Everything below the root of the hierarchy is reached from a directory descriptor. Waiting is waiting for the kernel's events.
//! Mount tables are not read: the type of the file system is asked for. v1 hierarchies are not used for anything.

mod controllers;
mod create;
mod devices;
mod events;
mod files;
mod foresee;
mod freezer;
mod limits;
mod processes;
mod remove;
mod stats;
mod systemd;
mod update;
mod watch;

pub(crate) use create::{create, locate, made_after};
pub(crate) use foresee::foresee;
pub(crate) use remove::destroy;
pub(crate) use stats::Stats;

use crate::plan::cgroup::Driver;
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use systemd::{Holder, SavedUnit};

/// A mounted v2 hierarchy.
#[derive(Debug)]
struct Hierarchy {
    mountpoint: PathBuf,
    root: OwnedFd,
}

/// One group of the hierarchy, which exists, or did when it was opened.
#[derive(Debug)]
pub(crate) struct Cgroup {
    hierarchy: Hierarchy,
    /// From the root of the hierarchy, without a `/` at either end.
    path: String,
    dir: OwnedFd,
    /// The groups that `create` made, ancestors first.
    made: Vec<String>,
    /// The unit that it belongs to, if systemd made it.
    unit: Option<SavedUnit>,
    held: Option<Held>,
}

/// A group that systemd keeps only because of a process that is not the container's.
#[derive(Debug)]
struct Held {
    holder: Holder,
    /// What the limit is to be when the holder does not count any more.
    pids_max: Option<u64>,
    /// The unit's group, if the container's is one below it.
    unit: Option<OwnedFd>,
}

/// What state.json keeps of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    driver: Driver,
    mountpoint: PathBuf,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<SavedUnit>,
}

impl Hierarchy {
    /// The hierarchy of this host, if it has one.
    fn find() -> Result<Option<Hierarchy>> {
        for mountpoint in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            if let Some(hierarchy) = Hierarchy::at(Path::new(mountpoint))? {
                return Ok(Some(hierarchy));
            }
        }
        Ok(None)
    }

    fn at(mountpoint: &Path) -> Result<Option<Hierarchy>> {
        let root = match files::open_dir(nix::fcntl::AT_FDCWD, mountpoint) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            opened => opened.context(|| format!("open {}", mountpoint.display()))?,
        };
        let stat = fstatfs(&root).context(|| format!("statfs {}", mountpoint.display()))?;
        let is_cgroup2 = stat.filesystem_type() == CGROUP2_SUPER_MAGIC;
        Ok(is_cgroup2.then(|| Hierarchy {
            mountpoint: mountpoint.to_owned(),
            root,
        }))
    }
}

impl Cgroup {
    /// Opens the group of an existing container. None if the group is gone.
    pub(crate) fn open(saved: &Saved) -> Result<Option<Cgroup>> {
        let Some(hierarchy) = Hierarchy::at(&saved.mountpoint)? else {
            let story = format!(
                "no cgroup v2 hierarchy is mounted at {}",
                saved.mountpoint.display()
            );
            return Err(Error::new(Kind::Unsupported, story));
        };
        match files::open_dir(&hierarchy.root, saved.path.as_str()) {
            Err(Errno::ENOENT) => Ok(None),
            opened => {
                let dir = opened.context(|| format!("open cgroup '/{}'", saved.path))?;
                Ok(Some(Cgroup {
                    hierarchy,
                    path: saved.path.clone(),
                    dir,
                    made: Vec::new(),
                    unit: saved.unit.clone(),
                    held: None,
                }))
            }
        }
    }

    /// Whether systemd made it.
    pub(crate) fn is_of_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// What `open` needs.
    pub(crate) fn save(&self) -> Saved {
        Saved {
            driver: match self.unit {
                Some(_) => Driver::Systemd,
                None => Driver::Cgroupfs,
            },
            mountpoint: self.hierarchy.mountpoint.clone(),
            path: self.path.clone(),
            unit: self.unit.clone(),
        }
    }

    /// The group's directory: for CLONE_INTO_CGROUP, which makes the new process a member from its start.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Where the hierarchy is mounted on this host.
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.hierarchy.mountpoint
    }

    /// The group at a path below this one, which must exist: for `exec --cgroup`.
    pub(crate) fn below(&self, path: &Path) -> Result<Cgroup> {
        let path = crate::plan::cgroup::clean(path);
        let whole = if path.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{path}", self.path)
        };
        let saved = Saved {
            path: whole,
            ..self.save()
        };
        match Cgroup::open(&saved)? {
            Some(cgroup) => Ok(cgroup),
            None => Err(Error::new(
                Kind::NotFound,
                format!(
                    "error adding pid to cgroup: {}/cgroup.procs: no such file or directory",
                    self.hierarchy.mountpoint.join(&saved.path).display()
                ),
            )),
        }
    }

    /// The group's directory as a path of this host.
    pub(crate) fn host_path(&self) -> PathBuf {
        self.hierarchy.mountpoint.join(&self.path)
    }

    fn read(&self, file: &str) -> Result<String> {
        files::read(&self.dir, file).context(|| format!("read {file} of cgroup '/{}'", self.path))
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        files::write(&self.dir, file, value).map_err(|errno| self.write_error(file, value, errno))
    }

    fn write_error(&self, file: &str, value: &str, errno: Errno) -> Error {
        let story = format!(
            "write '{}' to {file} of cgroup '/{}'",
            value.trim_end(),
            self.path
        );
        match errno {
            // The text of this errno speaks of mathematics.
            Errno::ERANGE => Error::os(format!("{story}: the value is out of range"), errno),
            _ => Error::os(story, errno),
        }
    }
}
