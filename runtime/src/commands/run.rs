//! `run`: create and start in one, in the foreground or detached.

use super::create::{self, Created, Mode};
use super::{Context, delete, start};
use crate::cli;
use crate::foreground::{self, Signals};
use crate::report::{Context as _, Result};
use crate::spawn::Child;
use crate::state::State;
use nix::sys::signal::SigSet;
use oci_spec::runtime::Spec;
use std::os::fd::AsFd;

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
    let created = create::create(
        context,
        &request.create,
        Mode::Foreground,
        *signals.original(),
    )?;
    let (state, spec, child) = begin(context, created)?;
    let status = foreground::wait(
        &signals,
        foreground::Child {
            pid: child.pid,
            pidfd: child.pidfd.as_fd(),
        },
        child.terminal,
    );
    if !request.keep {
        delete::remove_ended(context, &state, &spec)?;
    }
    status
}

/// Starts the container and lets other commands at it. What cannot be started is removed.
fn begin(context: &Context<'_>, mut created: Created) -> Result<(State, Spec, Child)> {
    let started = created
        .child
        .start(&created.host, &|text| context.log.alert(text))
        .and_then(|()| {
            start::poststart(context, &created.spec, &created.state, &created.child.pidfd)
        });
    let Created {
        directory,
        state,
        spec,
        child,
        ..
    } = created;
    match started {
        Ok(()) => Ok((state, spec, child)),
        Err(error) => {
            child.kill();
            delete::destroy(context, directory, &state, Some(&spec))?;
            Err(error.context(format!("run container '{}'", state.id)))
        }
    }
}
