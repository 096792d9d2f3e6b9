//! `run`: create and start in one, in the foreground or detached.

use super::create::{self, Created, Mode};
use super::{Context, delete, start};
use crate::cli;
use crate::foreground::{self, Signals};
use crate::report::{Context as _, Result};
use nix::sys::signal::SigSet;

/// The `run` command. Returns the container's exit status.
pub(super) fn run(context: &Context<'_>, request: &cli::Run) -> Result<u8> {
    if request.detach {
        let mask = SigSet::thread_get_mask().context(|| "read the signal mask")?;
        let created = create::create(context, &request.create, Mode::Detached, mask)?;
        begin(context, created)?;
        return Ok(0);
    }
    // Before the container exists, so that no signal for it is lost.
    let signals = Signals::block()?;
    if !request.no_subreaper {
        foreground::become_subreaper()?;
    }
    let created = create::create(context, &request.create, Mode::Foreground, signals.original())?;
    let Created { child, state, .. } = begin(context, created)?;
    let status = foreground::wait(signals, foreground::Child { pid: child.pid, pidfd: &child.pidfd }, child.terminal);
    if !request.keep {
        delete::remove_ended(context, &state.id)?;
    }
    status
}

/// Starts the container and lets others at it. What cannot be started is removed.
fn begin(context: &Context<'_>, mut created: Created) -> Result<Begun> {
    let started = created
        .child
        .start(&created.host)
        .and_then(|()| start::poststart(&created.spec, &created.state, &created.child.pidfd));
    match started {
        Ok(()) => Ok(created.into_begun()),
        Err(error) => {
            created.child.kill();
            let id = created.state.id.clone();
            delete::destroy(context, created.directory, &created.state)?;
            Err(error.context(format!("run container '{id}'")))
        }
    }
}
