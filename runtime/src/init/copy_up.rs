//! `tmpcopyup`: fills a new tmpfs with what is at its destination.
//!
//! Runs in init, descriptor to descriptor, before the tmpfs is attached. Sockets and device nodes are left out; xattrs are not copied (tmpfs takes
//! few of them, and runc copies none).

use crate::sys::{Errno, Result, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

/// Directories deeper than this are refused: each level holds a buffer on the stack.
const MAX_DEPTH: u32 = 64;

/// Copies the content of `source`, opened with O_PATH, into the mount `target`.
pub(crate) fn copy(source: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let source = fs::open(source, c".", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let stat = fs::stat(&source)?;
    copy_directory(&source, target, 0)?;
    fs::chown(target, stat.st_uid, stat.st_gid)?;
    fs::chmod(target, c".", stat.st_mode & 0o7777)
}

fn copy_directory(source: &OwnedFd, target: &OwnedFd, depth: u32) -> Result<()> {
    if depth >= MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let mut buffer = [0; 2048];
    fs::for_each_entry(source, &mut buffer, |name| match name.to_bytes() {
        b"." | b".." => Ok(()),
        _ => copy_entry(source, target, name, depth),
    })
}

fn copy_entry(source: &OwnedFd, target: &OwnedFd, name: &CStr, depth: u32) -> Result<()> {
    let stat = fs::stat_at(source, name, libc::AT_SYMLINK_NOFOLLOW)?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let from = fs::open(source, name, libc::O_RDONLY | libc::O_DIRECTORY)?;
            fs::mkdir(target, name, 0o700)?;
            let to = fs::open(target, name, libc::O_RDONLY | libc::O_DIRECTORY)?;
            copy_directory(&from, &to, depth + 1)?;
            fs::chown(&to, stat.st_uid, stat.st_gid)?;
            fs::chmod(target, name, mode)
        }
        libc::S_IFREG => {
            let from = open_file(source, name)?;
            let to = fs::create(target, name, libc::O_WRONLY, 0o600)?;
            copy_data(&from, &to)?;
            fs::chown(&to, stat.st_uid, stat.st_gid)?;
            fs::chmod(target, name, mode)
        }
        libc::S_IFLNK => {
            let mut link = [0; libc::PATH_MAX as usize];
            fs::readlink(source, name, &mut link)?;
            let link = CStr::from_bytes_until_nul(&link).map_err(|_| Errno::ENAMETOOLONG)?;
            fs::symlink(link, target, name)?;
            let made = fs::open(target, name, libc::O_PATH)?;
            fs::chown(made, stat.st_uid, stat.st_gid)
        }
        _ => Ok(()),
    }
}

/// Opens a regular file. Where others write to the source, it may no longer be the one that was looked at: a fifo must not block us.
fn open_file(source: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    let file = fs::open(source, name, libc::O_RDONLY | libc::O_NONBLOCK)?;
    match fs::stat(&file)?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(file),
        _ => Err(Errno::EAGAIN),
    }
}

fn copy_data(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    while nix::sys::sendfile::sendfile(to.as_fd(), from.as_fd(), None, 1 << 30)? > 0 {}
    Ok(())
}
