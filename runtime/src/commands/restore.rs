//! `restore`: a container from what `checkpoint` has saved, in the foreground or detached.

use super::create::{self, Mode, Restored};
use super::{Context, delete};
use crate::cli;
use crate::foreground;
use crate::report::Result;
use std::os::fd::AsFd;

/// The `restore` command. Returns the container's exit status.
pub(super) fn run(context: &Context<'_>, request: &cli::Restore) -> Result<u8> {
    let mode = Mode::of(request.detach);
    if mode == Mode::Foreground && !request.no_subreaper {
        foreground::become_subreaper()?;
    }
    let Restored {
        state,
        spec,
        pid,
        pidfd,
        terminal,
        signals,
    } = create::restore(context, request, mode)?;
    let Some(signals) = signals else {
        return Ok(0);
    };
    let child = foreground::Child {
        pid,
        pidfd: pidfd.as_fd(),
    };
    let status = foreground::wait(&signals, child, terminal, None);
    delete::remove_ended(context, &state, &spec)?;
    status
}
