//! How those who read a log and are to miss nothing say so: in their processes with a read lock of the open file description (F_OFD_SETLK(2)) on
//! the newest file that they have opened, and here by looking for one. Nobody waits for anybody, and a lock goes with who has it.

use std::fs::File;
use std::io::Result;

use nix::fcntl::{FcntlArg, fcntl};

/// What comes after this file is kept, from now on.
pub fn begin(file: &File) -> Result<()> {
    Ok(fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK))).map(drop)?)
}

/// Another one is in its place.
pub fn end(file: &File) -> Result<()> {
    Ok(fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK))).map(drop)?)
}

/// Whether somebody is at this file.
pub(crate) fn are_at(file: &File) -> bool {
    let mut found = lock(libc::F_WRLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    asked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
}

/// Of all of a file. There are three kinds, small numbers.
fn lock(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
