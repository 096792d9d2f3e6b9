//! Whether the root's file system can have what containers change: an overlay of scratch directories there is made, as the kernel makes a
//! container's, and mounted nowhere.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::{Store, collect, reserve};
use crate::copy::OVERLAY_OPTIONS;

impl Store {
    /// Of a file system that cannot, every container would say so, and none would say what is to be done. A few calls.
    pub(crate) fn try_overlay(&self) -> Result<()> {
        // What is left there if we are killed, the next one removes.
        let place = self.root.join("trash").join(self.number().to_string());
        let tried = try_in(&place).with_context(|| format!("try {}", place.display()));
        if place.exists() {
            let removed = fs::remove_dir_all(&place);
            collect::forgive(removed.with_context(|| format!("remove {}", place.display())));
        }
        let errno = match tried {
            Ok(Some(errno)) => errno,
            Ok(None) => return Ok(()),
            // It is not to be known, and somebody has to remove things.
            Err(error) if reserve::is_full(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        bail!(
            "the root {} cannot have containers: it is on a file system ({}) that overlayfs does not take for what they change: {} (name another with --root)",
            self.root.display(),
            kind(&self.root).as_deref().unwrap_or("of unknown type"),
            errno
        )
    }
}

/// What the kernel has against it.
fn try_in(place: &Path) -> Result<Option<Errno>> {
    let overlay = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        // Filters of system calls know mount(2) and not always this one.
        Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
        opened => opened.context("open the file system overlay")?,
    };
    let directories =
        ["lowerdir", "upperdir", "workdir"].map(|option| (option, place.join(option)));
    for (_, directory) in &directories {
        fs::create_dir_all(directory)?;
    }
    let made = || {
        // Since Linux 6.5, what cannot be is refused here already.
        for (option, directory) in &directories {
            fsconfig_set_string(&overlay, *option, directory)?;
        }
        for option in OVERLAY_OPTIONS {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            fsconfig_set_string(&overlay, name, value)?;
        }
        // Its end is not to wait until all of the file system below is on the disk.
        fsconfig_set_flag(&overlay, "volatile")?;
        fsconfig_create(&overlay)
    };
    match made() {
        Ok(()) => Ok(None),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(io::Error::from(io::ErrorKind::StorageFull).into()),
        Err(errno) => Ok(Some(errno)),
    }
}

/// What the file system is that has a directory: the type of its mount.
fn kind(directory: &Path) -> Option<String> {
    let stat = rustix::fs::statx(CWD, directory, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let number = stat.stx_mnt_id.to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(&number))?;
    let (_, source) = line.split_once(" - ")?;
    source.split(' ').next().map(str::to_owned)
}
