//! `run`: create and start in one, in the foreground or detached.

use super::create::{self, Created, Mode};
use super::{Context, delete, start};
use crate::cli;
use crate::foreground::{self, Signals};
use crate::notify_socket::NotifySocket;
use crate::report::Result;
use crate::spawn::Child;
use crate::state::State;
use oci_spec::runtime::Spec;
use std::os::fd::AsFd;

/// The `run` command. Returns the container's exit status.
pub(super) fn run(context: &Context<'_>, request: &cli::Run) -> Result<u8> {
    let mode = Mode::of(request.detach);
    if request.create.dry_run.is_some() {
        return create::outline(context, &request.create, mode).map(|()| 0);
    }
    if mode == Mode::Foreground && !request.no_subreaper {
        foreground::become_subreaper()?;
    }
    let created = create::create(context, &request.create, mode)?;
    let mut begun = begin(context, created)?;
    let Some(signals) = begun.signals.take() else {
        let Begun { notify, child, .. } = begun;
        context.await_ready(notify, child.pid, &child.pidfd);
        return Ok(0);
    };
    stay(context, request, &signals, begun)
}

/// Stays with the container until it has ended, and removes it.
fn stay(context: &Context<'_>, request: &cli::Run, signals: &Signals, begun: Begun) -> Result<u8> {
    let Begun {
        state,
        spec,
        child,
        notify,
        ..
    } = begun;
    let mut relay = || match notify.as_ref().map(|notify| notify.relay(child.pid)) {
        Some(Ok(None)) => true,
        Some(Err(error)) => {
            context.log.warn(format!("{error}, ignoring"));
            false
        }
        // We stay, so there is no need to wait for the barrier.
        _ => false,
    };
    context.trace.begin("wait");
    context.write_trace();
    let status = foreground::wait(
        signals,
        foreground::Child {
            pid: child.pid,
            pidfd: child.pidfd.as_fd(),
        },
        child.terminal,
        notify.as_ref().map(|notify| foreground::Besides {
            fd: notify.fd(),
            ready: &mut relay,
        }),
    );
    if !request.keep {
        context.trace.begin("delete");
        delete::remove_ended(context, &state, &spec)?;
    }
    status
}

/// A container that runs.
struct Begun {
    state: State,
    spec: Spec,
    child: Child,
    notify: Option<NotifySocket>,
    /// In the foreground.
    signals: Option<Signals>,
}

/// Starts the container and lets other commands at it. What cannot be started is removed.
fn begin(context: &Context<'_>, mut created: Created) -> Result<Begun> {
    let started = context
        .notify_socket(&created.directory)
        .and_then(|notify| {
            let warn = |text| context.log.alert(text);
            context.trace.begin("start");
            created.child.start(&created.host, &warn)?;
            Ok(notify)
        });
    let Created {
        directory,
        state,
        spec,
        child,
        signals,
        ..
    } = created;
    // As in `start`: hooks may be commands for this container.
    drop(directory);
    let begun = started.and_then(|notify| {
        start::poststart(context, &spec, &state, &child.pidfd)?;
        Ok(notify)
    });
    match begun {
        Ok(notify) => Ok(Begun {
            state,
            spec,
            child,
            notify,
            signals,
        }),
        Err(error) => {
            child.kill();
            let error = error.context(context.failed("run", "run", state.id.as_str()));
            Err(match delete::remove_ended(context, &state, &spec) {
                Ok(()) => error,
                Err(second) => error.and(&second.context("remove it")),
            })
        }
    }
}
