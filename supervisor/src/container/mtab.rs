//! /etc/mtab of a container whose image has none: a link to what the kernel says is mounted, as other engines make it. Callers of getmntent(3)
//! look there, Java's file stores among them, and fail without it.
//!
//! Blocking calls, for a thread that may block, on the directory of changes of a container that does not run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;

use super::ids::on_disk;
use super::layers::{Layers, resemble, times};
use crate::fault::{Result, Tried as _};
use crate::protos::containers::Ids;
use crate::way::open_child;

pub(super) const PATH: &str = "/etc/mtab";
const DIRECTORY: &str = "etc";
const NAME: &str = "mtab";
const TARGET: &str = "/proc/mounts";

/// Before each start.
pub(super) fn make(upper: &Path, layers: &Layers, ids: Option<&Ids>) -> Result<()> {
    let directory = layers.directory(DIRECTORY);
    // What a link leads to is not looked at.
    let is_other = directory.is_none() && layers.has(Path::new(DIRECTORY));
    if is_other || layers.has(Path::new(&PATH[1..])) {
        return Ok(());
    }
    let ids = ids.cloned().unwrap_or_default();
    let put = put(upper, directory.as_ref(), &ids);
    put.tried(|| format!("make {PATH} in {}", upper.display()))
}

/// Whether it is as it was made here, and no change of the container's.
pub(super) fn is_ours(upper: &Path) -> bool {
    let link = open(upper)
        .and_then(|upper| open_child(upper.as_fd(), DIRECTORY.as_bytes()))
        .and_then(|directory| rustix::fs::readlinkat(directory, NAME, vec![]));
    link.is_ok_and(|link| link.as_bytes() == TARGET.as_bytes())
}

fn put(upper: &Path, model: Option<&OwnedFd>, ids: &Ids) -> io::Result<()> {
    let into = open(upper)?;
    match open_child(into.as_fd(), DIRECTORY.as_bytes()) {
        Ok(there) => {
            let before = rustix::fs::fstat(&there)?;
            link(&there, ids)?;
            Ok(rustix::fs::futimens(&there, &times(&before))?)
        }
        Err(Errno::NOENT) => {
            let beside = open(upper.parent().ok_or(Errno::NOENT)?)?;
            let made = rustix::fs::mkdirat(&beside, DIRECTORY, Mode::RWXU);
            made.or_else(unless_there)?;
            let new = open_child(beside.as_fd(), DIRECTORY.as_bytes())?;
            link(&new, ids)?;
            like(&new, model, ids)?;
            // It hides the image's from now on, and is complete.
            Ok(rustix::fs::renameat(&beside, DIRECTORY, &into, DIRECTORY)?)
        }
        // The container has removed it.
        Err(Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn link(directory: &OwnedFd, ids: &Ids) -> io::Result<()> {
    rustix::fs::symlinkat(TARGET, directory, NAME).or_else(unless_there)?;
    let (uid, gid) = (Uid::from_raw(ids.first_uid), Gid::from_raw(ids.first_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(
        directory,
        NAME,
        Some(uid),
        Some(gid),
        flags,
    )?)
}

/// As the image has it, with the ids that the container's are on the disk.
fn like(new: &OwnedFd, model: Option<&OwnedFd>, ids: &Ids) -> io::Result<()> {
    if let Some(model) = model {
        resemble(model, new)?;
    }
    let stat = rustix::fs::fstat(new)?;
    let (uid, gid) = on_disk(&stat, ids);
    rustix::fs::fchown(new, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    let mode = if model.is_some() {
        stat.st_mode & 0o7777
    } else {
        0o755
    };
    Ok(rustix::fs::fchmod(new, Mode::from_raw_mode(mode))?)
}

/// What a start that was cut off has left.
fn unless_there(errno: Errno) -> rustix::io::Result<()> {
    match errno {
        Errno::EXIST => Ok(()),
        errno => Err(errno),
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    open_child(CWD, path.as_os_str().as_bytes())
}
