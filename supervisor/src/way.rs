//! The way from the top of a tree down to one of its directories, however deep that is: a few of the nearest are open, and those farther up are found
//! again as what is above.
//!
//! Who goes through a tree with it takes neither a descriptor nor a part of the stack for each level. Where a container, or anybody else, moves
//! directories meanwhile, what is above may be another one than the one that led there: that is an error, and nothing of it is seen.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, fstat};
use rustix::io::{Errno, Result};

/// So many of those that led here are open. Trees that people make are less deep.
const OPEN: usize = 64;

#[derive(Debug)]
pub(crate) struct Way {
    here: OwnedFd,
    /// The nearest at the end.
    above: VecDeque<OwnedFd>,
    /// Those above these, by device and inode. They stay the ones they are: what is open below has them in the kernel's memory.
    far: Vec<(u64, u64)>,
}

impl Way {
    pub(crate) fn new(top: OwnedFd) -> Self {
        Self {
            here: top,
            above: VecDeque::new(),
            far: Vec::new(),
        }
    }

    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// To a directory that this one has.
    pub(crate) fn down(&mut self, inner: OwnedFd) -> Result<()> {
        self.above
            .push_back(std::mem::replace(&mut self.here, inner));
        if self.above.len() > OPEN
            && let Some(farthest) = self.above.pop_front()
        {
            self.far.push(identity(farthest.as_fd())?);
        }
        Ok(())
    }

    /// To the one that led here. There is nothing above the top.
    pub(crate) fn up(&mut self) -> Result<()> {
        if let Some(above) = self.above.pop_back() {
            self.here = above;
        } else if let Some(expected) = self.far.pop() {
            let above = open_child(self.here(), b"..")?;
            if identity(above.as_fd())? != expected {
                return Err(Errno::STALE);
            }
            self.here = above;
        }
        Ok(())
    }
}

fn identity(directory: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A directory by its name, which is no link.
pub(crate) fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// In an order that does not depend on the file system.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<BTreeSet<CString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let entry = match entry {
            // The directory has been removed.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.insert(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fuzz::Scratch;
    use rustix::fs::{CWD, mkdirat, renameat};

    /// Directories in each other, as many as there are; the innermost comes back.
    pub(crate) fn nest(top: &std::path::Path, depth: usize) -> OwnedFd {
        let top = top.to_str().unwrap().as_bytes();
        let mut directory = open_child(CWD, top).unwrap();
        for _ in 0..depth {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open_child(directory.as_fd(), b"d").unwrap();
        }
        directory
    }

    #[test]
    fn a_way_leads_back_through_the_directories_that_it_has_come_by_or_not_at_all() {
        let scratch = Scratch::new("way");
        let depth = 3 * OPEN;
        nest(scratch.path(), depth);
        let down = |count| {
            let top = scratch.path().to_str().unwrap().as_bytes();
            let mut way = Way::new(open_child(CWD, top).unwrap());
            let mut passed = vec![identity(way.here()).unwrap()];
            for _ in 0..count {
                way.down(open_child(way.here(), b"d").unwrap()).unwrap();
                passed.push(identity(way.here()).unwrap());
            }
            (way, passed)
        };
        let (mut way, mut passed) = down(depth);
        assert!(way.above.len() == OPEN);
        while let Some(expected) = passed.pop() {
            assert_eq!(identity(way.here()), Ok(expected));
            way.up().unwrap();
        }
        let (mut way, _) = down(depth);
        let (middle, _) = down(OPEN);
        renameat(middle.here(), "d", CWD, scratch.path().join("moved")).unwrap();
        let stale = (0..depth).find_map(|_| way.up().err());
        assert_eq!(stale, Some(Errno::STALE));
    }
}
