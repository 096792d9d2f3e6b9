//! Opens what a client made for a stream: a fifo, without waiting for its other end, or something else that can be written to.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::error::told;

/// Both ends of a fifo, non-blocking.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

#[derive(Debug)]
pub(super) enum Opened {
    Fifo(Ends),
    /// A file or a device, to add to.
    Other(OwnedFd),
}

/// The reader first, which never waits and lets the writer be opened (fifo(7)).
pub(super) fn ends(path: &Path) -> Result<Ends> {
    match opened(path)? {
        Opened::Fifo(ends) => Ok(ends),
        Opened::Other(_) => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("open {}: not a fifo", path.display()),
        )),
    }
}

pub(super) fn opened(path: &Path) -> Result<Opened> {
    let context = |error: Error| told(format_args!("open {}", path.display()), error);
    let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| context(errno.into()))?;
    let mode = fstat(&fd).map_err(|errno| context(errno.into()))?.st_mode;
    if SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFIFO {
        let reader = again(fd.as_fd(), OFlag::O_RDONLY).map_err(context)?;
        let writer = again(fd.as_fd(), OFlag::O_WRONLY).map_err(context)?;
        Ok(Opened::Fifo(Ends { reader, writer }))
    } else {
        Ok(Opened::Other(
            again(fd.as_fd(), OFlag::O_WRONLY | OFlag::O_APPEND).map_err(context)?,
        ))
    }
}

/// Opens what a descriptor refers to once more, non-blocking. By its number, since its path may be gone or another's by now.
pub(super) fn again(fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    Ok(open(
        format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(),
        flags,
        Mode::empty(),
    )?)
}
