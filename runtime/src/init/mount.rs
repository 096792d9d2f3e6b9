//! The mounts of the config: each is made detached, gets its attributes, and is then attached from descriptor to descriptor.
//!
//! Runs in init. There is no moment in which a mount is visible with fewer restrictions than asked for, and no second walk of
//! a path between the check and the use (CVE-2021-30465).

use super::root::{Missing, Root};
use super::{At, Digits, Done, Fail, Files, Init, TEXT, copy_up, rootfs, with_fd_path};
use crate::plan::Op;
use crate::plan::mounts::{Bind, Filesystem, Kind, Mount};
use crate::sync::{self, Message};
use crate::sys::mount::{
    MountAttr, attach, clone_tree, clone_tree_with, fs_magic, fsconfig_create, fsconfig_flag,
    fsconfig_string, fsmount, fsopen, mount as mount2, mount_flags, mount_of_root, mount_setattr,
};
use crate::sys::{Errno, Result, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

impl Init {
    /// Makes one mount of the config.
    pub(crate) fn mount(&mut self, mount: &Mount) -> Done {
        let root = self.root.as_ref().ok_or(Errno::ENOENT)?;
        match &mount.kind {
            Kind::Bind(bind) if bind.links.copy && copy_link(root, mount, bind)? => Ok(()),
            Kind::Bind(bind) => {
                let tree = self.source(bind)?;
                self.bind(root, mount, &tree)
            }
            Kind::Cgroup {
                filesystem,
                fallback,
            } => match new_filesystem(filesystem, mount, None) {
                Ok(tree) => {
                    let target = root.make_directory(&mount.target)?;
                    check_target(&target, mount, false)?;
                    place(
                        &self.files,
                        &tree,
                        &target,
                        &recursive(mount),
                        &mount.propagation,
                    )
                }
                Err(fail) if matches!(fail.errno, Errno::EPERM | Errno::EBUSY) => {
                    let tree = match fallback {
                        Some(fallback) => {
                            clone_tree(fs::CWD, fallback, false).at(Op::OpenSource)?
                        }
                        None => rootfs::empty_directory()?,
                    };
                    self.bind(root, mount, &tree)
                }
                Err(fail) => Err(fail),
            },
            Kind::Empty => self.bind(root, mount, &rootfs::empty_directory()?),
            Kind::Filesystem(filesystem) => {
                let kept = match filesystem.remount() {
                    Some((flags, data)) => self.remount(root, filesystem, mount, flags, data)?,
                    None => self.filesystem(root, filesystem, mount)?,
                };
                if self.files.own_mounts.capacity() > 0 && filesystem.is_own() {
                    let made = root.open(&mount.target, libc::O_PATH).at(Op::Resolve)?;
                    let id = mount_of_root(made).at(Op::Verify)?;
                    self.files.own_mounts.extend(id);
                }
                // Room was reserved before the clone.
                self.files.kept.extend(kept);
                Ok(())
            }
        }
    }

    /// The detached mount that a bind attaches.
    fn source(&self, bind: &Bind) -> Done<OwnedFd> {
        if let Some(slot) = bind.slot
            && (bind.outside || bind.id_map.is_some())
        {
            let opened = self.files.slots[slot.0].try_clone();
            return opened.map_err(|_| Errno::EMFILE).at(Op::OpenSource);
        }
        let mut flags = 0;
        if bind.recursive {
            flags |= libc::AT_RECURSIVE;
        }
        if bind.links.keep_source {
            flags |= libc::AT_SYMLINK_NOFOLLOW;
        }
        match clone_tree_with(fs::CWD, &bind.source, flags) {
            // Not reachable for the root of this user namespace. What was opened outside will not do unlent: it has no locks.
            Err(Errno::EACCES) => {
                let lent = self.files.lent(bind.slot);
                lent.unwrap_or(Err(Errno::EACCES)).at(Op::OpenSource)
            }
            Err(Errno::EINVAL) if !bind.recursive => Err(Errno::EINVAL).at(Op::LockedBelow),
            cloned => {
                let tree = cloned.at(Op::OpenSource)?;
                if bind.id_map.is_some() {
                    // The root of a user namespace has no right over the source's file system: the parent has.
                    let asked = Message::IdMap { step: bind.step };
                    sync::hand_over(&self.files.sync, &asked, tree.as_fd())
                        .and_then(|()| sync::await_go(&self.files.sync))
                        .at(Op::Protocol)?;
                }
                Ok(tree)
            }
        }
    }

    fn bind(&self, root: &Root, mount: &Mount, tree: &OwnedFd) -> Done {
        let (keep_flags, keep_target) = match &mount.kind {
            Kind::Bind(bind) => (bind.keep_flags, bind.links.keep_target),
            _ => (false, false),
        };
        let target = match keep_target.then(|| root.open_last(&mount.target)) {
            None | Some(Err(Errno::ENOENT)) => rootfs::target_for(root, &mount.target, tree)?,
            Some(found) => found.at(Op::Resolve)?,
        };
        let over_proc = mount.target.as_c_str() == c"/proc";
        if over_proc && fs_magic(tree).at(Op::Verify)? != libc::PROC_SUPER_MAGIC {
            return Err(Errno::EINVAL).at(Op::Forbidden);
        }
        check_target(&target, mount, over_proc)?;
        // Words that say nothing about flags leave the source's as they are.
        if mount.set != 0 || mount.clear != 0 {
            return self.bind_with_flags(mount, tree, &target, keep_flags);
        }
        place(
            &self.files,
            tree,
            &target,
            &recursive(mount),
            &mount.propagation,
        )
    }

    /// A bind with flags has exactly these flags, as mount(8) has it. Flags that the kernel locked (the mount comes from a more privileged
    /// user namespace) stay, unless a word clears one explicitly: that is an error.
    fn bind_with_flags(
        &self,
        mount: &Mount,
        tree: &OwnedFd,
        target: &OwnedFd,
        keep_flags: bool,
    ) -> Done {
        let all = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let others = if keep_flags { 0 } else { all & !mount.set };
        let clear = others | mount.clear;
        let exact = MountAttr {
            set: mount.set,
            clear,
            ..MountAttr::default()
        };
        match place(
            &self.files,
            tree,
            target,
            &with_recursive(exact, mount),
            &mount.propagation,
        ) {
            Err(fail) if fail.errno == Errno::EPERM && fail.op == Op::SetAttributes => {
                // The one flag that is never locked.
                let unlocked = others & libc::MOUNT_ATTR_NOSYMFOLLOW;
                let asked = MountAttr {
                    set: mount.set,
                    clear: mount.clear | unlocked,
                    ..MountAttr::default()
                };
                let (attrs, propagation) = (with_recursive(asked, mount), &mount.propagation);
                match mount_setattr(tree, false, &asked) {
                    // KERNEL(5.12): drop this. It is attached already.
                    Err(Errno::ENOSYS) => change(&self.files, tree, &attrs, propagation),
                    _ => place(&self.files, tree, target, &attrs, propagation),
                }
            }
            other => other,
        }
    }

    /// A new file system. Returns the mount if it has to become read-only later.
    fn filesystem(
        &self,
        root: &Root,
        filesystem: &Filesystem,
        mount: &Mount,
    ) -> Done<Option<OwnedFd>> {
        let strict = matches!(filesystem.fstype.to_bytes(), b"proc" | b"sysfs");
        let (target, existed) = directory_target(root, &mount.target, strict)?;
        check_target(&target, mount, filesystem.fstype.as_c_str() == c"proc")?;
        let mode = if existed && filesystem.inherit_mode {
            Some(Digits::new("0", fs::stat(&target)?.st_mode & 0o7777, 8))
        } else {
            None
        };
        if let Some((flags, data)) = &filesystem.legacy {
            return self.legacy(filesystem, mount, &target, *flags, data);
        }
        let tree = match new_filesystem(filesystem, mount, mode.as_ref()) {
            Err(fail) if fail.errno == Errno::EPERM && filesystem.fallback.is_some() => {
                let source = filesystem.fallback.as_ref().ok_or(Errno::EPERM)?;
                let tree = clone_tree(fs::CWD, source, true).at(Op::OpenSource)?;
                self.bind(root, mount, &tree)?;
                return Ok(None);
            }
            other => other?,
        };
        if filesystem.copy_up && existed {
            copy_up::copy(&target, &tree).at(Op::CopyUp)?;
        }
        place(
            &self.files,
            &tree,
            &target,
            &recursive(mount),
            &mount.propagation,
        )?;
        Ok(mount.late_readonly.then_some(tree))
    }

    /// Changes what is mounted there. A file system that others have as well stays what it is to them: only this mount's flags change.
    fn remount(
        &self,
        root: &Root,
        filesystem: &Filesystem,
        mount: &Mount,
        flags: u64,
        data: &CStr,
    ) -> Done<Option<OwnedFd>> {
        let target = root.open(&mount.target, libc::O_PATH).at(Op::Resolve)?;
        let at = mount_of_root(&target).at(Op::Verify)?;
        if at.is_some_and(|id| self.files.own_mounts.contains(&id)) {
            return self.legacy(filesystem, mount, &target, flags, data);
        }
        if at.is_none() || !data.is_empty() {
            return Err(Errno::EINVAL).at(Op::NotOwn);
        }
        let asked = MountAttr {
            set: mount.set,
            clear: mount.clear,
            ..MountAttr::default()
        };
        let attrs = with_recursive(asked, mount);
        change(&self.files, &target, &attrs, &mount.propagation)?;
        Ok(mount.late_readonly.then_some(target))
    }

    /// mount(2), for parameters that fsconfig(2) does not take. The target is still a descriptor.
    fn legacy(
        &self,
        filesystem: &Filesystem,
        mount: &Mount,
        target: &OwnedFd,
        flags: u64,
        data: &CStr,
    ) -> Done<Option<OwnedFd>> {
        with_fd_path(&self.files, target, |path| {
            mount2(
                Some(&filesystem.source),
                path,
                Some(&filesystem.fstype),
                flags,
                Some(data),
            )
        })
        .at(Op::MakeMount)?;
        let root = self.root()?;
        let mounted = root
            .open(&mount.target, libc::O_PATH | libc::O_DIRECTORY)
            .at(Op::Resolve)?;
        change(&self.files, &mounted, &recursive(mount), &mount.propagation)?;
        Ok(mount.late_readonly.then_some(mounted))
    }
}

/// Makes a link like the source, if that is one. A link that says the same may be there already.
fn copy_link(root: &Root, mount: &Mount, bind: &Bind) -> Done<bool> {
    let mut wanted = [0; libc::PATH_MAX as usize];
    let length = match fs::readlink(fs::CWD, &bind.source, &mut wanted) {
        Err(Errno::EINVAL) => return Ok(false),
        other => other.at(Op::OpenSource)?,
    };
    // `readlink` leaves room for the NUL.
    let target = CStr::from_bytes_until_nul(&wanted).map_err(|_| Fail::from(Errno::EINVAL))?;
    let (directory, name) = root.parent(&mount.target)?;
    match fs::symlink(target, &directory, name) {
        Err(Errno::EEXIST) => {
            let mut found = [0; libc::PATH_MAX as usize];
            match fs::readlink(&directory, name, &mut found) {
                Ok(n) if found[..n] == wanted[..length] => Ok(true),
                _ => Err(Errno::EEXIST).at(Op::Create),
            }
        }
        other => other.map(|()| true).at(Op::Create),
    }
}

/// The directory to mount on, and whether it was there before. For proc and sysfs it must not be a link: a mount of /proc elsewhere would
/// leave the image's own /proc in place (CVE-2019-19921, CVE-2023-27561).
fn directory_target(root: &Root, path: &CStr, strict: bool) -> Done<(OwnedFd, bool)> {
    let found = if strict {
        root.open_last(path)
    } else {
        root.open(path, libc::O_PATH)
    };
    match found {
        Err(Errno::ENOENT) => Ok((root.make(path, Missing::Directory)?, false)),
        other => {
            let target = other.at(Op::Resolve)?;
            if fs::stat(&target)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(Errno::ENOTDIR).at(if strict { Op::Forbidden } else { Op::Resolve });
            }
            Ok((target, true))
        }
    }
}

