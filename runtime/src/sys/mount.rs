//! The mount calls: file-system contexts, detached mounts, mount attributes, and the few of mount(2) that have no successor.

use super::{Errno, Result};
use nix::NixPath;
use std::ffi::{CStr, c_int, c_uint};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// struct mount_attr of linux/mount.h: the fourth field (`userns_fd`) is the user namespace of MOUNT_ATTR_IDMAP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

fn new_fd(ret: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(ret)?;
    // SAFETY: every caller passes the result of a call that returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fsopen(2), kernel 5.2.
pub(crate) fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    // SAFETY: the name is NUL-terminated.
    new_fd(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })
}

/// fsconfig(FSCONFIG_SET_STRING). The kernel takes values of at most 255 bytes.
pub(crate) fn fsconfig_string(fs: impl AsFd, key: &CStr, value: &CStr) -> Result<()> {
    const FSCONFIG_SET_STRING: c_uint = 1;
    let fd = fs.as_fd().as_raw_fd();
    // SAFETY: key and value are NUL-terminated and copied by the kernel.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fd,
            FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    })
    .map(drop)
}

/// fsconfig(FSCONFIG_SET_FLAG).
pub(crate) fn fsconfig_flag(fs: impl AsFd, key: &CStr) -> Result<()> {
    const FSCONFIG_SET_FLAG: c_uint = 0;
    let fd = fs.as_fd().as_raw_fd();
    // SAFETY: the key is NUL-terminated; a flag has no value.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fd,
            FSCONFIG_SET_FLAG,
            key.as_ptr(),
            std::ptr::null::<u8>(),
            0,
        )
    })
    .map(drop)
}

/// fsconfig(FSCONFIG_CMD_CREATE): makes the superblock.
pub(crate) fn fsconfig_create(fs: impl AsFd) -> Result<()> {
    const FSCONFIG_CMD_CREATE: c_uint = 6;
    let fd = fs.as_fd().as_raw_fd();
    // SAFETY: the command takes neither key nor value.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fd,
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    })
    .map(drop)
}

/// fsmount(2): a detached mount of the context's superblock. `attributes` is `MOUNT_ATTR_*`.
pub(crate) fn fsmount(fs: impl AsFd, attributes: u64) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: c_uint = 1;
    let fd = fs.as_fd().as_raw_fd();
    // SAFETY: takes no pointers.
    new_fd(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as c_uint) })
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path`, with the mounts below it if `recursive`.
pub(crate) fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    clone_tree_with(dir, path, recursive | libc::AT_EMPTY_PATH)
}

/// The same with these `AT_*` flags.
pub(crate) fn clone_tree_with(dir: impl AsFd, path: &CStr, at: c_int) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | at.cast_unsigned();
    let fd = dir.as_fd().as_raw_fd();
    // SAFETY: the path is NUL-terminated.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, fd, path.as_ptr(), flags) })
}

/// move_mount(2) from one descriptor onto another: attaches a detached mount without walking a path.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x04;
    const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
    // SAFETY: both paths are empty NUL-terminated strings.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// mount_setattr(2), kernel 5.12, on the mount at a descriptor.
pub(crate) fn mount_setattr(mount: impl AsFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH as c_uint
        | if recursive {
            libc::AT_RECURSIVE as c_uint
        } else {
            0
        };
    // SAFETY: the path is an empty NUL-terminated string; `attr` has the layout and the size of struct mount_attr.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// mount(2), where it has no successor: `source`, `fstype` and `data` may be absent.
pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a NUL-terminated string.
    Errno::result(unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(fstype),
            flags,
            pointer(data).cast(),
        )
    })
    .map(drop)
}

/// umount2(2) of a path, with MNT_DETACH.
pub(crate) fn detach(target: &CStr) -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    Errno::result(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// pivot_root(2) with both arguments `.`: the new root is the working directory, the old one is stacked on top of it.
pub(crate) fn pivot_root_here() -> Result<()> {
    // SAFETY: both paths are NUL-terminated.
    Errno::result(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })
        .map(drop)
}

/// The id of the mount that a path is on.
pub(crate) fn mount_id(path: &Path) -> Result<u64> {
    let here = super::fs::CWD;
    path.with_nix_path(|path| Ok(statx(here, path, 0)?.stx_mnt_id))?
}

/// The id of the mount whose root a descriptor is of (STATX_ATTR_MOUNT_ROOT: kernel 5.8); None if it is further down.
pub(crate) fn mount_of_root(fd: impl AsFd) -> Result<Option<u64>> {
    let seen = statx(fd, c"", libc::AT_EMPTY_PATH)?;
    let is_root = seen.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(is_root.then_some(seen.stx_mnt_id))
}

/// statx(2), for the id of the mount (kernel 5.8).
fn statx(dir: impl AsFd, path: &CStr, at: c_int) -> Result<libc::statx> {
    let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (fd, mask) = (dir.as_fd().as_raw_fd(), libc::STATX_MNT_ID);
    // SAFETY: the path is NUL-terminated; `buf` has room for a statx.
    Errno::result(unsafe { libc::statx(fd, path.as_ptr(), at, mask, buf.as_mut_ptr()) })?;
    // SAFETY: the kernel filled it, and every bit pattern of it is valid.
    Ok(unsafe { buf.assume_init() })
}

/// fstatfs(2): the file system's magic number (`PROC_SUPER_MAGIC`, …).
pub(crate) fn fs_magic(fd: impl AsFd) -> Result<i64> {
    let mut buf = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `buf` has room for a statfs.
    Errno::result(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the kernel filled it, and every bit pattern of it is valid.
    let buf = unsafe { buf.assume_init() };
    Ok(i64::from(buf.f_type as u32))
}

/// fstatvfs(3): the flags of the mount at a descriptor, as `ST_*`.
pub(crate) fn mount_flags(fd: impl AsFd) -> Result<u64> {
    let mut buf = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `buf` has room for a statvfs.
    Errno::result(unsafe { libc::fstatvfs(fd.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the C library filled it, and every bit pattern of it is valid.
    let buf = unsafe { buf.assume_init() };
    Ok(buf.f_flag)
}
