//! The root file system: mounting it, making it the root, read-only and masked paths.
//!
//! Runs in init, in the container's mount namespace. Host paths appear only before the root is changed.

use super::root::{Missing, Root};
use super::{At, Done, Fail, Files, Init, mount, overlay, with_fd_path};
use crate::plan::Op;
use crate::plan::rootfs::{Root as Planned, Source};
use crate::sys::mount::{
    MountAttr, attach, clone_tree, detach, fsconfig_create, fsconfig_string, fsmount, fsopen,
    mount as mount2, mount_of_root,
};
use crate::sys::{Errno, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

/// Mounts the root's content over the root directory, in the container's mount namespace only, and opens it.
pub(crate) fn mount_root(planned: &Planned, files: &Files) -> Done<Root> {
    // A container without a mount namespace takes the directory as it is.
    let target = fs::open_follow(fs::CWD, &planned.path, libc::O_PATH | libc::O_DIRECTORY);
    let tree = match &planned.source {
        Source::Directory { slot } => {
            let cloned = target.as_ref().map_err(|errno| *errno);
            let tree = cloned.and_then(|target| clone_tree(target, c"", true));
            match (tree, files.lent(*slot)) {
                (Err(Errno::EACCES), Some(lent)) => lent.at(Op::CloneSource)?,
                (tree, _) => {
                    let tree = tree.at(Op::CloneSource)?;
                    mount::set_propagation(files, &tree, libc::MS_PRIVATE, false)
                        .at(Op::SetPropagation)?;
                    tree
                }
            }
        }
        Source::Overlay(layers) => {
            let target = reachable(target).at(Op::OpenSource)?;
            let tree = overlay::assemble(layers, &target, files)?;
            attach(&tree, &target).at(Op::Attach)?;
            return Ok(Root::new(tree));
        }
    };
    attach(&tree, reachable(target).at(Op::OpenSource)?).at(Op::Attach)?;
    Ok(Root::new(tree))
}

/// Where the user namespace may not reach the directory, `/` serves as well: only hooks that look for the path would notice.
fn reachable(target: crate::sys::Result<OwnedFd>) -> crate::sys::Result<OwnedFd> {
    match target {
        Err(Errno::EACCES) => fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY),
        other => other,
    }
}

/// Makes the mount that holds the root directory private: pivot_root(2) refuses a shared parent.
pub(crate) fn make_parent_private(path: &CStr) -> Done {
    let mut buffer = [0; libc::PATH_MAX as usize];
    let bytes = path.to_bytes();
    if bytes.len() + 1 >= buffer.len() {
        return Err(Fail::from(Errno::ENAMETOOLONG));
    }
    buffer[..bytes.len()].copy_from_slice(bytes);
    let mut length = bytes.len();
    // EINVAL says that the path is not where a mount begins: its parent is tried.
    loop {
        buffer[length] = 0;
        let path = CStr::from_bytes_until_nul(&buffer).map_err(|_| Fail::from(Errno::EINVAL))?;
        match mount2(None, path, None, libc::MS_PRIVATE, None) {
            Err(Errno::EINVAL) if length > 1 => {
                length = buffer[..length]
                    .iter()
                    .rposition(|b| *b == b'/')
                    .unwrap_or(0)
                    .max(1);
            }
            other => return Ok(other?),
        }
    }
}

/// pivot_root(2) into the root, and away with the host's tree.
pub(crate) fn pivot(root: &Root) -> Done {
    let old = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    fs::chdir(root)?;
    crate::sys::mount::pivot_root_here()?;
    // The old root is stacked on the new one now. Its mounts may be shared with the host: the unmount must not propagate.
    fs::chdir(&old)?;
    mount2(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None).at(Op::SetPropagation)?;
    detach(c".")?;
    nix::unistd::chdir(c"/")?;
    Ok(())
}