/// Nothing may be mounted inside a procfs but the few files that may be covered, whatever path led there.
fn check_target(target: &OwnedFd, mount: &Mount, is_proc: bool) -> Done {
    if !is_proc
        && !mount.covers_proc_file
        && fs_magic(target).at(Op::Verify)? == libc::PROC_SUPER_MAGIC
    {
        return Err(Errno::EINVAL).at(Op::Forbidden);
    }
    Ok(())
}

/// A detached mount of a new superblock.
fn new_filesystem(filesystem: &Filesystem, mount: &Mount, mode: Option<&Digits>) -> Done<OwnedFd> {
    let context = fsopen(&filesystem.fstype).at(Op::OpenFilesystem)?;
    let told = |op: Op| {
        let context = &context;
        move |errno: Errno| explain(context, op, errno)
    };
    fsconfig_string(&context, c"source", &filesystem.source).map_err(told(Op::Configure))?;
    if let Some(mode) = mode {
        fsconfig_string(&context, c"mode", mode.as_c_str()).map_err(told(Op::Configure))?;
    }
    for (key, value) in &filesystem.params {
        match value {
            Some(value) => fsconfig_string(&context, key, value),
            None => fsconfig_flag(&context, key),
        }
        .map_err(told(Op::Configure))?;
    }
    fsconfig_create(&context).map_err(told(Op::CreateSuperblock))?;
    match fsmount(&context, mount.set) {
        Err(Errno::EPERM) => Err(Errno::EPERM).at(Op::TooRevealing),
        made => made.map_err(told(Op::MakeMount)),
    }
}

