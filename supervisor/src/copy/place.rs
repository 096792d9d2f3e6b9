//! Makes a container's tree the root of the process that copies: a mount namespace of its own, in which nothing is executed, no device is
//! opened and, for who only reads, nothing is written.
//!
//! Runs in that process, before it is confined. The paths of the host that it takes are the daemon's own; those of mounts in the tree are
//! resolved below the tree's root.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::find::{Found, What, find};
use super::{Bind, Ids, Overlay, Root};
use crate::layer::confine::pivot;
use crate::layer::tree::Tree;
use crate::sys::Restriction;

/// The number of the host's root in maps from the disk: what overlayfs has made for itself is his, and directories that are bound. Archives
/// have nobody in its place, and no file is given to it.
const HOSTS_ROOT: u32 = u32::MAX - 1;

/// What is done with the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Read,
    /// Without what is mounted in it.
    ReadAlone,
}

/// `namespace` is there for [`Root::Running`].
pub(super) fn enter(
    root: &Root,
    ids: Option<&Ids>,
    namespace: BorrowedFd<'_>,
    access: Access,
) -> Result<()> {
    let none = None::<&str>;
    let mut users = None;
    match root {
        Root::Running => {
            if ids.is_some() {
                let owner = crate::sys::owner_of(namespace);
                users = Some(owner.context("find the container's user namespace")?);
            }
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)
                .context("enter the container's mount namespace")?;
            // In our namespace its mounts are locked on each other, as they are another user namespace's: none could be looked below.
            let alone = (access == Access::ReadAlone).then(root_alone);
            let alone = alone.transpose().map_err(without_mounts)?;
            // Its mounts as they are now, in a namespace that is ours to restrict.
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
                .context("keep mounts to ourselves")?;
            nix::unistd::chdir("/").context("go to the root")?;
            if let Some(root) = alone {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                rustix::mount::move_mount(&root, "", CWD, "/", flags)
                    .context("mount its root file system")?;
                nix::unistd::fchdir(&root)?;
                pivot(Path::new(".")).context("make it the root")?;
            }
        }
        Root::Stopped(overlay) => {
            assemble(overlay, ids).context("mount the container's layers")?;
        }
        Root::Directory(path) => {
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            match ids {
                Some(ids) => map_in_place(path, &from_disk(ids)?)?,
                None => nix::mount::mount(Some(path), path, none, MsFlags::MS_BIND, none)?,
            }
            pivot(path).with_context(|| format!("make {} the root", path.display()))?;
        }
    }
    let restriction = match access {
        Access::Write => Restriction::Writable,
        Access::Read | Access::ReadAlone => Restriction::ReadOnly,
    };
    crate::sys::restrict_mounts(restriction).context("restrict the container's mounts")?;
    users.map_or(Ok(()), |users| {
        become_root_of(&users).context("become the container's root")
    })
}

/// What the root is, without what is mounted in it.
fn root_alone() -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, "/", flags)
}

fn without_mounts(errno: Errno) -> anyhow::Error {
    let error = anyhow::Error::new(errno);
    if errno == Errno::INVAL {
        return error.context("find its root file system: its first process has made itself another mount namespace, in a user namespace of its own, and nobody can look below mounts there; it can be exported when it has ended");
    }
    error.context("find its root file system")
}

/// From here on files have the ids that they have in the container, and we have no other rights than its root. Should one of its processes
/// see ours at all (`--pid host`), it can end it, but look at nothing of it: memory and descriptors belong to the namespace that we were
/// executed in.
fn become_root_of(users: &OwnedFd) -> nix::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    nix::sched::setns(users, CloneFlags::CLONE_NEWUSER)?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// The user namespace of a mount that shows files as the container sees them, which on the disk have the ids that it has on the host.
fn from_disk(ids: &Ids) -> Result<OwnedFd> {
    let map = |first: u32| format!("{first}:0:{},0:{HOSTS_ROOT}:1", ids.size);
    ::shim::user_namespace(&map(ids.first_uid), &map(ids.first_gid))
        .context("make a user namespace for mapped ids")
}

/// Mounts a directory on itself, id-mapped.
fn map_in_place(directory: &Path, users: &OwnedFd) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mapped = || -> std::io::Result<()> {
        let tree = rustix::mount::open_tree(CWD, directory, flags)?;
        crate::sys::id_map(tree.as_fd(), users.as_fd())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&tree, "", CWD, directory, flags)?)
    };
    mapped().with_context(|| format!("mount {} with mapped ids", directory.display()))
}

/// What a start would mount, below one of the container's own directories.
fn assemble(overlay: &Overlay, ids: Option<&Ids>) -> Result<()> {
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let directory = overlay.upper.parent().context("where the layers are")?;
    let store = directory.parent().and_then(Path::parent);
    let store = store.context("where the layers are")?;
    // The other way round than in a container: layers as they are, and changes as if they were made without a user namespace.
    if let Some(ids) = ids {
        map_in_place(directory, &from_disk(ids)?)?;
    }
    // Paths below it are short: many layers have room in a page of options, and none has a colon.
    nix::unistd::chdir(store)?;
    let short = |path: &Path| -> Result<String> {
        let path = path.strip_prefix(store)?;
        Ok(path.to_str().context("a path of the store")?.to_owned())
    };
    let lower: Vec<_> = overlay
        .lower
        .iter()
        .map(|path| short(path))
        .collect::<Result<_>>()?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},{}",
        lower.join(":"),
        short(&overlay.upper)?,
        short(&overlay.work)?,
        super::OVERLAY_OPTIONS.join(",")
    );
    ensure!(options.len() < 4096, "more layers than have room in a page");
    let flags = if overlay.read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    nix::mount::mount(
        Some("overlay"),
        directory,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )?;
    let root: OwnedFd = File::open(directory)?.into();
    for bind in &overlay.binds {
        add(&root, bind, ids).with_context(|| format!("mount {}", bind.source.display()))?;
    }
    drop(root);
    Ok(pivot(directory)?)
}

fn add(root: &OwnedFd, bind: &Bind, ids: Option<&Ids>) -> Result<()> {
    let tree = super::find::tree(&bind.source, &bind.within)?;
    if let Some(ids) = ids.filter(|_| bind.shifted) {
        crate::sys::id_map(tree.as_fd(), from_disk(ids)?.as_fd()).context("map its ids")?;
    }
    if bind.read_only {
        crate::sys::restrict_tree(tree.as_fd(), Restriction::ReadOnly)?;
    }
    let stat = rustix::fs::fstat(&tree)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let target = mountpoint(root, bind.target.as_bytes(), is_directory)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(&tree, "", &target, "", flags)?)
}

/// Made if it is missing, as a start makes it.
fn mountpoint(root: &OwnedFd, path: &[u8], directory: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH;
    match super::find::open(root.as_fd(), path, flags) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let made = if directory { path } else { &path[..above] };
    Tree::of_copies(root.try_clone()?, None).make_directory(made)?;
    if directory {
        return Ok(super::find::open(root.as_fd(), path, flags)?);
    }
    let Found { parent, name, what } = find(root.as_fd(), path, true)?;
    if let What::Nothing = what {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644))?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&parent, &name, flags, Mode::empty())?)
}
