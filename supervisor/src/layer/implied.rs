//! Directories that a layer has entries in and says nothing about: they are as the layers below have them.
//!
//! A layer is unpacked by itself, so such a directory is root's and open to all at first; but in an overlay the topmost one counts, and a layer with
//! `tmp/x` alone would make `/tmp` one that nobody else can write to. The first image with the layer settles it. Two images that share the
//! layer over different directories would see the first one's.
//!
//! Runs in the daemon, on what was unpacked; it opens directories by descriptor and follows no link.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::compare::attributes;
use super::tree::OPAQUE_ATTRIBUTE;

/// What a layer has for a path.
enum Seen {
    Directory(OwnedFd),
    /// Nothing, and those below count.
    Nothing,
    /// Nothing, and those below do not count.
    Hidden,
}

/// Gives directories that the uppermost of these layers (the last) implies what those below say.
pub(crate) fn settle(
    layer: &Path,
    implied: &[Vec<u8>],
    below: &[(&Path, &[Vec<u8>])],
) -> Result<()> {
    let top = open(layer)?;
    for path in implied {
        let of = || format!("directory '{}' of a layer", String::from_utf8_lossy(path));
        let Seen::Directory(directory) = look(top.as_fd(), path).with_context(of)? else {
            continue;
        };
        let stat = rustix::fs::fstat(&directory).with_context(of)?;
        let untouched = (
            stat.st_mode & 0o7777,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime,
        ) == (0o755, 0, 0, 0);
        if !untouched || is_opaque(directory.as_fd()) {
            continue;
        }
        for (layer, also_implied) in below.iter().rev() {
            match look(open(layer)?.as_fd(), path).with_context(of)? {
                Seen::Directory(model) if !also_implied.contains(path) => {
                    resemble(directory.as_fd(), model.as_fd()).with_context(of)?;
                    break;
                }
                Seen::Directory(_) | Seen::Nothing => {}
                Seen::Hidden => break,
            }
        }
    }
    Ok(())
}

fn open(layer: &Path) -> Result<File> {
    File::open(layer).with_context(|| format!("open {}", layer.display()))
}

fn look(layer: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Seen> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = layer.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let mut opaque = false;
    for name in path.split(|byte| *byte == b'/') {
        directory = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) if !opaque => return Ok(Seen::Nothing),
            // A link or a file, a whiteout among them, hides what is below.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Hidden),
            Err(errno) => return Err(errno),
        };
        opaque |= is_opaque(directory.as_fd());
    }
    Ok(Seen::Directory(directory))
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value).is_ok_and(|_| value == *b"y")
}

fn resemble(directory: BorrowedFd<'_>, model: BorrowedFd<'_>) -> Result<()> {
    let stat: Stat = rustix::fs::statat(model, "", AtFlags::EMPTY_PATH)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(directory, Some(uid), Some(gid))?;
    for (name, value) in attributes(model)? {
        if !name.starts_with(b"trusted.overlay.") {
            rustix::fs::fsetxattr(directory, name, &value, XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec)?,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(directory, &times)?)
}
