//! What is written to /proc for the container: sysctls and security labels.
//!
//! Runs in init. Always through the host's procfs descriptor, beneath it, over no mount and no magic link: a container that arranges its own /proc
//! cannot redirect such a write (CVE-2019-16884, CVE-2025-52881).

use super::{At, Done, Fail};
use crate::plan::Op;
use crate::sys::{Errno, fs, process};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;

/// Writes a value to a file below the procfs.
pub(crate) fn write_proc(proc: &OwnedFd, path: &CStr, value: &[u8]) -> Done {
    fs::write(open_proc(proc, path)?, value).at(Op::Write)
}

/// Opens a file below the procfs for writing.
pub(crate) fn open_proc(proc: &OwnedFd, path: &CStr) -> Done<OwnedFd> {
    fs::openat2(proc, path, libc::O_WRONLY, 0, BENEATH).at(Op::OpenProc)
}

/// Makes the next execve change to an AppArmor profile. The attribute has a directory of its own since kernel 5.8.
pub(crate) fn apparmor(proc: &OwnedFd, profile: &CStr) -> Done {
    let profile = profile.to_bytes();
    let mut value = [0; 512];
    let Some(room) = value.get_mut(..5 + profile.len()) else {
        return Err(Fail::from(Errno::ENAMETOOLONG));
    };
    room[..5].copy_from_slice(b"exec ");
    room[5..].copy_from_slice(profile);
    match write_proc(proc, c"self/attr/apparmor/exec", room) {
        Err(fail) if fail.errno == Errno::ENOENT && fail.op == Op::OpenProc => {
            write_proc(proc, c"self/attr/exec", room)
        }
        other => other,
    }
}

/// setdomainname(2).
pub(crate) fn set_domainname(name: &CStr) -> Done {
    process::set_domainname(name.to_bytes()).at(Op::Whole)
}