/// A failure with what the kernel wrote about it into the context: `tmpfs: Bad value for 'size'`.
pub(crate) fn explain(context: &OwnedFd, op: Op, errno: Errno) -> Fail {
    let mut fail = Fail {
        op,
        ..Fail::from(errno)
    };
    let mut line = [0; TEXT];
    // Each read returns one message, as `e text`; the last error is the one that counts.
    while let Ok(length @ 1..) = fs::read(context, &mut line) {
        if let Some(text) = line[..length].strip_prefix(b"e ") {
            fail.text[..text.len()].copy_from_slice(text);
            fail.text_len = text.len();
        }
    }
    fail
}

fn recursive(mount: &Mount) -> [(MountAttr, bool); 1] {
    [(mount.recursive, true)]
}

fn with_recursive(attr: MountAttr, mount: &Mount) -> [(MountAttr, bool); 2] {
    [(attr, false), (mount.recursive, true)]
}

/// Gives a detached mount its attributes and propagation, then attaches it.
pub(crate) fn place(
    files: &Files,
    tree: &OwnedFd,
    target: &OwnedFd,
    attrs: &[(MountAttr, bool)],
    propagation: &[(u64, bool)],
) -> Done {
    for (at, (attr, recursive)) in changes(attrs).enumerate() {
        match mount_setattr(tree, *recursive, attr) {
            // KERNEL(5.12): drop this. mount(2) knows attached mounts only; nothing runs in the container yet that could use the moment.
            Err(Errno::ENOSYS) if at == 0 => {
                attach_kind(tree, target)?;
                return change(files, tree, attrs, propagation);
            }
            other => other.at(Op::SetAttributes)?,
        }
    }
    attach_kind(tree, target)?;
    propagate(files, tree, propagation)
}

