//! `kill`: sends a signal to a container's init, or to all of its processes.

use super::{Context, not_running, start};
use crate::cli::Signal;
use crate::report::{Context as _, Error, Kind, Result};
use crate::state::{ContainerId, State};
use crate::sys::Errno;
use crate::sys::process::pidfd_send_signal;
use std::os::fd::OwnedFd;

/// The `kill` command.
pub(super) fn run(
    context: &Context<'_>,
    id: &ContainerId,
    signal: Signal,
    all: bool,
) -> Result<()> {
    let story = || format!("kill container '{id}'");
    let state = context.root.load(id)?;
    // Asked first: the signal to all may be init's end.
    let init = open_init(&state);
    // Without a pid namespace of its own, killing init leaves the others alive.
    let shared = state.namespaces & libc::CLONE_NEWPID as u64 == 0 || state.joined_pids;
    let everybody = all || (shared && signal == Signal::KILL);
    let signalled = everybody && signal_all(context, &state, signal).context(story)?;
    match init {
        // They may have outlived it.
        Err(error) if (all || signalled) && error.kind() == Kind::State => Ok(()),
        init => match pidfd_send_signal(init.context(story)?, signal.number()) {
            Err(Errno::ESRCH) if all || shared => Ok(()),
            Err(Errno::ESRCH) => Err(not_running()).context(story),
            other => other.context(|| format!("{}: send signal {}", story(), signal.number())),
        },
    }
}

fn open_init(state: &State) -> Result<OwnedFd> {
    let init = state.init.ok_or_else(not_running)?;
    start::open_init(&init)?.ok_or_else(not_running)
}

/// Says whether there was a group whose processes could be signalled.
fn signal_all(context: &Context<'_>, state: &State, signal: Signal) -> Result<bool> {
    let Some(cgroup) = context.cgroup(state)? else {
        return Ok(false);
    };
    if signal == Signal::KILL {
        cgroup.kill()?;
        return Ok(true);
    }
    let init = state.pid();
    for pid in cgroup
        .processes()?
        .into_iter()
        .filter(|pid| Some(pid.as_raw()) != init)
    {
        match crate::sys::process::pidfd_open(pid.as_raw())
            .and_then(|pidfd| pidfd_send_signal(pidfd, signal.number()))
        {
            Ok(()) | Err(Errno::ESRCH | Errno::EINVAL) => {}
            Err(errno) => {
                return Err(Error::os(
                    format!("send signal {} to process {pid}", signal.number()),
                    errno,
                ));
            }
        }
    }
    Ok(true)
}
