//! `kill`: sends a signal to a container's init, or to all of its processes.

use super::{Context, start};
use crate::cli::Signal;
use crate::report::{Context as _, Error, Kind, Result};
use crate::state::{ContainerId, State};
use crate::sys::Errno;
use crate::sys::process::pidfd_send_signal;

/// The `kill` command.
pub(super) fn run(
    context: &Context<'_>,
    id: &ContainerId,
    signal: Signal,
    all: bool,
) -> Result<()> {
    let state = context.root.load(id)?;
    // Without a pid namespace of its own, killing init leaves the others alive.
    let shared = state.namespaces & libc::CLONE_NEWPID as u64 == 0;
    if all || (shared && signal == Signal::KILL) {
        signal_all(context, &state, signal)?;
    }
    match signal_init(&state, signal) {
        Err(error) if all && error.kind() == Kind::State => Ok(()),
        other => other.context(|| format!("kill container '{id}'")),
    }
}

fn signal_all(context: &Context<'_>, state: &State, signal: Signal) -> Result<()> {
    let Some(cgroup) = context.cgroup(state)? else {
        return Ok(());
    };
    if signal == Signal::KILL {
        return cgroup.kill();
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
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Error::os(
                    format!("send signal {} to process {pid}", signal.number()),
                    errno,
                ));
            }
        }
    }
    Ok(())
}

fn signal_init(state: &State, signal: Signal) -> Result<()> {
    let not_running = || Error::new(Kind::State, "container not running");
    let init = state.init.ok_or_else(not_running)?;
    let pidfd = start::open_init(&init)?.ok_or_else(not_running)?;
    match pidfd_send_signal(&pidfd, signal.number()) {
        Err(Errno::ESRCH) => Err(not_running()),
        other => {
            other.context(|| format!("send signal {} to process {}", signal.number(), init.pid))
        }
    }
}
