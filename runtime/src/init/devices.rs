//! Device nodes and links in /dev.
//!
//! Runs in init, before the root is changed. The directory that holds a node is a descriptor, so a link at /dev in the image leads to another
//! place of the image at most (CVE-2026-41579).

use super::root::{Missing, Root};
use super::{At, Done, Files};
use crate::plan::Op;
use crate::plan::rootfs::Device;
use crate::sys::mount::{attach, clone_tree};
use crate::sys::{Errno, fs};
use std::ffi::CStr;

/// Makes a node, or binds the host's where nodes cannot be made. A file that is already there stays.
pub(crate) fn create(root: &Root, device: &Device) -> Done {
    if device.bind {
        return bind(root, device);
    }
    let (parent, name) = root.parent(&device.path)?;
    let number = libc::makedev(device.major, device.minor);
    match fs::mknod(&parent, name, device.mode, number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        // A user namespace that was joined, or a file system that takes no nodes.
        Err(Errno::EPERM) => return bind(root, device),
        Err(errno) => return Err(errno).at(Op::Create),
    }
    if device.uid != 0 || device.gid != 0 {
        let node = fs::open(&parent, name, libc::O_PATH).at(Op::Verify)?;
        let stat = fs::stat(&node)?;
        // Where others may write, the name may stand for another file by now.
        if stat.st_mode & libc::S_IFMT != device.mode & libc::S_IFMT || stat.st_rdev != number {
            return Err(Errno::ENODEV).at(Op::Verify);
        }
        fs::chown(node, device.uid, device.gid)?;
    }
    Ok(())
}

fn bind(root: &Root, device: &Device) -> Done {
    let node = clone_tree(fs::CWD, &device.path, false).at(Op::OpenSource)?;
    let stat = fs::stat(&node)?;
    let kind = libc::S_IFMT;
    if stat.st_mode & kind != device.mode & kind
        || stat.st_rdev != libc::makedev(device.major, device.minor)
    {
        return Err(Errno::ENODEV).at(Op::Verify);
    }
    let target = root.make(&device.path, Missing::File)?;
    attach(node, target).at(Op::Attach)
}

/// Makes a link. /dev/ptmx must be the one of the container's own devpts, so whatever the image has there goes.
pub(crate) fn link(root: &Root, target: &CStr, path: &CStr) -> Done {
    let (parent, name) = root.parent(path)?;
    match fs::symlink(target, &parent, name) {
        Err(Errno::EEXIST) if name == c"ptmx" => {
            fs::unlink(&parent, name).at(Op::Create)?;
            fs::symlink(target, &parent, name).at(Op::Create)
        }
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).at(Op::Create),
    }
}

/// Standard streams that are the host's /dev/null become the container's: its mount and its cgroup device rules apply.
pub(crate) fn reopen_null(root: &Root, files: &Files) -> Done {
    let null = libc::makedev(1, 3);
    let mut inside = None;
    for number in 0..=2 {
        // A closed one is EBADF.
        let Ok(stat) = fs::stat_fd(number) else {
            continue;
        };
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != null {
            continue;
        }
        if inside.is_none() {
            match root.open_device(c"/dev/null", null, files) {
                // An image without /dev/null, under a bind-mounted /dev: the host's stays.
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
                Err(Errno::ENODEV) => return Err(Errno::ENODEV).at(Op::Verify),
                other => inside = Some(other.at(Op::Resolve)?),
            }
        }
        let Some(file) = &inside else { continue };
        fs::dup_onto(file, number)?;
    }
    Ok(())
}
