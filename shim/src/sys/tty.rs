//! Terminals: ioctl_tty(2), and how a process gets one from another.

use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// TIOCSWINSZ.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, width: u16, height: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one winsize, which lives until the call returns.
    super::check(
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into(),
    )
    .map(drop)
}

/// The descriptor that comes with the next message (SCM_RIGHTS, unix(7)); without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut byte = [0; 256];
    let mut data = [IoSliceMut::new(&mut byte)];
    // More than one would not fit; the kernel closes what does not.
    let mut space = nix::cmsg_space!(libc::c_int);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let mut fds = message.cmsgs()?.filter_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fds
        .next()
        .ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "a message without a descriptor"))?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// TIOCGWINSZ: width and height.
#[cfg(test)]
pub(crate) fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one winsize, which lives until the call returns.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    super::check(result.into())?;
    Ok((size.ws_col, size.ws_row))
}
