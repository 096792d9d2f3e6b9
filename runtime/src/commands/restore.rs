//! `restore`: a container from what `checkpoint` has saved, in the foreground or detached.

use super::create::{self, Mode, Restored};
use super::{Context, delete};
use crate::cli;
use crate::foreground::{self, Signals};
use crate::report::Result;
use std::os::fd::AsFd;

/// The `restore` command. Returns the container's exit status.
pub(super) fn run(context: &Context<'_>, request: &cli::Restore) -> Result<u8> {
    if request.detach {
        create::restore(context, request, Mode::Detached)?;
        return Ok(0);
    }
    // Before the container exists, so that no signal for it is lost.
    let signals = Signals::block()?;
    if !request.no_subreaper {
        foreground::become_subreaper()?;
    }
    let Restored {
        state,
        spec,
        pid,
        pidfd,
        terminal,
    } = create::restore(context, request, Mode::Foreground)?;
    let child = foreground::Child {
        pid,
        pidfd: pidfd.as_fd(),
    };
    let status = foreground::wait(&signals, child, terminal, None);
    delete::remove_ended(context, &state, &spec)?;
    status
}
