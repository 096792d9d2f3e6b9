//! `restore`: a container from what `checkpoint` has saved, in the foreground or detached.

use super::create::{self, Mode, Restored};
use super::{Context, delete};
use crate::cli;
use crate::foreground::{self, Signals};
use crate::report::{Context as _, Result};
use nix::sys::signal::SigSet;
use std::os::fd::AsFd;

/// The `restore` command. Returns the container's exit status.
pub(super) fn run(context: &Context<'_>, request: &cli::Restore) -> Result<u8> {
    if request.detach {
        let mask = SigSet::thread_get_mask().context(|| "read the signal mask")?;
        create::restore(context, request, Mode::Detached, mask)?;
        return Ok(0);
    }
    // Before the container exists, so that no signal for it is lost.
    let signals = Signals::block()?;
    if !request.no_subreaper {
        foreground::become_subreaper()?;
    }
    let mask = *signals.original();
    let Restored {
        state,
        spec,
        pid,
        pidfd,
        terminal,
    } = create::restore(context, request, Mode::Foreground, mask)?;
    let child = foreground::Child {
        pid,
        pidfd: pidfd.as_fd(),
    };
    let status = foreground::wait(&signals, child, terminal, None);
    delete::remove_ended(context, &state, &spec)?;
    status
}
