//! Which mount sources init does not get for itself, in the mount namespace of a user namespace: those that its root cannot reach by path,
//! though its creator can, and id-mapped ones, which the creator makes.
//!
//! Runs in the runtime command, before the clone. Such a source is lent: see `init::lend`. That costs a process and a mount namespace more, so
//! it is asked first who needs it.

use crate::host::Host;
use crate::plan::namespaces::host_id;
use crate::plan::{Ids, Open, Plan, Slot, Step, Tree};
use crate::report::{Context, Result};
use crate::sys::mount::mount_flags;
use crate::sys::process::{parent_death_signal, set_parent_death_signal};
use crate::sys::{Errno, cred, fs};
use std::os::fd::OwnedFd;

/// The slots of what is lent. `opened`: what the plan names, opened.
pub(super) fn lent(plan: &Plan, opened: &[OwnedFd], host: &Host) -> Result<Vec<Slot>> {
    let in_user_namespace = |step: &Step| matches!(step, Step::BecomeRoot { .. });
    // A mount namespace that was joined has its own mounts already.
    if plan.birth.flags & libc::CLONE_NEWNS as u64 == 0 || !plan.steps.iter().any(in_user_namespace)
    {
        return Ok(Vec::new());
    }
    if plan.steps.iter().any(joins_mounts) {
        // It has no way to any source of its own.
        let trees = plan.opens.iter().enumerate();
        let trees = trees.filter(|(_, open)| matches!(open, Open::Tree(_)));
        return Ok(trees.map(|(at, _)| Slot(at)).collect());
    }
    let mut slots = unreachable(plan, host);
    for (at, open) in plan.opens.iter().enumerate() {
        if let Open::Tree(tree) = open
            && tree.id_map.is_some()
            && has_to_lock(tree, &opened[at])?
        {
            slots.push(Slot(at));
        }
    }
    Ok(slots)
}

/// Whether init goes into another mount namespace than the one that it is born in.
fn joins_mounts(step: &Step) -> bool {
    matches!(step, Step::Join(join) if join.flags & libc::CLONE_NEWNS as u64 != 0)
}

/// Whether the container could take something away from an id-mapped tree that it had as it was opened: flags, or mounts that cover
/// something.
fn has_to_lock(tree: &Tree, opened: &OwnedFd) -> Result<bool> {
    const LOCKED: u64 = libc::ST_RDONLY
        | libc::ST_NOSUID
        | libc::ST_NODEV
        | libc::ST_NOEXEC
        | libc::ST_NOATIME
        | libc::ST_NODIRATIME;
    if tree.recursive {
        return Ok(true);
    }
    let flags = mount_flags(opened)
        .context(|| format!("look at mount source {}", tree.path.to_string_lossy()))?;
    Ok(flags & LOCKED != 0)
}

/// The slots of what the container's root cannot reach.
fn unreachable(plan: &Plan, host: &Host) -> Vec<Slot> {
    let trees = plan.opens.iter().enumerate();
    let mut trees = trees.filter_map(|(at, open)| match open {
        Open::Tree(tree) if tree.id_map.is_none() => Some((Slot(at), &tree.path)),
        _ => None,
    });
    let Some(first) = trees.next() else {
        return Vec::new();
    };
    let root = root_on_host(plan);
    // Who started this command may have asked for its end with his own, which the kernel forgets when these ids change.
    let deadly = parent_death_signal();
    // The kernel walks paths with these ids, and with none of root's rights over files if they are not root's (capabilities(7)).
    cred::set_fs_ids(root.uid, root.gid);
    let closed = std::iter::once(first).chain(trees).filter(|(_, path)| {
        let opened = fs::open_follow(fs::CWD, path, libc::O_PATH);
        matches!(opened, Err(Errno::EACCES))
    });
    let slots = closed.map(|(slot, _)| slot).collect();
    cred::set_fs_ids(host.euid, host.egid);
    if let Ok(signal) = deadly
        && signal != 0
    {
        set_parent_death_signal(signal).ok(); // it was one
    }
    slots
}

/// Who init is when it opens sources. In a user namespace that is joined, that is anybody.
fn root_on_host(plan: &Plan) -> Ids {
    /// The kernel's default for ids that are none.
    const NOBODY: u32 = 65534;
    let otherwise = plan.steps.iter().find_map(|step| match step {
        Step::BecomeRoot { otherwise } => Some(*otherwise),
        _ => None,
    });
    let (Some(maps), Some(otherwise)) = (&plan.birth.id_maps, otherwise) else {
        return Ids {
            uid: NOBODY,
            gid: NOBODY,
        };
    };
    let one = |maps, other| host_id(maps, 0).or_else(|| host_id(maps, other));
    Ids {
        uid: one(&maps.uids, otherwise.uid).unwrap_or(NOBODY),
        gid: one(&maps.gids, otherwise.gid).unwrap_or(NOBODY),
    }
}
