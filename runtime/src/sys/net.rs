//! The one network call of the runtime: bringing the loopback interface of a new network namespace up.

use super::{Errno, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// SIOCSIFFLAGS on `lo`: sets IFF_UP. The kernel assigns 127.0.0.1/8 and ::1 by itself.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: takes no pointers.
    let fd = Errno::result(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: a new descriptor, which nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: SIOCSIFFLAGS reads an ifreq whose flags are set.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}
