//! Which mount sources the root of a user namespace cannot reach by path, though its creator can.
//!
//! Runs in the runtime command, before the clone. Such a source is lent: see `init::lend`. That costs a process and a mount namespace more, so
//! it is asked first who needs it.

use crate::host::Host;
use crate::plan::namespaces::host_id;
use crate::plan::{Ids, Open, Plan, Slot, Step};
use crate::sys::{Errno, cred, fs};

/// The slots of these sources.
pub(super) fn unreachable(plan: &Plan, host: &Host) -> Vec<Slot> {
    let trees = plan.opens.iter().enumerate();
    let mut trees = trees.filter_map(|(at, open)| match open {
        // What is id-mapped is attached as the parent has opened it.
        Open::Tree(tree) if tree.id_map.is_none() => Some((Slot(at), &tree.path)),
        _ => None,
    });
    // A mount namespace that was joined has its own mounts already.
    if plan.birth.flags & libc::CLONE_NEWNS as u64 == 0 {
        return Vec::new();
    }
    let Some(first) = trees.next() else {
        return Vec::new();
    };
    let root = root_on_host(plan);
    // The kernel walks paths with these ids, and with none of root's rights over files if they are not root's (capabilities(7)).
    cred::set_fs_ids(root.uid, root.gid);
    let closed = std::iter::once(first).chain(trees).filter(|(_, path)| {
        let opened = fs::open_follow(fs::CWD, path, libc::O_PATH);
        matches!(opened, Err(Errno::EACCES))
    });
    let slots = closed.map(|(slot, _)| slot).collect();
    cred::set_fs_ids(host.euid, host.egid);
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