/// For roots on a ramfs, where pivot_root(2) is not possible: moves the root over `/` and enters it. Mounts of /proc and /sys that the
/// host's tree shows in full go first, since they would stay reachable.
pub(crate) fn move_root(root: &Root) -> Done {
    for path in [c"/proc", c"/sys"] {
        match mount2(None, path, None, libc::MS_SLAVE | libc::MS_REC, None)
            .and_then(|()| detach(path))
        {
            Ok(()) | Err(Errno::ENOENT) => {}
            // Not ours to unmount: a user namespace locks what it inherited, which umount2(2) tells as it tells of what is no mount. Covered instead.
            Err(Errno::EPERM | Errno::EINVAL) => cover_with_tmpfs(path)?,
            Err(errno) => return Err(Fail::from(errno)),
        }
    }
    let slash = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    fs::chdir(root)?;
    attach(root, &slash).at(Op::Attach)?;
    fs::chroot_here()?;
    nix::unistd::chdir(c"/")?;
    Ok(())
}

fn cover_with_tmpfs(path: &CStr) -> Done {
    mount2(Some(c"tmpfs"), path, Some(c"tmpfs"), 0, None).at(Op::MakeMount)
}

/// chroot(2), for a container that shares its mount namespace.
pub(crate) fn chroot(root: impl AsFd) -> Done {
    fs::chdir(root)?;
    fs::chroot_here()?;
    nix::unistd::chdir(c"/")?;
    Ok(())
}

/// Binds a path over itself, read-only. What does not exist needs no protection.
pub(crate) fn make_readonly(root: &Root, path: &CStr, files: &Files) -> Done {
    let target = match root.open(path, libc::O_PATH) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other.at(Op::Resolve)?,
    };
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    // What is mounted over the root is not what the container has as its root.
    let at = mount_of_root(&target).at(Op::Verify)?;
    if at.is_some() && at == mount_of_root(root).at(Op::Verify)? {
        return mount::set_attributes(files, &target, &attr, false).at(Op::SetAttributes);
    }
    let tree = clone_tree(&target, c"", true).at(Op::CloneSource)?;
    mount::place(files, &tree, &target, &[(attr, false)], &[])
}

/// Sets attributes of the mount that is at a path.
pub(crate) fn restrict(root: &Root, path: &CStr, attributes: u64, files: &Files) -> Done {
    let target = match root.open(path, libc::O_PATH) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other.at(Op::Resolve)?,
    };
    let attr = MountAttr {
        set: attributes,
        ..MountAttr::default()
    };
    mount::set_attributes(files, &target, &attr, false).at(Op::SetAttributes)
}

impl Init {
    /// Mounts whose `ro` had to wait until everything was made inside.
    pub(crate) fn late_readonly(&mut self) -> Done {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        while let Some(fd) = self.files.kept.pop() {
            mount::set_attributes(&self.files, &fd, &attr, false).at(Op::SetAttributes)?;
        }
        Ok(())
    }

    /// Unmounts the root again, with what was mounted in it.
    pub(crate) fn leave_root(&mut self, path: &CStr) -> Done {
        self.root = None;
        self.files.kept.clear();
        Ok(detach(path)?)
    }

    /// Unmounts what is mounted at a path: where that leads to, as for who mounted it, or on the link itself.
    pub(crate) fn unmount(&self, path: &CStr) -> Done {
        let root = self.root()?;
        let target = root.open(path, libc::O_PATH).at(Op::Resolve)?;
        match with_fd_path(&self.files, &target, detach) {
            Err(Errno::EINVAL) => {
                let link = root.open_last(path).at(Op::Resolve)?;
                Ok(with_fd_path(&self.files, &link, detach)?)
            }
            done => Ok(done?),
        }
    }

    pub(crate) fn root_readonly(&self) -> Done {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        mount::set_attributes(&self.files, self.root()?, &attr, false).at(Op::SetAttributes)
    }
}

