//! Makes controllers available in a group, by enabling them in the groups above it.
//!
//! A group has the files of a controller if its parent's cgroup.subtree_control lists it, and the parent can list only what it has
//! itself, up to the root. Mostly everything is enabled already, so the group itself is asked first. A new group gets all that can be
//! had, as with runc: engines read statistics where there is no limit, and who makes groups inside of the container wants to limit them.

use super::{Cgroup, Hierarchy, files};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use std::os::fd::OwnedFd;

/// Which controllers the children of a group have.
const SUBTREE: &str = "cgroup.subtree_control";

/// The controllers that work in groups of threads. The others need groups of whole processes.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

impl Cgroup {
    /// Makes every controller of the hierarchy available, if that can be. A limit that then lacks one says why.
    pub(super) fn enable_all(&self) -> Result<()> {
        let known = files::read(&self.hierarchy.root, "cgroup.controllers")
            .context(|| "read cgroup.controllers of cgroup '/'")?;
        let known: Vec<_> = known.split_whitespace().collect();
        if missing(&known, &self.read("cgroup.controllers")?).is_empty() {
            return Ok(());
        }
        let mut given = enable_own(&self.hierarchy.root, "")?;
        for (end, _) in self.path.match_indices('/') {
            if !given {
                break;
            }
            let path = &self.path[..end];
            given = enable_own(&self.open_level(path)?, path)?;
        }
        Ok(())
    }

    /// Gives this group whatever controllers one above it has, through those between.
    pub(super) fn enable_from(&self, above: &str) -> Result<()> {
        let ends = self.path.match_indices('/').map(|(end, _)| end);
        for path in ends
            .filter(|end| *end >= above.len())
            .map(|end| &self.path[..end])
        {
            enable_own(&self.open_level(path)?, path)?;
        }
        Ok(())
    }

    /// Makes the controllers available, or says why one is not.
    pub(super) fn enable(&self, controllers: &[&str]) -> Result<()> {
        let missing = missing(controllers, &self.read("cgroup.controllers")?);
        if missing.is_empty() {
            return Ok(());
        }
        match self.enable_above(&missing) {
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => {
                self.make_enterable(controllers)?;
                self.enable_above(&missing)
            }
            result => result,
        }
    }

    /// Does what can be done if the kernel refuses (EOPNOTSUPP) to put a process into the group, or to enable a controller above it.
    ///
    /// That is so below a group of threads, where a new group is "domain invalid" until it becomes one of threads as well. Then it can
    /// have only the controllers that work on threads, so it is an error if `controllers` has others.
    pub(crate) fn make_enterable(&self, controllers: &[&str]) -> Result<()> {
        let domain: Vec<_> = controllers
            .iter()
            .copied()
            .filter(|c| !THREADED.contains(c))
            .collect();
        let ends = self
            .path
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([self.path.len()]);
        for path in ends.map(|end| &self.path[..end]) {
            let group = self.open_level(path)?;
            let kind = files::read(&group, "cgroup.type")
                .context(|| format!("read cgroup.type of cgroup '/{path}'"))?;
            let kind = kind.trim_end();
            if matches!(kind, "domain invalid" | "threaded") && !domain.is_empty() {
                let story = format!(
                    "cgroup '/{path}' is in {kind} mode, where there is no {} controller",
                    domain.join(" and no ")
                );
                return Err(Error::new(Kind::Unsupported, story));
            }
            if kind == "domain invalid" {
                files::write(&group, "cgroup.type", "threaded")
                    .context(|| format!("write 'threaded' to cgroup.type of cgroup '/{path}', which is in {kind} mode"))?;
            }
        }
        Ok(())
    }

    fn enable_above(&self, controllers: &[&str]) -> Result<()> {
        let root = &self.hierarchy.root;
        let available = files::read(root, "cgroup.controllers")
            .context(|| "read cgroup.controllers of cgroup '/'")?;
        if let Some(controller) = missing(controllers, &available).first() {
            return Err(unavailable(&self.hierarchy, controller));
        }
        enable_in(root, "", controllers)?;
        for (end, _) in self.path.match_indices('/') {
            let path = &self.path[..end];
            enable_in(&self.open_level(path)?, path, controllers)?;
        }
        Ok(())
    }

    fn open_level(&self, path: &str) -> Result<OwnedFd> {
        files::open_dir(&self.hierarchy.root, path).context(|| format!("open cgroup '/{path}'"))
    }
}

