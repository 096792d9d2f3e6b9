//! Pipes of which the shim has one end, non-blocking, and another process the other, as usual.

use std::io::Result;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use crate::error::told;

/// The shim's writer and the other's reader.
pub(super) fn to_reader() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((writer, reader))
}

/// The shim's reader and the other's writer.
pub(super) fn to_writer() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

/// So that a process that is not root may open /dev/stdout, which opens the pipe once more.
pub(super) fn give(pipe: &OwnedFd, uid: u32, gid: u32) -> Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let owner = fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    owner.map_err(|errno| told(format_args!("give a pipe to {uid}:{gid}"), errno))
}
