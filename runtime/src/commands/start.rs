//! `start`: lets a created container run its program, and the part of `run` that comes after.

use super::{Context, hook_manner, hook_state, hooks};
use crate::hooks::Kind as HookKind;
use crate::plan::{Op, process};
use crate::report::{Context as _, Error, Kind, Result};
use crate::spec;
use crate::state::{ContainerId, Init, State, Status};
use crate::sync::{self, Message, RECORD};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::sys::{Errno, fs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use std::os::fd::{AsFd, OwnedFd};

/// The `start` command.
pub(super) fn run(context: &Context<'_>, id: &ContainerId) -> Result<()> {
    let story = || format!("start container '{id}'");
    context.trace.begin("read the container");
    let directory = context.root.lock(id)?;
    let state = directory.load()?;
    match context.status(&directory, &state)? {
        Status::Created => {}
        Status::Stopped => return Err(wrong_state("cannot start a container that has stopped")),
        Status::Creating => {
            return Err(wrong_state(
                "cannot start a container that is still being created",
            ));
        }
        Status::Paused => {
            return Err(wrong_state("cannot start a container in the paused state"));
        }
        Status::Running => {
            return Err(wrong_state("cannot start an already running container"));
        }
    }
    let init = state
        .init
        .ok_or_else(|| wrong_state("cannot start a container that has stopped"))?;
    let pidfd = open_init(&init)?
        .ok_or_else(|| wrong_state("cannot start a container that has stopped"))?;
    let spec = spec::parse(&directory.config()?).context(story)?.value;
    let notify = context.notify_socket(&directory).context(story)?;
    context.trace.begin("start");
    let fifo = directory
        .take_fifo()?
        .ok_or_else(|| wrong_state("cannot start an already running container"))?;
    await_program(context, &fifo, &pidfd, &spec).context(story)?;
    // What comes now may take long, or never end, and hooks may be commands for this container: others must be able to change it.
    drop(directory);
    poststart(context, &spec, &state, &pidfd).context(story)?;
    context.await_ready(notify, init.pid, &pidfd);
    Ok(())
}

fn wrong_state(text: &str) -> Error {
    Error::new(Kind::State, text)
}

/// The pidfd of a container's init; None if it has ended. The start time tells it from a stranger with the same number.
pub(super) fn open_init(init: &Init) -> Result<Option<OwnedFd>> {
    let pidfd = match pidfd_open(init.pid) {
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
        other => other.context(|| format!("open process {}", init.pid))?,
    };
    Ok(init.is_alive()?.then_some(pidfd))
}

/// Waits until init has closed the fifo by executing the program, reports why it could not, or has ended.
fn await_program(
    context: &Context<'_>,
    fifo: &OwnedFd,
    pidfd: &OwnedFd,
    spec: &Spec,
) -> Result<()> {
    let mut record = [0; RECORD];
    let mut opened = false;
    loop {
        let mut fds = [
            PollFd::new(fifo.as_fd(), PollFlags::POLLIN),
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.context(|| "wait for the container's process")?,
        };
        let (spoke, ended) = (fds[0].any().unwrap_or(false), fds[1].any().unwrap_or(false));
        if spoke {
            opened = true;
            match fs::read(fifo, &mut record) {
                Ok(0) => return Ok(()),
                Ok(length) => match sync::decode(&record[..length]) {
                    Some(Message::HookRuns { index, .. }) => {
                        let (path, index) = (hook_path(spec, index as usize), index as usize);
                        let text = crate::spawn::hook_runs("startContainer", index, &path);
                        context.log.alert(text);
                    }
                    message => {
                        let error = failure(message, spec);
                        // It has said why it ends, and does.
                        await_end(pidfd, PollTimeout::NONE)
                            .context(|| "wait for the container's process")?;
                        return Err(error);
                    }
                },
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(Error::os("read the start fifo", errno)),
            }
        } else if ended && !opened {
            return Err(wrong_state("cannot start a container that has stopped"));
        }
    }
}

/// What init wrote into the fifo. It counts steps from the end: the execve is the last, before it come the
/// startContainer hooks.
fn failure(message: Option<Message>, spec: &Spec) -> Error {
    let Some(Message::Failed(failure)) = message else {
        return Error::new(
            Kind::System,
            "the container's process wrote what it should not into the start fifo",
        );
    };
    let op = Op::from_number(failure.op);
    let errno = Errno::from_raw(failure.errno);
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_ref());
    let program = args
        .and_then(|args| args.first())
        .map_or("", String::as_str);
    let hooks = hooks(spec, HookKind::StartContainer);
    match failure.step {
        1 => process::exec_error(program, op, errno),
        step => {
            let index = (hooks.len() + 1).saturating_sub(step as usize);
            let path = hook_path(spec, index);
            crate::spawn::hook_error("startContainer", index, &path, &failure)
        }
    }
}

/// The path of a startContainer hook.
fn hook_path(spec: &Spec, index: usize) -> String {
    let hook = hooks(spec, HookKind::StartContainer).get(index);
    hook.map(|hook| hook.path().display().to_string())
        .unwrap_or_default()
}

/// Runs the poststart hooks. If one fails, the container is killed (runtime-spec 1.3, "Lifecycle").
pub(super) fn poststart(
    context: &Context<'_>,
    spec: &Spec,
    state: &State,
    pidfd: &OwnedFd,
) -> Result<()> {
    let hooks = hooks(spec, HookKind::Poststart);
    if hooks.is_empty() {
        return Ok(());
    }
    context.trace.begin("run the poststart hooks");
    let pid = state.pid().unwrap_or_default().to_string();
    let text = hook_state(state, Status::Running, Some(&pid))?;
    let warn = |text| context.log.alert(text);
    let run = || {
        let manner = hook_manner(&state.annotations, &state.bundle, &warn)?;
        crate::hooks::run_all(HookKind::Poststart, hooks, &text, &manner)
    };
    run().inspect_err(|_| {
        // Either fails only if it is gone already.
        pidfd_send_signal(pidfd, libc::SIGKILL).ok();
        await_end(pidfd, PollTimeout::NONE).ok();
    })
}

/// Waits until a process has ended that was killed; false if that takes longer, as that of one which waits in the kernel for a dead server may.
pub(super) fn await_end(pidfd: &OwnedFd, limit: PollTimeout) -> crate::sys::Result<bool> {
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, limit) {
            Err(Errno::EINTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}
