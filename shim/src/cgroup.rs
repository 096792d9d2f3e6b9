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

/// Where below the hierarchy a group is that a client names: by its path, or as systemd's slice, whose name is that path
/// (systemd.slice(5)).
pub(crate) fn directory(name: &str) -> PathBuf {
    let Some(slice) = name
        .strip_suffix(".slice")
        .filter(|slice| !slice.contains('/'))
    else {
        return name.trim_start_matches('/').into();
    };
    let ends = slice.match_indices('-').map(|(end, _)| end);
    let parts = ends.chain([slice.len()]);
    parts
        .map(|end| format!("{}.slice", &slice[..end]))
        .collect()
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

/// Whether its processes are frozen, or are about to be.
pub(crate) fn is_frozen(group: &Path) -> bool {
    fs::read(group.join("cgroup.freeze")).is_ok_and(|freeze| freeze.starts_with(b"1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_below_those_that_its_name_begins_with() {
        for (name, path) in [
            ("/kubepods/pod1", "kubepods/pod1"),
            ("kubepods.slice", "kubepods.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(directory(name), Path::new(path));
        }
    }
}
