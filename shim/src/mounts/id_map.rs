//! User namespaces that say how a mount's ids are mapped.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::sys;

/// One with these maps, `INSIDE:OUTSIDE:SIZE` and so on with commas. A process has to live in it until it is open here; that is a child
/// which does nothing.
///
/// # Errors
/// What is no map, and what the kernel refuses.
pub fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd> {
    let (uids, gids) = (lines(uids)?, lines(gids)?);
    let child = sys::mount::clone_into_user_namespace()?;
    let pidfd = sys::pidfd_open(child);
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{child}/{name}");
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(text.as_bytes())
    };
    let opened = write("uid_map", &uids)
        .and_then(|()| write("gid_map", &gids))
        .and_then(|()| File::open(Path::new(&format!("/proc/{child}/ns/user"))));
    let pidfd = pidfd?;
    sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        // The shim's reaper may have been first.
        Ok(_) | Err(Errno::ECHILD) => opened.map(OwnedFd::from),
        Err(errno) => Err(errno.into()),
    }
}

/// As the kernel reads them.
fn lines(map: &str) -> Result<String> {
    let refused = || Error::new(ErrorKind::InvalidInput, format!("'{map}' is no map of ids"));
    let mut lines = String::new();
    for range in map.split(',') {
        let numbers: Vec<u32> = range
            .split(':')
            .map_while(|number| number.parse().ok())
            .collect();
        let [inside, outside, size] = numbers[..] else {
            return Err(refused());
        };
        lines.push_str(&format!("{inside} {outside} {size}\n"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_refused() {
        assert_eq!(
            lines("0:1000:10,10:5000:1").unwrap(),
            "0 1000 10\n10 5000 1\n"
        );
        for map in ["", "0:1", "0:1:2:3,", "a:1:1", "0:1:-1"] {
            assert!(lines(map).is_err(), "{map}");
        }
    }
}