/// What masked paths are covered with: never anything from the container's own tree (CVE-2025-31133).
#[derive(Debug, Default)]
pub(crate) struct Masks {
    null: Option<Mask>,
    empty: Option<Mask>,
}

/// A mount to cover things with: the first use attaches it, later ones attach copies of it.
#[derive(Debug)]
struct Mask {
    mount: OwnedFd,
    attached: bool,
}

impl Mask {
    fn new(mount: OwnedFd) -> Self {
        Mask {
            mount,
            attached: false,
        }
    }

    fn cover(&mut self, target: &OwnedFd, files: &Files) -> Done {
        if self.attached {
            // Kernels before 6.15 copy only what is attached in this namespace, as this is since its first use.
            let copy = clone_tree(&self.mount, c"", false).at(Op::CloneSource)?;
            return attach(copy, target).at(Op::Attach);
        }
        // The inode is the host's /dev/null, and root in the container its owner, who could take it from everybody by chmod(2).
        let readonly = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        // Its peer, if the host's is shared and `rootfsPropagation` lets it be, would be mounted over with it.
        let private = (libc::MS_PRIVATE, false);
        mount::place(files, &self.mount, target, &[(readonly, false)], &[private])?;
        self.attached = true;
        Ok(())
    }
}

impl Masks {
    /// Takes the host's /dev/null while it is reachable, and checks that it is the null device.
    pub(crate) fn open_null(&mut self) -> Done {
        let null = clone_tree(fs::CWD, c"/dev/null", false).at(Op::CloneSource)?;
        let stat = fs::stat(&null)?;
        let is_null =
            stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
        if !is_null {
            return Err(Errno::ENODEV).at(Op::Verify);
        }
        self.null = Some(Mask::new(null));
        Ok(())
    }

    /// Makes what covers a path read-only, and covers it if nothing does.
    pub(crate) fn cover_again(&mut self, root: &Root, path: &CStr, files: &Files) -> Done {
        match restrict(root, path, libc::MOUNT_ATTR_RDONLY, files) {
            // No mount begins there.
            Err(fail) if fail.errno == Errno::EINVAL => self.cover(root, path, files),
            done => done,
        }
    }

    /// Covers a directory with an empty read-only one, anything else with the null device. What does not exist needs no mask.
    pub(crate) fn cover(&mut self, root: &Root, path: &CStr, files: &Files) -> Done {
        let target = match root.open(path, libc::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            other => other.at(Op::Resolve)?,
        };
        if fs::stat(&target)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return self
                .null
                .as_mut()
                .ok_or(Errno::ENODEV)
                .at(Op::Verify)?
                .cover(&target, files);
        }
        if self.empty.is_none() {
            self.empty = Some(Mask::new(empty_directory()?));
        }
        self.empty
            .as_mut()
            .ok_or(Errno::ENODEV)?
            .cover(&target, files)
    }
}

/// A read-only tmpfs with room for nothing but its root.
pub(crate) fn empty_directory() -> Done<OwnedFd> {
    let tmpfs = fsopen(c"tmpfs").at(Op::OpenFilesystem)?;
    for (key, value) in [
        (c"nr_blocks", c"1"),
        (c"nr_inodes", c"1"),
        (c"mode", c"0755"),
    ] {
        fsconfig_string(&tmpfs, key, value).at(Op::Configure)?;
    }
    crate::sys::mount::fsconfig_flag(&tmpfs, c"ro").at(Op::Configure)?;
    fsconfig_create(&tmpfs).at(Op::CreateSuperblock)?;
    fsmount(&tmpfs, libc::MOUNT_ATTR_RDONLY).at(Op::MakeMount)
}

/// A mount target of the kind that the source is: a directory for a directory, else a file.
pub(crate) fn target_for(root: &Root, path: &CStr, source: &OwnedFd) -> Done<OwnedFd> {
    let is_directory = fs::stat(source)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    root.make(
        path,
        if is_directory {
            Missing::Directory
        } else {
            Missing::File
        },
    )
}
