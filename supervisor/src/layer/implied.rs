//! Directories that a layer has entries in and says nothing about: they are as the layers below have them.
//!
//! A layer is unpacked by itself, so such a directory is root's and open to all at first; but in an overlay the topmost one counts, and a layer with
//! `tmp/x` alone would make `/tmp` one that nobody else can write to. What is below differs from image to image, and images share the layer, which
//! therefore stays as it is: one more directory on top of all layers says what those directories are.
//!
//! Runs in the daemon, on what was unpacked; it opens directories by descriptor and follows no link.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::compare::attributes;
use super::metadata::times;
use super::tree::OPAQUE_ATTRIBUTE;

/// What a layer has for a path.
enum Seen {
    Directory {
        directory: OwnedFd,
        /// One above it is opaque: those below do not count. What it says of its own children says nothing about itself.
        alone: bool,
    },
    /// Nothing, and those below count.
    Nothing,
    /// Nothing, and those below do not count.
    Hidden,
}

struct Layer<'a> {
    root: File,
    implied: BTreeSet<&'a [u8]>,
}

/// Makes, in an empty directory, those that these layers imply, as they are in the tree of all of them, and has them on the disk. The topmost layer
/// comes first.
pub(crate) fn make(layers: &[(&Path, &[Vec<u8>])], into: &Path) -> Result<()> {
    let mut opened = Vec::new();
    let mut paths = BTreeSet::new();
    for (path, implied) in layers {
        opened.push(Layer {
            root: open(path)?,
            implied: implied.iter().map(Vec::as_slice).collect(),
        });
        for path in *implied {
            let cuts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            paths.extend(cuts.map(|(cut, _)| &path[..cut]));
            paths.insert(path.as_slice());
        }
    }
    let into = open(into)?;
    let mut made = Vec::new();
    // What is above a directory comes before it.
    for path in paths {
        let of = || format!("directory '{}' of a layer", String::from_utf8_lossy(path));
        if let Some(model) = find(&opened, path).with_context(of)? {
            let directory = create(into.as_fd(), path).with_context(of)?;
            let times = match model {
                Some(model) => resemble(directory.as_fd(), model.as_fd()).with_context(of)?,
                None => times((0, 0)),
            };
            made.push((path, times));
        }
    }
    // What was made in a directory has changed its time.
    for (path, times) in &made {
        rustix::fs::futimens(&there(into.as_fd(), path)?, times).context("set its times")?;
    }
    for (path, _) in &made {
        rustix::fs::fsync(&there(into.as_fd(), path)?).context("make a directory durable")?;
    }
    into.sync_all().context("make a directory durable")
}

fn there(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    match look(root, path)? {
        Seen::Directory { directory, .. } => Ok(directory),
        Seen::Nothing | Seen::Hidden => {
            bail!("there is no '{}'", String::from_utf8_lossy(path))
        }
    }
}

/// A directory of the tree of all layers as the topmost layer has it that says something about it, if any does. None if there is no such directory.
fn find(layers: &[Layer<'_>], path: &[u8]) -> rustix::io::Result<Option<Option<OwnedFd>>> {
    let mut implied = None;
    for layer in layers {
        match look(layer.root.as_fd(), path)? {
            Seen::Directory { directory, .. } if !layer.implied.contains(path) => {
                return Ok(Some(Some(directory)));
            }
            Seen::Directory { alone, .. } => {
                implied = Some(None);
                if alone {
                    break;
                }
            }
            Seen::Nothing => {}
            Seen::Hidden => break,
        }
    }
    Ok(implied)
}

fn create(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let cut = path.iter().rposition(|byte| *byte == b'/');
    let (above, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = there(root, above)?;
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    let made = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    // Whatever the umask.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

fn open(layer: &Path) -> Result<File> {
    File::open(layer).with_context(|| format!("open {}", layer.display()))
}

fn look(layer: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Seen> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = layer.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let mut alone = false;
    for name in path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        alone |= is_opaque(directory.as_fd());
        directory = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) if !alone => return Ok(Seen::Nothing),
            // A link or a file, a whiteout among them, hides what is below.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Hidden),
            Err(errno) => return Err(errno),
        };
    }
    Ok(Seen::Directory { directory, alone })
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value).is_ok_and(|_| value == *b"y")
}

/// Owner, attributes and mode, in this order: a change of owner takes file capabilities and the set-id bits away. Returns the times, which are set
/// last.
pub(crate) fn resemble(directory: BorrowedFd<'_>, model: BorrowedFd<'_>) -> Result<Timestamps> {
    let stat: Stat = rustix::fs::statat(model, "", AtFlags::EMPTY_PATH)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(directory, Some(uid), Some(gid))?;
    for (name, value) in attributes(model)? {
        if !name.starts_with(b"trusted.overlay.") {
            rustix::fs::fsetxattr(directory, name, &value, XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(times((stat.st_mtime, u32::try_from(stat.st_mtime_nsec)?)))
}
