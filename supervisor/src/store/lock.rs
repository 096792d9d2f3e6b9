//! Who has the store: one process at a time, a daemon or a command for the store by itself. One that is about to end is waited for. And who
//! has the daemon's other directory.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::refusal::{Kind, Refusal};

/// How long somebody who has the store may take to end: a daemon finishes what it is at.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the file is for is ours until it is closed. Nothing else of this process may open and close it, for that ends the lock, too.
///
/// A lock of POSIX (fcntl_locking(2)): what we start has none of it, not even between fork and exec. With flock(2), the next daemon would be
/// refused if this one were killed just then.
pub(crate) fn take(path: &Path) -> Result<File> {
    let story = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(story)?;
    let end = Instant::now() + PATIENCE;
    while let Some(holder) = holder(&file).with_context(story)? {
        if !ends(holder, end).with_context(story)? {
            return Err(Refusal::new(Kind::InUse, taken(path, holder)).into());
        }
    }
    Ok(file)
}

/// Who has it; nobody, when it is ours from now on. 0 is somebody of another pid namespace.
fn holder(file: &File) -> nix::Result<Option<i32>> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&lock)) {
            Ok(_) => return Ok(None),
            Err(Errno::EAGAIN | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
        let mut found = lock;
        fcntl(file, FcntlArg::F_GETLK(&mut found))?;
        // Else he has given it up meanwhile.
        if found.l_type != libc::F_UNLCK as libc::c_short {
            return Ok(Some(found.l_pid));
        }
    }
}

/// Whether the process has ended by then. Its locks are gone before it is.
fn ends(pid: i32, by: Instant) -> Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(false);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        opened => opened.context("wait for who has it")?,
    };
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let left = by.saturating_duration_since(Instant::now());
    match poll(&mut polled, PollTimeout::try_from(left)?) {
        Err(Errno::EINTR) => Ok(true),
        ended => Ok(ended.context("wait for who has it")? > 0),
    }
}

fn taken(path: &Path, pid: i32) -> String {
    let who = match pid {
        // Not of our pid namespace.
        0 => String::new(),
        pid => format!(" (pid {pid})"),
    };
    format!(
        "{} is locked: another daemon is running{who}, or somebody works on the store without one",
        path.display()
    )
}
