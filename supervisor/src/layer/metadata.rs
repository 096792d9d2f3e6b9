//! What a file has besides its bytes: owner, attributes, mode, times.
//!
//! Runs in the confined process.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::{Entry, Kind};

/// What overlayfs would believe: an image must not tell it where its files are.
const OVERLAY_ATTRIBUTES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

pub(super) fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: i64::from(mtime.1),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

/// Owner, attributes, mode, in this order: a change of owner takes away file capabilities and the bits of setuid and setgid.
pub(super) fn finish_open(fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    // Root's, too: what is made in a directory with setgid is of that one's group.
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, uid, gid).context("set its owner")?;
    for (name, value) in attributes(entry) {
        tolerate(
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            entry,
        )
        .with_context(|| format!("set its attribute {}", String::from_utf8_lossy(name)))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).context("set its mode")?;
    Ok(())
}

/// The same for what cannot be opened, by its name.
pub(super) fn finish_special(dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).context("set its owner")?;
    let mut attributes = attributes(entry).peekable();
    if attributes.peek().is_some() {
        // There is no call for an attribute by descriptor and name; this process does nothing else by relative paths.
        nix::unistd::fchdir(dir)?;
    }
    for (attribute, value) in attributes {
        tolerate(
            rustix::fs::lsetxattr(name, attribute, value, XattrFlags::empty()),
            entry,
        )
        .with_context(|| format!("set its attribute {}", String::from_utf8_lossy(attribute)))?;
    }
    if entry.kind != Kind::Symlink {
        // It was made just now and is no link.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .context("set its mode")?;
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(dir, name, &times(entry.mtime), flags).context("set its times")?;
    Ok(())
}

fn attributes(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let believed = |name: &[u8]| {
        OVERLAY_ATTRIBUTES
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    entry
        .xattrs
        .iter()
        .filter(move |(name, _)| !believed(name))
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
}

/// As containerd does: a file system that has no attributes is no reason to have no image, nor are those that only files can have.
fn tolerate(result: rustix::io::Result<()>, entry: &Entry) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if !matches!(entry.kind, Kind::File | Kind::Directory) => Ok(()),
        other => other,
    }
}
