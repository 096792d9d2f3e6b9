//! Landlock (kernel 5.13): landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2). `libc` has their numbers only.

use super::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// struct landlock_ruleset_attr of linux/landlock.h, version 6. Older kernels take it as long as what they do not know is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    /// `LANDLOCK_ACCESS_FS_*`
    pub(crate) fs: u64,
    /// `LANDLOCK_ACCESS_NET_*`
    pub(crate) net: u64,
    /// `LANDLOCK_SCOPE_*`
    pub(crate) scoped: u64,
}

/// The version of the interface; ENOSYS or EOPNOTSUPP without Landlock.
pub(crate) fn abi() -> Result<i64> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes a null pointer and the size 0.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Handled>(),
            0,
            VERSION,
        )
    })
}

/// A new ruleset, close-on-exec.
pub(crate) fn create_ruleset(handled: &Handled) -> Result<OwnedFd> {
    // SAFETY: pointer and size describe `handled`, which the kernel reads.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(handled),
            size_of::<Handled>(),
            0,
        )
    })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// struct landlock_path_beneath_attr, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Allows this access to a file, or beneath a directory.
pub(crate) fn allow_beneath(ruleset: &OwnedFd, file: impl AsFd, access: u64) -> Result<()> {
    const PATH_BENEATH: i32 = 1;
    let attr = PathBeneath {
        allowed_access: access,
        parent_fd: file.as_fd().as_raw_fd(),
    };
    // SAFETY: `attr` is the structure of this kind of rule, which the kernel reads.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const attr,
            0,
        )
    })
    .map(drop)
}

/// Allows this access to a TCP port.
pub(crate) fn allow_port(ruleset: &OwnedFd, port: u16, access: u64) -> Result<()> {
    const NET_PORT: i32 = 2;
    // struct landlock_net_port_attr
    let attr = [access, u64::from(port)];
    // SAFETY: `attr` is the structure of this kind of rule, which the kernel reads.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            NET_PORT,
            &raw const attr,
            0,
        )
    })
    .map(drop)
}

/// Puts this process and its descendants under the ruleset. Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn restrict_self(ruleset: &OwnedFd) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0)
    })
    .map(drop)
}
