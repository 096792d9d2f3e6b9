//! Mounts by descriptor (fsopen(2) and its kin), id-mapped ones, and loop devices.

use std::ffi::CStr;
use std::io::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::NixPath;

use super::check;

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: all callers pass what the kernel has just made, which nothing else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// fsopen(2).
pub(crate) fn fsopen(name: &CStr) -> Result<OwnedFd> {
    let flags = 1; // FSOPEN_CLOEXEC
    // SAFETY: the kernel reads one string, which lives until the call returns.
    check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), flags) }).map(owned)
}

/// fsconfig(2) with FSCONFIG_SET_STRING, or without a value with FSCONFIG_SET_FLAG. The kernel takes values of at most 255 bytes.
pub(crate) fn fsconfig(context: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> Result<()> {
    let command = u32::from(value.is_some());
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the kernel reads two strings, or one, which live until the call returns.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key.as_ptr(),
            value,
            0,
        )
    })
    .map(drop)
}

/// fsconfig(2) with FSCONFIG_CMD_CREATE.
pub(crate) fn fscreate(context: BorrowedFd<'_>) -> Result<()> {
    let (command, nothing) = (6, std::ptr::null::<libc::c_char>());
    // SAFETY: the call reads no memory of ours.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            nothing,
            nothing,
            0,
        )
    })
    .map(drop)
}

/// fsmount(2): a detached mount with these MOUNT_ATTR_*.
pub(crate) fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    let flags = 1; // FSMOUNT_CLOEXEC
    // SAFETY: the call takes three integers.
    check(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), flags, attributes) })
        .map(owned)
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of what is mounted there, with all that is mounted below.
pub(crate) fn open_tree(path: &Path) -> Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    let called = path.with_nix_path(|path| {
        // SAFETY: the kernel reads one string, which lives until the call returns.
        check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
    })?;
    called.map(owned)
}

/// mount_setattr(2) with MOUNT_ATTR_IDMAP on a detached mount and all below.
pub(crate) fn id_map(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd().unsigned_abs().into(),
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the kernel reads an empty string and one mount_attr of the size that is passed; both live until the call returns.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// move_mount(2) of a detached mount.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    let called = target.with_nix_path(|target| {
        // SAFETY: the kernel reads two strings, which live until the call returns.
        check(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                flags,
            )
        })
    })?;
    called.map(drop)
}

/// A child in a user namespace of its own, which does nothing until it is killed.
pub(crate) fn clone_into_user_namespace() -> Result<i32> {
    let nothing: libc::c_ulong = 0;
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has a copy of our memory, and goes on on its copy of our stack.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing)
    })?;
    if pid > 0 {
        return Ok(pid);
    }
    loop {
        // SAFETY: the call has no arguments. The child never returns from here: nothing of ours is run or dropped in it.
        unsafe { libc::pause() };
    }
}

/// LOOP_CTL_GET_FREE.
pub(crate) fn free_loop_device(control: BorrowedFd<'_>) -> Result<i32> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    // SAFETY: the call takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }.into())
}

/// LOOP_CONFIGURE: the device is the file, until it is no more used.
pub(crate) fn configure_loop(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    read_only: bool,
) -> Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const LO_FLAGS_READ_ONLY: u32 = 1;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    /// struct loop_config of linux/loop.h: of its loop_info64 only the flags are set.
    #[repr(C)]
    struct Config {
        file: u32,
        block_size: u32,
        before_flags: [u64; 5],
        lo_number: u32,
        encryption: [u32; 2],
        flags: u32,
        behind_flags: [u64; 22],
        reserved: [u64; 8],
    }
    let read_only = if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    let config = Config {
        file: file.as_raw_fd().unsigned_abs(),
        block_size: 0,
        before_flags: [0; 5],
        lo_number: 0,
        encryption: [0; 2],
        flags: LO_FLAGS_AUTOCLEAR | read_only,
        behind_flags: [0; 22],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one loop_config, which lives until the call returns.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) }.into())
        .map(drop)
}
