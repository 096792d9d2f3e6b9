//! Cache and memory bandwidth by class of service: the groups of a container in the resctrl file system (Intel RDT and its like).
//!
//! Runs in the runtime command. What is to be made was decided by the plan; what was made is kept in state.json, so that only this is
//! removed. Nobody mounts the file system here: where it is, /proc/self/mountinfo says, or the variable `CAISSON_RESCTRL`, by which the
//! tests put a directory in its place, since few machines have the hardware.

mod stats;

use crate::plan::resctrl::{ResctrlPlan, mismatch};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use serde::{Deserialize, Serialize};
pub(crate) use stats::Stats;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The groups of one container.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    /// The class of service.
    class: PathBuf,
    /// It is ours to remove.
    created: bool,
    /// Others may have joined it meanwhile.
    named: bool,
    /// The container's own monitoring group.
    monitor: Option<PathBuf>,
}

impl Group {
    /// Finds out where the groups are to be, and whether the machine has what the config asks for. Makes nothing.
    pub(crate) fn locate(plan: &ResctrlPlan) -> Result<Group> {
        let root = root()?;
        let missing = |field: &str, what: &str| {
            let text =
                format!("{field} is specified in config, but Intel RDT/{what} is not enabled");
            Err(Error::new(Kind::Unsupported, text))
        };
        // L3, or L3CODE and L3DATA.
        if plan.cache && !has_cache(&root) {
            return missing("intelRdt.l3CacheSchema", "CAT");
        }
        if plan.bandwidth && !has_bandwidth(&root) {
            return missing("intelRdt.memBwSchema", "MBA");
        }
        if plan.monitor.is_some() && !has(&root, "L3_MON", "") {
            return missing("intelRdt.enableMonitoring", "CMT and MBM");
        }
        let class = root.join(&plan.class);
        let exists = class.is_dir();
        if plan.must_exist && !exists {
            return Err(Error::os(
                format!(
                    "clos dir {} not accessible (must be pre-created when l3CacheSchema, memBwSchema and schemata are empty)",
                    class.display()
                ),
                Errno::ENOENT,
            ));
        }
        Ok(Group {
            monitor: plan
                .monitor
                .as_ref()
                .map(|name| class.join("mon_groups").join(name)),
            created: !exists,
            named: plan.named,
            class,
        })
    }

    /// The group that state.json names.
    pub(crate) fn saved(state: &serde_json::Value) -> Result<Option<Group>> {
        serde_json::from_value(state.clone())
            .map_err(|e| Error::new(Kind::System, format!("parse resctrl in state.json: {e}")))
    }

    /// Makes the groups and writes the schemata of a class that is new. One that was there must have them.
    pub(crate) fn make(&self, plan: &ResctrlPlan) -> Result<()> {
        if self.created {
            make_directory(&self.class)?;
            self.set(&plan.schemata)?;
        } else if !plan.schemata.is_empty() {
            let path = self.class.join("schemata");
            let there = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
            if let Some(line) = mismatch(&plan.schemata, &there) {
                return Err(Error::invalid(format!(
                    "intelRdt: class {} exists and does not have {line:?}",
                    self.class.display()
                )));
            }
        }
        match &self.monitor {
            Some(monitor) => make_directory(monitor),
            None => Ok(()),
        }
    }

    /// Writes lines of the schemata.
    pub(crate) fn set(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.write(&self.class, "schemata", &(lines.join("\n") + "\n"))
    }

    /// Puts a process into the groups; what it starts later is in them from its beginning on.
    pub(crate) fn add(&self, pid: i32) -> Result<()> {
        let directories = std::iter::once(&self.class).chain(&self.monitor);
        directories
            .into_iter()
            .try_for_each(|directory| self.write(directory, "tasks", &pid.to_string()))
    }

    /// Whether the class is still there.
    pub(crate) fn exists(&self) -> bool {
        self.class.is_dir()
    }

    /// Removes what was made for the container.
    pub(crate) fn remove(&self) -> Result<()> {
        if let Some(monitor) = &self.monitor {
            remove_directory(monitor)?;
        }
        if !self.created || self.named && self.is_in_use() {
            return Ok(());
        }
        remove_directory(&self.class)
    }

    /// Where the file system is that the class is in.
    fn root(&self) -> Option<&Path> {
        self.class.ancestors().find(|dir| dir.join("info").is_dir())
    }

    fn is_in_use(&self) -> bool {
        fs::read_to_string(self.class.join("tasks")).is_ok_and(|tasks| !tasks.trim().is_empty())
    }

    /// Writes a file of a group in one write(2). The kernel says in a file what it did not like.
    fn write(&self, directory: &Path, name: &str, text: &str) -> Result<()> {
        let path = directory.join(name);
        // A group has its files from the beginning; the directory that stands for one in tests does not.
        let file = fs::OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.context(|| {
            let status = self.root().map(|root| root.join("info/last_cmd_status"));
            let status = status.and_then(|path| fs::read_to_string(path).ok());
            let reason = status.unwrap_or_default();
            match reason.trim() {
                "" | "ok" => format!("write {:?} to {}", text.trim(), path.display()),
                reason => format!("write {:?} to {} ({reason})", text.trim(), path.display()),
            }
        })
    }
}

/// Whether this machine has what an `update` asks for, which it says in words of its own: those of runc.
pub(crate) fn check_update(plan: &ResctrlPlan) -> Result<()> {
    let root = root();
    let lacks = |has: fn(&Path) -> bool| !root.as_deref().is_ok_and(has);
    if plan.cache && lacks(has_cache) {
        let text = "Intel RDT/CAT: l3 cache schema is not enabled";
        return Err(Error::new(Kind::Unsupported, text));
    }
    if plan.bandwidth && lacks(has_bandwidth) {
        let text = "Intel RDT/MBA: memory bandwidth schema is not enabled";
        return Err(Error::new(Kind::Unsupported, text));
    }
    Ok(())
}

/// Code and data of the cache may be allocated apart, as L3CODE and L3DATA.
fn has_cache(root: &Path) -> bool {
    has(root, "L3", "L3_MON")
}

fn has_bandwidth(root: &Path) -> bool {
    has(root, "MB", "")
}

/// Whether the kernel lists a resource with this prefix, other than this one.
fn has(root: &Path, prefix: &str, without: &str) -> bool {
    let entries = fs::read_dir(root.join("info"));
    let mut names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    names.any(|name| {
        let name = name.to_string_lossy();
        name.starts_with(prefix) && name != without
    })
}

/// Where the resctrl file system is.
fn root() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAISSON_RESCTRL") {
        return Ok(path.into());
    }
    let text =
        fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    let mount = text.lines().find(|line| {
        line.split(" - ")
            .nth(1)
            .is_some_and(|rest| rest.starts_with("resctrl "))
    });
    let place = mount.and_then(|line| line.split(' ').nth(4));
    place.map(PathBuf::from).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            "linux.intelRdt: Intel RDT resctrl mount point not found (the kernel may lack it, or nobody has mounted it)",
        )
    })
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.context(|| format!("create resctrl group {}", path.display())),
    }
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("remove resctrl group {}", path.display())),
    }
}
