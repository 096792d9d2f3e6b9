//! The removal of a tree that others have made, containers among them: however deep it is, it takes a few descriptors and little stack. What
//! cannot be removed stays, and nothing else does.
//!
//! Blocking calls, for a thread that may block. Nothing is followed out of the tree.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, renameat, unlinkat};
use rustix::io::Errno;

use crate::way::open_child;

/// How many directories are open, one in the other. What is below is moved up to the top first, and then no longer that deep.
const DEPTH: u32 = 32;
/// A process that unpacked for a daemon that was killed may be in its last system call, and another thread may be at the same tree.
const TRIES: u32 = 16;

struct Removal {
    top: OwnedFd,
    /// For names of directories that are moved to the top, and whether there was one in this pass.
    number: u64,
    moved: bool,
    /// What went wrong first in this pass.
    failed: Option<io::Error>,
}

/// It is not there afterwards, or there is an error that names what is still in it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_child(CWD, path.as_os_str().as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut removal = Removal {
        top: top.try_clone()?,
        number: 0,
        moved: false,
        failed: None,
    };
    let mut tries = TRIES;
    loop {
        (removal.moved, removal.failed) = (false, None);
        if let Err(errno) = removal.empty(top.as_fd(), DEPTH) {
            removal.fail(path, errno);
        }
        if removal.moved {
            continue;
        }
        if let Some(error) = removal.failed.take() {
            return Err(error);
        }
        tries -= 1;
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if tries > 0 => {}
            removed => return Ok(removed?),
        }
    }
}

impl Removal {
    fn fail(&mut self, what: &Path, errno: Errno) {
        let error = io::Error::from(errno);
        let error = io::Error::new(error.kind(), format!("'{}': {error}", what.display()));
        self.failed.get_or_insert(error);
    }

    /// An error is of the directory itself; those of what is in it are noted.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: u32) -> rustix::io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match self.entry(directory, name, entry.file_type(), depth) {
                // Another thread is at it too.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => self.fail(Path::new(&*name.to_string_lossy()), errno),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        kind: FileType,
        depth: u32,
    ) -> rustix::io::Result<()> {
        let inner = match kind {
            // Not every file system says what it is.
            FileType::Directory | FileType::Unknown => open_child(parent, name.to_bytes()),
            _ => Err(Errno::NOTDIR),
        };
        match inner {
            Ok(_) if depth == 0 => return self.move_up(parent, name),
            Ok(inner) => self.empty(inner.as_fd(), depth - 1)?,
            Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
            Err(errno) => return Err(errno),
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // It has what could not be removed, which is noted, or what another thread has moved there.
            Err(Errno::NOTEMPTY) if self.failed.is_some() => Ok(()),
            removed => removed,
        }
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<()> {
        loop {
            self.number += 1;
            match renameat(parent, name, &self.top, format!(".deep-{}", self.number)) {
                // Of an earlier removal, or the container's. An empty directory is replaced, which is as well.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => {
                    self.moved |= moved.is_ok();
                    return moved;
                }
            }
        }
    }
}
