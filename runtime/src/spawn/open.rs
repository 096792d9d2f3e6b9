//! What the parent opens before the clone: namespaces, and mounts that init could not open or may not id-map.
//!
//! Runs in the runtime command. The maps of an id-mapped mount are those of a user namespace; for each pair of maps, a process that does
//! nothing lives for the moment in which its user namespace is set up and opened.

use super::birth::clone_error;
use super::id_maps::write_id_maps;
use crate::host::Host;
use crate::plan::idmap::{MountIdMap, UserNamespace};
use crate::plan::namespaces::IdMaps;
use crate::plan::{Open, Tree};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::mount::{MountAttr, clone_tree_with, mount_setattr};
use crate::sys::process::{CloneArgs, Cloned, clone3, exit, set_name};
use crate::sys::signal::wait_pidfd;
use crate::sys::{Errno, fs, socket};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

/// Opens all that a plan names, in its order.
pub(super) fn all(opens: &[Open], process: Option<&OwnedFd>, host: &Host) -> Result<Vec<OwnedFd>> {
    let mut opened = Vec::with_capacity(opens.len());
    let mut user_namespaces = Vec::new();
    for open in opens {
        let file = match open {
            Open::Namespace(path) => fs::open_follow(fs::CWD, path, libc::O_RDONLY)
                .context(|| format!("open namespace {}", path.to_string_lossy()))?,
            Open::Directory(path) => {
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                let opened = fs::open_follow(fs::CWD, path, flags);
                opened.context(|| format!("open {}", path.to_string_lossy()))?
            }
            Open::Tree(tree) => {
                let clone = open_tree(tree)?;
                if let Some(id_map) = &tree.id_map {
                    map_ids(&clone, id_map, &opened, &mut user_namespaces, host).context(|| {
                        format!("id-map mount source {}", tree.path.to_string_lossy())
                    })?;
                }
                clone
            }
            Open::Process => match process {
                Some(pidfd) => pidfd.try_clone().context(|| "duplicate a pidfd")?,
                None => {
                    return Err(Error::new(
                        Kind::State,
                        "the container has no process to join",
                    ));
                }
            },
        };
        opened.push(file);
    }
    Ok(opened)
}

fn open_tree(tree: &Tree) -> Result<OwnedFd> {
    let name = |path: &CString| path.to_string_lossy().into_owned();
    let mut flags = 0;
    if tree.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    if tree.keep_link {
        flags |= libc::AT_SYMLINK_NOFOLLOW;
    }
    let clone = clone_tree_with(fs::CWD, &tree.path, flags)
        .context(|| format!("open mount source {}", name(&tree.path)))?;
    let attr = MountAttr {
        propagation: tree.propagation,
        ..MountAttr::default()
    };
    match mount_setattr(&clone, true, &attr) {
        // KERNEL(5.12): drop this. Attaching in another user namespace makes it a slave all the same.
        Err(Errno::ENOSYS) => {}
        other => {
            other.context(|| format!("set the propagation of mount source {}", name(&tree.path)))?
        }
    }
    Ok(clone)
}

/// Makes a detached mount show ids as the maps say.
fn map_ids(
    tree: &OwnedFd,
    id_map: &MountIdMap,
    opened: &[OwnedFd],
    made: &mut Vec<(IdMaps, OwnedFd)>,
    host: &Host,
) -> Result<()> {
    let namespace = match &id_map.through {
        UserNamespace::Joined(slot) => &opened[slot.0],
        UserNamespace::Maps(maps) => {
            let at = match made.iter().position(|(known, _)| known == maps) {
                Some(at) => at,
                None => {
                    made.push((maps.clone(), user_namespace(maps, host)?));
                    made.len() - 1
                }
            };
            &made[at].1
        }
    };
    set_maps(tree, id_map, namespace)
}

/// The same for a mount that init has made, whose source is in the container's root.
pub(super) fn map_ids_late(
    tree: &OwnedFd,
    id_map: &MountIdMap,
    init: i32,
    host: &Host,
) -> Result<()> {
    let namespace = match &id_map.through {
        // Init has joined it.
        UserNamespace::Joined(_) => namespace_of(init)?,
        UserNamespace::Maps(maps) => user_namespace(maps, host)?,
    };
    set_maps(tree, id_map, &namespace)
}

fn set_maps(tree: &OwnedFd, id_map: &MountIdMap, namespace: &OwnedFd) -> Result<()> {
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    let hint = |errno| match errno {
        Errno::ENOSYS => "id-mapped mounts need Linux 5.12",
        Errno::EINVAL => "its file system may not support id-mapped mounts",
        Errno::EPERM => {
            "its file system must be mounted by this user namespace, and the mount must not be id-mapped already"
        }
        _ => "set the maps",
    };
    mount_setattr(tree, id_map.recursive, &attr).map_err(|errno| Error::os(hint(errno), errno))
}

/// A user namespace with these maps. It lasts as long as its file is open.
fn user_namespace(maps: &IdMaps, host: &Host) -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair().context(|| "create a socket pair")?;
    let flags = libc::CLONE_NEWUSER as u64;
    let cloned = clone3(CloneArgs {
        flags,
        cgroup: None,
    })
    .map_err(|errno| clone_error(flags, errno))?;
    match cloned {
        Cloned::Child => {
            set_name(c"caisson:[MAPS]").ok(); // only for ps
            // The end of file comes when the parent is done, or dead.
            drop(ours);
            fs::read(&theirs, &mut [0]).ok();
            exit(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let opened = write_id_maps(pid, maps, host).and_then(|()| namespace_of(pid));
            drop(ours);
            wait_pidfd(&pidfd).context(|| "reap the process that made a user namespace")?;
            opened
        }
    }
}

/// The user namespace of a process.
fn namespace_of(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let file = std::fs::File::open(&path).context(|| format!("open {path}"))?;
    Ok(file.into())
}
