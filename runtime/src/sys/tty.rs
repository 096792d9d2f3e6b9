//! Terminals: the ioctls of a pseudo-terminal and of a window size.
//!
//! Runs in the runtime's own process (the user's terminal) and in init (the container's).

use super::{Errno, Result};
use std::ffi::{c_int, c_ulong};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

pub(crate) use libc::winsize as WindowSize;

/// TIOCSPTLCK with 0: lets the slave of this master be opened.
pub(crate) fn unlock(master: impl AsFd) -> Result<()> {
    let lock: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one integer through the pointer.
    Errno::result(unsafe {
        libc::ioctl(
            master.as_fd().as_raw_fd(),
            libc::TIOCSPTLCK,
            &raw const lock,
        )
    })
    .map(drop)
}

/// TIOCGPTPEER (kernel 4.13): opens the slave of this master by descriptor. A path such as /dev/pts/0 can be somebody else's
/// in a mount namespace that the container controls (CVE-2025-52565). It does not become the controlling terminal.
pub(crate) fn peer(master: impl AsFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let fd = Errno::result(unsafe {
        libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags)
    })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// TIOCSCTTY: makes this the controlling terminal of the session that the caller leads. It is not taken from another session.
pub(crate) fn set_controlling(slave: impl AsFd) -> Result<()> {
    let steal: c_ulong = 0;
    // SAFETY: TIOCSCTTY takes an integer by value.
    Errno::result(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, steal) })
        .map(drop)
}

/// TIOCGWINSZ.
pub(crate) fn size(tty: impl AsFd) -> Result<WindowSize> {
    let mut size = WindowSize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ stores a winsize through the pointer.
    Errno::result(unsafe {
        libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)
    })?;
    Ok(size)
}

/// TIOCSWINSZ: the foreground process group of the terminal gets SIGWINCH if this changes the size.
pub(crate) fn set_size(tty: impl AsFd, size: &WindowSize) -> Result<()> {
    // SAFETY: TIOCSWINSZ reads a winsize through the pointer.
    Errno::result(unsafe {
        libc::ioctl(
            tty.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            std::ptr::from_ref(size),
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    #[test]
    fn a_master_is_unlocked_and_its_peer_shares_its_size() {
        let master = open(
            "/dev/ptmx",
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        assert_eq!(
            peer(&master).unwrap_err(),
            Errno::EIO,
            "a new pseudo-terminal is locked"
        );
        unlock(&master).unwrap();
        let slave = peer(&master).unwrap();
        assert!(nix::unistd::isatty(&slave).unwrap());
        set_size(
            &master,
            &WindowSize {
                ws_row: 33,
                ws_col: 101,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        let seen = size(&slave).unwrap();
        assert_eq!((seen.ws_row, seen.ws_col), (33, 101));
    }

    #[test]
    fn what_is_not_a_terminal_has_no_size() {
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).unwrap();
        assert_eq!(size(&null).unwrap_err(), Errno::ENOTTY);
    }
}
