//! Keyring, groups, ids and capabilities.
//!
//! Runs in init. The order is the plan's.

use super::{At, Done, Fail};
use crate::plan::{Ids, Op};
use crate::sys::{Errno, cred, fs, process};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// Joins the container's session keyring, so that the host's is out of reach, and lets the owner search it.
pub(crate) fn join_keyring(name: &CStr) -> Done {
    /// What a new session keyring has, and KEY_USR_SEARCH (keyctl(2), linux/key.h).
    const PERMISSIONS: u32 = 0x3f13_0000 | 0x0008_0000;
    match process::join_session_keyring(name) {
        // A kernel without keyrings has none to hide.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(Fail::from(errno)),
        // EACCES: the keyring is another process's of the same container, which gave it the permissions.
        Ok(serial) => match process::set_key_permissions(serial, PERMISSIONS) {
            Ok(()) | Err(Errno::EACCES) => Ok(()),
            Err(errno) => Err(Fail::from(errno)),
        },
    }
}

/// Drops every capability from the bounding set that is not in `keep`. EINVAL marks the end of what the kernel knows.
pub(crate) fn limit_bounding_set(keep: u64) -> Done {
    for capability in (0..64).filter(|capability| keep & (1 << capability) == 0) {
        match process::drop_bounding(capability) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Fail::from(errno)),
        }
    }
    Ok(())
}

/// Gives the standard streams to the user, so that he can open /dev/stdout. Not devices but terminals, which are everybody's, nor what cannot
/// be given (read-only, not mapped). Files only if `files`: those that a person redirects from or to stay his, as with runc, which copies.
pub(crate) fn chown_stdio(uid: u32, files: bool) -> Done {
    for (number, stream) in fs::STDIO.iter().enumerate() {
        let Ok(stat) = fs::stat_fd(number as i32) else {
            continue;
        };
        let may_give = match stat.st_mode & libc::S_IFMT {
            libc::S_IFIFO | libc::S_IFSOCK => true,
            libc::S_IFCHR => nix::unistd::isatty(stream).unwrap_or(false),
            libc::S_IFREG => files,
            _ => false,
        };
        if !may_give || stat.st_uid == uid {
            continue;
        }
        match fs::chown(stream, uid, u32::MAX) {
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            Err(errno) => return Err(Fail::from(errno)),
        }
    }
    Ok(())
}

/// Changes ids. The permitted capabilities survive, so that the next step can choose among them.
pub(crate) fn become_user(uid: u32, gid: u32) -> Done {
    process::set_keep_caps(true)?;
    cred::set_gid(gid)?;
    cred::set_uid(uid)?;
    process::set_keep_caps(false)?;
    guard()
}

/// Takes id 0 in the user namespace, and guards what it took.
pub(crate) fn become_root(otherwise: Ids) -> Done {
    take_root(otherwise)?;
    guard()
}

/// Takes id 0 in the user namespace, or the other ids where 0 is not mapped.
pub(crate) fn take_root(otherwise: Ids) -> Done {
    match cred::set_gid(0) {
        Err(Errno::EINVAL) => cred::set_gid(otherwise.gid)?,
        other => other?,
    }
    match cred::set_uid(0) {
        Err(Errno::EINVAL) => cred::set_uid(otherwise.uid)?,
        other => other?,
    }
    Ok(())
}

/// Sets the supplementary groups. Where setgroups(2) is denied (user_namespaces(7)), those of the caller stay; nothing in there has a name for
/// them. That is an error only if the process was to have others.
pub(crate) fn set_groups(proc: &OwnedFd, groups: &[u32]) -> Done {
    match cred::set_groups(groups) {
        Err(Errno::EPERM) if setgroups_is_denied(proc) => match groups {
            [] => Ok(()),
            _ => Err(Errno::EPERM).at(Op::SetgroupsDenied),
        },
        other => Ok(other?),
    }
}

fn setgroups_is_denied(proc: &OwnedFd) -> bool {
    let mut text = [0; 4];
    fs::open(proc, c"self/setgroups", libc::O_RDONLY)
        .and_then(|file| fs::read(&file, &mut text))
        .is_ok_and(|length| &text[..length] == b"deny")
}

/// What the kernel takes back when ids change: init dies with its parent, and nobody may look into it. The latter becomes what the
/// host's fs.suid_dumpable says (prctl(2)).
fn guard() -> Done {
    process::set_parent_death_signal(libc::SIGKILL)?;
    process::set_dumpable(false)?;
    Ok(())
}

/// Raises ambient capabilities; those that the kernel refuses are left out, as runc does.
pub(crate) fn raise_ambient(mask: u64) -> Done {
    process::clear_ambient()?;
    for capability in (0..64).filter(|capability| mask & (1 << capability) != 0) {
        process::raise_ambient(capability).ok(); // not permitted or not inheritable: the plan left those out already
    }
    Ok(())
}