/// Only now is it worth finding out who has the controller.
pub(super) fn unavailable(hierarchy: &Hierarchy, controller: &str) -> Error {
    let table = files::read(nix::fcntl::AT_FDCWD, "/proc/cgroups").unwrap_or_default();
    let mountpoint = hierarchy.mountpoint.display();
    let why = why_unavailable(controller, &table);
    let story = format!(
        "controller '{controller}' is not available in the cgroup v2 hierarchy at {mountpoint}: {why}"
    );
    Error::new(Kind::Unsupported, story)
}

pub(super) fn missing<'a>(controllers: &[&'a str], list: &str) -> Vec<&'a str> {
    controllers
        .iter()
        .copied()
        .filter(|c| !list.split_whitespace().any(|listed| listed == *c))
        .collect()
}

/// Enables controllers for the children of one group.
fn enable_in(group: &OwnedFd, path: &str, controllers: &[&str]) -> Result<()> {
    let enabled =
        files::read(group, SUBTREE).context(|| format!("read {SUBTREE} of cgroup '/{path}'"))?;
    let missing = missing(controllers, &enabled);
    if missing.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
    if files::write(group, SUBTREE, &all.join(" ")).is_ok() {
        return Ok(());
    }
    // The kernel takes all or none of them, and does not say which one it minds.
    for controller in missing {
        files::write(group, SUBTREE, &format!("+{controller}"))
            .map_err(|errno| explain(group, path, controller, errno))?;
    }
    Ok(())
}

/// Enables all controllers that a group has for its children. False if it cannot give any: it is somebody else's, or has processes.
fn enable_own(group: &OwnedFd, path: &str) -> Result<bool> {
    let read =
        |file| files::read(group, file).context(|| format!("read {file} of cgroup '/{path}'"));
    let (own, enabled) = (read("cgroup.controllers")?, read(SUBTREE)?);
    let own: Vec<_> = own.split_whitespace().collect();
    let missing = missing(&own, &enabled);
    if missing.is_empty() {
        return Ok(!own.is_empty());
    }
    // With processes of its own, it would become a group of threads, and so would all below it.
    if missing.iter().all(|c| THREADED.contains(c)) && !read("cgroup.procs")?.is_empty() {
        return Ok(false);
    }
    let words = missing.iter().map(|c| format!("+{c}"));
    match files::write(group, SUBTREE, &words.clone().collect::<Vec<_>>().join(" ")) {
        // One of them cannot be had at the moment, such as cpu with real-time processes below, and the kernel takes all or none.
        Err(Errno::EINVAL) => {
            for word in words {
                files::write(group, SUBTREE, &word).ok(); // a limit that needs it says so
            }
            Ok(true)
        }
        written => Ok(written.is_ok()),
    }
}

pub(super) fn explain(group: &OwnedFd, path: &str, controller: &str, errno: Errno) -> Error {
    let story = format!("enable controller '{controller}' for the children of cgroup '/{path}'");
    match errno {
        Errno::EBUSY => {
            let count = files::read(group, "cgroup.procs").map_or(0, |pids| pids.lines().count());
            Error::os(
                format!(
                    "{story}, which has {count} process(es) of its own and so cannot have children with controllers"
                ),
                errno,
            )
        }
        Errno::ENOENT => Error::os(format!("{story}, which does not have it itself"), errno),
        _ => Error::os(story, errno),
    }
}

/// Reads /proc/cgroups: name, hierarchy (0 is v2), number of groups, enabled.
fn why_unavailable(controller: &str, table: &str) -> &'static str {
    let name = if controller == "io" {
        "blkio"
    } else {
        controller
    };
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.first() == Some(&name));
    match row.as_deref() {
        Some([_, _, _, "0"]) => "it is disabled on the kernel's command line",
        Some([_, "0", _, _]) => "it is not delegated to this part of the hierarchy",
        Some([_, _, _, _]) => "it is mounted as a v1 hierarchy",
        _ => "this kernel does not have it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_a_missing_controller_is_named() {
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nblkio\t7\t1\t1\nmemory\t0\t1\t0\nhugetlb\t0\t2\t1\n";
        assert!(why_unavailable("cpuset", table).contains("v1 hierarchy"));
        assert!(why_unavailable("io", table).contains("v1 hierarchy"));
        assert!(why_unavailable("memory", table).contains("command line"));
        assert!(why_unavailable("hugetlb", table).contains("not delegated"));
        assert!(why_unavailable("rdma", table).contains("does not have"));
        assert!(why_unavailable("rdma", "").contains("does not have"));
    }

    #[test]
    fn controllers_are_compared_as_whole_words() {
        assert_eq!(missing(&["cpu", "io"], "cpuset memory io\n"), ["cpu"]);
        assert_eq!(missing(&["cpu"], ""), ["cpu"]);
    }
}
