//! A process that does nothing: systemd starts a scope only around one, and ends it when the last is gone.
//!
//! It is in the container's group from before there is a container until init is there, so that init can be born in the group and not be
//! moved into it. It is a clone of the command without anything of its own. The command's death is its own death, after which systemd
//! removes the scope: a command that is killed leaves no unit behind.

use crate::report::{Context, Result};
use crate::sys::process::{
    CloneArgs, Cloned, clone3, exit, pidfd_send_signal, set_name, set_parent_death_signal,
};
use crate::sys::signal::wait_pidfd;
use nix::unistd::{Pid, getpid, getppid, pause};
use std::os::fd::OwnedFd;

/// Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(in crate::cgroup) pid: i32,
    pidfd: OwnedFd,
}

impl Holder {
    pub(super) fn new() -> Result<Holder> {
        let parent = getpid();
        let cloned = clone3(CloneArgs {
            flags: 0,
            cgroup: None,
        });
        match cloned.context(|| "clone a process to hold the scope")? {
            Cloned::Child => hold(parent),
            Cloned::Parent { pid, pidfd } => Ok(Holder { pid, pidfd }),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        pidfd_send_signal(&self.pidfd, libc::SIGKILL).ok(); // dead already
        wait_pidfd(&self.pidfd).ok(); // reaped already
    }
}

/// In the new process.
fn hold(parent: Pid) -> ! {
    set_name(c"caisson:[HOLDER]").ok(); // only for people
    if set_parent_death_signal(libc::SIGKILL).is_err() || getppid() != parent {
        exit(1);
    }
    loop {
        pause();
    }
}