/// The kernel says EINVAL of a directory over a file and the other way round, where mount(2) said ENOTDIR, which engines have a hint for.
fn attach_kind(tree: &OwnedFd, target: &OwnedFd) -> Done {
    let attached = attach(tree, target);
    if attached == Err(Errno::EINVAL) {
        let is_directory =
            |fd| fs::stat(fd).map(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if is_directory(tree)? != is_directory(target)? {
            return Err(Errno::ENOTDIR).at(Op::Attach);
        }
    }
    attached.at(Op::Attach)
}

/// The attributes that say anything.
fn changes(attrs: &[(MountAttr, bool)]) -> impl Iterator<Item = &(MountAttr, bool)> {
    let none = MountAttr::default();
    attrs.iter().filter(move |(attr, _)| *attr != none)
}

/// Gives an attached mount its attributes and propagation.
fn change(
    files: &Files,
    mount: &OwnedFd,
    attrs: &[(MountAttr, bool)],
    propagation: &[(u64, bool)],
) -> Done {
    for (attr, recursive) in changes(attrs) {
        set_attributes(files, mount, attr, *recursive).at(Op::SetAttributes)?;
    }
    propagate(files, mount, propagation)
}

fn propagate(files: &Files, tree: &OwnedFd, propagation: &[(u64, bool)]) -> Done {
    for (flag, recursive) in propagation {
        set_propagation(files, tree, *flag, *recursive).at(Op::SetPropagation)?;
    }
    Ok(())
}

/// Changes the attributes of a mount.
pub(crate) fn set_attributes(
    files: &Files,
    mount: impl AsFd,
    attr: &MountAttr,
    recursive: bool,
) -> Result<()> {
    match mount_setattr(&mount, recursive, attr) {
        // KERNEL(5.12): drop this.
        Err(Errno::ENOSYS) if !recursive => remount(files, mount, attr),
        other => other,
    }
}

/// Changes the propagation of a mount (`MS_SHARED`, …).
pub(crate) fn set_propagation(
    files: &Files,
    mount: impl AsFd,
    flag: u64,
    recursive: bool,
) -> Result<()> {
    match mount_setattr(
        &mount,
        recursive,
        &MountAttr {
            propagation: flag,
            ..MountAttr::default()
        },
    ) {
        // KERNEL(5.12): drop this.
        Err(Errno::ENOSYS) => {
            let flag = if recursive { flag | libc::MS_REC } else { flag };
            with_fd_path(files, mount, |path| mount2(None, path, None, flag, None))
        }
        other => other,
    }
}

/// mount(2) with MS_REMOUNT and MS_BIND, which replaces all flags of an attached mount.
fn remount(files: &Files, mount: impl AsFd, attr: &MountAttr) -> Result<()> {
    /// linux/statfs.h
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    const FLAGS: [(u64, u64, u64); 6] = [
        (libc::ST_RDONLY, libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (libc::ST_NOSUID, libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
        (
            libc::ST_NODIRATIME,
            libc::MOUNT_ATTR_NODIRATIME,
            libc::MS_NODIRATIME,
        ),
        (
            ST_NOSYMFOLLOW,
            libc::MOUNT_ATTR_NOSYMFOLLOW,
            crate::plan::mounts::MS_NOSYMFOLLOW,
        ),
    ];
    let current = mount_flags(&mount)?;
    let mut flags = libc::MS_REMOUNT | libc::MS_BIND;
    for (st, attribute, ms) in FLAGS {
        if attr.set & attribute != 0 || (current & st != 0 && attr.clear & attribute == 0) {
            flags |= ms;
        }
    }
    // Each mode is named: the kernel keeps the one that was there only if no flag of access times is given.
    flags |= match (attr.clear & libc::MOUNT_ATTR__ATIME, attr.set) {
        (0, _) if current & libc::ST_NOATIME != 0 => libc::MS_NOATIME,
        (0, _) if current & libc::ST_RELATIME != 0 => libc::MS_RELATIME,
        (0, _) => libc::MS_STRICTATIME,
        (_, set) => match set & libc::MOUNT_ATTR__ATIME {
            libc::MOUNT_ATTR_NOATIME => libc::MS_NOATIME,
            libc::MOUNT_ATTR_STRICTATIME => libc::MS_STRICTATIME,
            _ => libc::MS_RELATIME,
        },
    };
    with_fd_path(files, mount, |path| mount2(None, path, None, flags, None))
}
