//! The files of one group: opened from the group's directory, written by one write(2).
//!
//! The short names neither follow links nor create. Errors are errnos: the caller knows the group and the intent.

use crate::sys::{Errno, Result};
use nix::NixPath;
use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) fn open(dir: impl AsFd, file: &str, access: OFlag) -> Result<OwnedFd> {
    openat(
        dir,
        file,
        access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY,
        Mode::empty(),
    )
}

pub(super) fn open_dir<P: ?Sized + NixPath>(dir: impl AsFd, path: &P) -> Result<OwnedFd> {
    openat(
        dir,
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )
}

pub(super) fn read(dir: impl AsFd, file: &str) -> Result<String> {
    let fd = open(dir, file, OFlag::O_RDONLY)?;
    let mut text = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match nix::unistd::read(&fd, &mut buf) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(n) => text.extend_from_slice(&buf[..n]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The kernel takes a value whole or refuses it, so there are no short writes.
pub(super) fn write(dir: impl AsFd, file: &str, value: &str) -> Result<()> {
    let fd = open(dir, file, OFlag::O_WRONLY)?;
    loop {
        match nix::unistd::write(&fd, value.as_bytes()) {
            Err(Errno::EINTR) => {}
            written => return written.map(drop),
        }
    }
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Calls `leave(parent, name, group)` for every group below `top`, children before parents.
///
/// A container may nest groups as deeply as it likes, so this neither recurses nor keeps a descriptor for each level. Groups that
/// vanish meanwhile are left out.
pub(super) fn walk(
    top: BorrowedFd<'_>,
    mut leave: impl FnMut(&OwnedFd, &CStr, &OwnedFd) -> Result<()>,
) -> Result<()> {
    struct Level {
        name: CString,
        unvisited: Vec<CString>,
    }
    let mut here = open_dir(top, c".")?;
    let mut levels = vec![Level {
        name: CString::default(),
        unvisited: subgroups(&here)?,
    }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.unvisited.pop() {
            match open_dir(&here, name.as_c_str()) {
                Err(Errno::ENOENT | Errno::ENODEV) => {}
                opened => {
                    here = opened?;
                    levels.push(Level {
                        name,
                        unvisited: subgroups(&here)?,
                    });
                }
            }
        } else if let Some(left) = levels.pop().filter(|_| !levels.is_empty()) {
            // cgroupfs has neither links nor renames, so `..` leads to where the walk came from.
            let parent = open_dir(&here, c"..")?;
            leave(&parent, &left.name, &here)?;
            here = parent;
        }
    }
    Ok(())
}

fn subgroups(group: &OwnedFd) -> Result<Vec<CString>> {
    let mut dir = match Dir::openat(
        group,
        c".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_key() {
        let text = "low 0\noom_kill_group 7\noom_kill 3\n";
        assert_eq!(number(text, "oom_kill"), Some(3));
        assert_eq!(number(text, "oom"), None);
        assert_eq!(number("", "oom"), None);
    }
}
