//! Credentials of the calling process: user and group ids, capabilities, the seccomp filter.
//!
//! Raw system calls throughout: glibc's wrappers would signal threads that we do not have.

use super::{Errno, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// setgroups(2).
pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe `groups`.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
        .map(drop)
}

/// setresgid(2): real, effective and saved group id.
pub(crate) fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2): real, effective and saved user id.
pub(crate) fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// setfsgid(2) and setfsuid(2): the ids that files are accessed with. They report no failure; with a privileged caller there is none.
pub(crate) fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: takes no pointers.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    // SAFETY: takes no pointers.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// The three capability sets of capset(2), bit n for the capability with number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapSets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// _LINUX_CAPABILITY_VERSION_3
static CAP_HEADER: CapHeader = CapHeader {
    version: 0x2008_0522,
    pid: 0,
};

/// capset(2).
pub(crate) fn set_caps(sets: &CapSets) -> Result<()> {
    let word = |set: u64, index: u32| (set >> (32 * index)) as u32;
    let data: [[u32; 3]; 2] = [0, 1].map(|i| {
        [
            word(sets.effective, i),
            word(sets.permitted, i),
            word(sets.inheritable, i),
        ]
    });
    // SAFETY: version 3 takes two triples of 32-bit words; both pointers live across the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const CAP_HEADER, data.as_ptr()) })
        .map(drop)
}

/// capget(2).
pub(crate) fn caps() -> Result<CapSets> {
    let mut header = CapHeader { ..CAP_HEADER };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 fills two triples of 32-bit words; both pointers live across the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let set = |i: usize| u64::from(data[0][i]) | u64::from(data[1][i]) << 32;
    Ok(CapSets {
        effective: set(0),
        permitted: set(1),
        inheritable: set(2),
    })
}

/// seccomp(SECCOMP_SET_MODE_FILTER): loads a filter onto the calling thread. With SECCOMP_FILTER_FLAG_NEW_LISTENER returns the listener,
/// close-on-exec.
pub(crate) fn load_seccomp(
    program: &[seccompiler::sock_filter],
    flags: u32,
) -> Result<Option<OwnedFd>> {
    let prog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `prog` describes `program`, whose items have the layout of struct sock_filter; the kernel copies both.
    let ret = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const prog,
        )
    })?;
    let is_listener = flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0;
    // SAFETY: with this flag the call returned a new descriptor, which nobody else owns.
    Ok(is_listener.then(|| unsafe { OwnedFd::from_raw_fd(ret as i32) }))
}
