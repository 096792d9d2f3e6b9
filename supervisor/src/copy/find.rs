//! From a path that a user has named to descriptors. Every part is resolved by the kernel, from the root's descriptor and never above it; links
//! at the end are followed here, so that what is to be made beside a link's target has its parent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::rules::Target;
use crate::way::open_child;

/// As many as the kernel follows.
const LINKS: u32 = 40;
/// `..` in a path is resolved again if something on the machine was renamed meanwhile.
const ATTEMPTS: u32 = 64;

/// What a path leads to.
#[derive(Debug)]
pub(crate) struct Found {
    /// The directory that has it, or is to have it.
    pub(crate) parent: OwnedFd,
    /// Empty for the root, and for what is known by `..` only.
    pub(crate) name: Vec<u8>,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Nothing,
    Directory(OwnedFd),
    Other,
}

impl Found {
    pub(crate) fn target(&self) -> Target {
        match self.what {
            What::Nothing => Target::Nothing,
            What::Directory(_) => Target::Directory,
            What::Other => Target::Other,
        }
    }
}

/// What is mounted at a place and below it, to be mounted elsewhere: all of it, or what a path in it leads to, by links to what is in it at most.
pub(crate) fn tree(source: &Path, within: &str) -> rustix::io::Result<OwnedFd> {
    let mut found = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !within.is_empty() {
        found = open(found.as_fd(), within.as_bytes(), OFlags::PATH)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(&found, "", flags)
}

/// A path below a root, as openat2(2) has it.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"/" } else { path };
    let mut attempts = 0;
    loop {
        let opened =
            rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        attempts += 1;
        match opened {
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS => {}
            other => return other,
        }
    }
}

/// With `follow`, a link at the end leads on. What is missing in front of the end is an error.
pub(crate) fn find(root: BorrowedFd<'_>, path: &[u8], follow: bool) -> Result<Found> {
    let mut path = path.to_vec();
    for _ in 0..=LINKS {
        let shown = || format!("'{}'", String::from_utf8_lossy(&path));
        let (above, last) = split(&path);
        let parent = open(root, above, OFlags::PATH | OFlags::DIRECTORY).with_context(shown)?;
        if last.is_empty() || last == b".." {
            let inner = open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY);
            return Ok(Found {
                parent,
                name: Vec::new(),
                what: What::Directory(inner.with_context(shown)?),
            });
        }
        let stat = match rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                return Ok(Found {
                    name: last.to_vec(),
                    parent,
                    what: What::Nothing,
                });
            }
            Err(errno) => return Err(errno).with_context(shown),
        };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if follow => {
                let target = rustix::fs::readlinkat(&parent, last, Vec::new());
                let target = target.with_context(shown)?.into_bytes();
                path = if target.starts_with(b"/") {
                    target
                } else {
                    [above, b"/", &target].concat()
                };
                continue;
            }
            FileType::Directory => {
                What::Directory(open_child(parent.as_fd(), last).with_context(shown)?)
            }
            _ => What::Other,
        };
        return Ok(Found {
            name: last.to_vec(),
            parent,
            what,
        });
    }
    bail!("'{}': too many links", String::from_utf8_lossy(&path));
}

/// What is before the last part, and that part, which is empty for the root.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let mut end = path;
    loop {
        if let Some(shorter) = end.strip_suffix(b"/") {
            end = shorter;
        } else if end == b"." {
            end = b"";
        } else if let Some(shorter) = end.strip_suffix(b"/.") {
            end = shorter;
        } else {
            break;
        }
    }
    match end.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&end[..at], &end[at + 1..]),
        None => (b"", end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_what_is_left_without_slashes_and_dots() {
        for (path, above, last) in [
            ("/", "", ""),
            (".", "", ""),
            ("", "", ""),
            ("/a", "", "a"),
            ("a/b/", "a", "b"),
            ("/a//b/././/", "/a/", "b"),
            ("a/..", "a", ".."),
            ("a/...", "a", "..."),
        ] {
            assert_eq!(
                split(path.as_bytes()),
                (above.as_bytes(), last.as_bytes()),
                "{path}"
            );
        }
    }
}
