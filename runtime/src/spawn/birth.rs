//! The clone: where the new process is to be, and what is the likely reason if the kernel makes none.
//!
//! Runs in the runtime command. A process is born in its cgroup where the kernel can do that, and moved there before its first step where it
//! cannot.

use crate::cgroup::Cgroup;
use crate::report::{Error, Result};
use crate::sys::Errno;
use crate::sys::process::{CloneArgs, Cloned, clone3};

/// Where clone3 returned, and whether the new process is in the cgroup already.
pub(super) struct Birth {
    pub(super) process: Cloned,
    pub(super) in_cgroup: bool,
}

/// Where a process is to be. By default, where its parent is.
#[derive(Default)]
pub(super) struct Home<'a> {
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) beside: Option<i32>,
}

impl Home<'_> {
    /// Moves a process there.
    pub(super) fn take(&self, pid: i32) -> Result<()> {
        /// How often init may move on while it is followed.
        const TRIES: usize = 10;
        let Some(cgroup) = self.cgroup else {
            return Ok(());
        };
        let pid = nix::unistd::Pid::from_raw(pid);
        let mut added = cgroup.add(pid);
        for tries in 0..TRIES {
            let (Some(init), Err(error)) = (self.beside, &added) else {
                break;
            };
            let refused = match error.errno() {
                Some(errno) => matches!(
                    errno,
                    Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENODEV
                ),
                // systemd, which moves where we may not: what it says tells no reason for sure.
                None => tries == 0,
            };
            if !refused {
                break;
            }
            added = cgroup.of(init).and_then(|group| group.add(pid));
        }
        added
    }
}

/// Directly into the cgroup where the kernel can; else the caller moves the process before it begins.
pub(super) fn clone(flags: u64, home: &Home<'_>) -> std::result::Result<Birth, Errno> {
    let clone_into = |cgroup: Option<&Cgroup>| {
        clone3(CloneArgs {
            flags,
            cgroup: cgroup.map(Cgroup::fd),
        })
    };
    let born = |process, in_cgroup| Birth { process, in_cgroup };
    match clone_into(home.cgroup) {
        // The group's children have the controllers, so it takes no process itself: whoever gave them these has moved init below.
        Err(Errno::EBUSY) if home.beside.is_some() => {
            let group = home.cgroup.zip(home.beside);
            let group = group.and_then(|(cgroup, init)| cgroup.of(init).ok());
            match group.map(|group| clone_into(Some(&group))) {
                // It has moved on: it is followed once the process exists.
                None
                | Some(Err(Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENODEV)) => {
                    Ok(born(clone_into(None)?, false))
                }
                // Not after EAGAIN: pids.max holds for processes that are born in a group, not for those that are moved there.
                Some(process) => Ok(born(process?, true)),
            }
        }
        // A threaded group, a group as above, a kernel before 5.7, or one where we may only migrate.
        Err(Errno::EOPNOTSUPP | Errno::EBUSY | Errno::E2BIG | Errno::EACCES)
            if home.cgroup.is_some() =>
        {
            Ok(born(clone_into(None)?, false))
        }
        process => Ok(born(process?, home.cgroup.is_some())),
    }
}

/// Names the limit that is the likely reason, since the kernel's ENOSPC and EPERM name none.
pub(super) fn clone_error(flags: u64, errno: Errno) -> Error {
    let names = crate::plan::names(flags);
    let story = match names.is_empty() {
        true => "clone the container's process".to_owned(),
        false => format!("clone the container's process into new namespaces ({names})"),
    };
    let hint = match errno {
        Errno::ENOSPC => {
            " (a limit in /proc/sys/user/max_*_namespaces is reached, or namespaces are nested too deeply)"
        }
        Errno::EPERM if flags & libc::CLONE_NEWUSER as u64 != 0 => {
            " (user namespaces may be forbidden: see kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        }
        Errno::EAGAIN => {
            " (a limit on the number of processes is reached: RLIMIT_NPROC, kernel.pid_max or pids.max)"
        }
        // Of a pid namespace that is joined, too: alloc_pid() in kernel/pid.c.
        Errno::ENOMEM => {
            " (or a pid namespace that is joined has lost its first process, and takes no other)"
        }
        Errno::EINVAL => " (a kind of namespace may be missing in this kernel)",
        _ => "",
    };
    Error::os(story + hint, errno)
}
