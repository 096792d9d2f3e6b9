//! Who has the store: one process at a time, a daemon or a command for the store by itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::refusal::{Kind, Refusal};

/// The store is ours until the file is closed. Nothing else of this process may open and close it, for that ends the lock, too.
///
/// A lock of POSIX (fcntl_locking(2)): what we start has none of it, not even between fork and exec. With flock(2), the next daemon would be
/// refused if this one were killed just then.
pub(super) fn take(path: &Path) -> Result<File> {
    let story = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(story)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_SETLK(&lock)) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            fcntl(&file, FcntlArg::F_GETLK(&mut lock)).with_context(story)?;
            Err(Refusal::new(Kind::InUse, taken(path, lock.l_pid)).into())
        }
        Err(errno) => Err(errno).with_context(story),
    }
}

fn taken(path: &Path, pid: i32) -> String {
    let who = match pid {
        // It has just ended, or is not of our pid namespace.
        0 => String::new(),
        pid => format!(" (pid {pid})"),
    };
    format!(
        "{} is locked: another daemon is running{who}, or somebody works on the store without one",
        path.display()
    )
}
