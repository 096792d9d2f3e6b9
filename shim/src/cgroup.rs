//! Where a container's group of the v2 hierarchy is, and who is in it. Reads only; the runtime makes and removes groups.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// The directory of a process' group.
pub(crate) fn of(pid: i32) -> Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or_else(|| Error::other(format!("pid {pid} has no group of cgroup v2")))?;
    Ok(hierarchy()?.join(group.trim_start_matches('/')))
}

/// Where the v2 hierarchy is mounted: not at /sys/fs/cgroup on hybrid hosts. Of mounts that hide each other the last is seen.
pub(crate) fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts
        .lines()
        .rev()
        .filter(|line| line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .find(|point| point.join("cgroup.controllers").exists())
        .ok_or_else(|| Error::other("cgroup v2 is not mounted"))
}

/// All processes of the group and of those below it.
pub(crate) fn pids(group: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    let mut groups = vec![group.to_owned()];
    while let Some(group) = groups.pop() {
        match fs::read_to_string(group.join("cgroup.procs")) {
            Ok(lines) => pids.extend(lines.lines().filter_map(|line| line.parse::<i32>().ok())),
            // A group of threads: its processes are listed above it.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
        for entry in fs::read_dir(&group)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                groups.push(entry.path());
            }
        }
    }
    pids.sort_unstable();
    Ok(pids)
}
