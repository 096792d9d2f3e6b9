//! `delete`: removes what is left of a container, killing it first if it was never started or if forced to.

use super::{Context, hook_manner, hook_state, hooks, saved_cgroup, start};
use crate::cgroup;
use crate::hooks::Kind as HookKind;
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spec;
use crate::state::{ContainerId, Locked, State, Status};
use crate::sys::process::pidfd_send_signal;
use crate::sys::{Errno, signal};
use oci_spec::runtime::Spec;
use std::collections::BTreeMap;

/// The `delete` command. With `force`, a container that does not exist is one that is deleted.
pub(super) fn run(context: &Context<'_>, id: &ContainerId, force: bool) -> Result<()> {
    context.trace.begin("read the container");
    let directory = match context.root.lock(id) {
        Err(error) if force && error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let state = match directory.load() {
        // Left by a command that was killed before it had made anything else.
        Err(error) if force && error.kind() == Kind::NotFound => return directory.remove(),
        other => other?,
    };
    let status = context.status(&directory, &state)?;
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        let text = format!("cannot delete container {id} that is not stopped: {status}");
        return Err(Error::new(Kind::State, text));
    }
    destroy(context, directory, &state, None).context(|| format!("delete container '{id}'"))
}

/// Removes a container that `run` has seen end. Another command may have been faster, and a container of the same name be there now.
pub(super) fn remove_ended(context: &Context<'_>, ended: &State, spec: &Spec) -> Result<()> {
    let directory = match context.root.lock(&ended.id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let state = directory.load()?;
    if state.init != ended.init {
        return Ok(());
    }
    destroy(context, directory, &state, Some(spec))
}

/// Kills what lives, removes the groups, runs the poststop hooks and removes the directory, in this order: interrupted at any point, it can be
/// repeated. Who has the config at hand passes it on.
pub(super) fn destroy(
    context: &Context<'_>,
    directory: Locked,
    state: &State,
    spec: Option<&Spec>,
) -> Result<()> {
    context.trace.begin("kill the process");
    kill_init(state)?;
    context.trace.begin("remove the cgroup");
    if let Some(saved) = saved_cgroup(state)? {
        cgroup::destroy(&saved)?;
    }
    if let Some(group) = Group::saved(&state.resctrl)? {
        group.remove()?;
    }
    if let Some(spec) = spec {
        run_poststop(context, spec, state);
    } else if let Ok(config) = directory.config() {
        let spec = spec::parse(&config)?.value;
        run_poststop(context, &spec, state);
    }
    context.trace.begin("remove the container's directory");
    directory.remove()
}

/// Kills init and waits for its end.
fn kill_init(state: &State) -> Result<()> {
    let Some(init) = state.init else {
        return Ok(());
    };
    let Some(pidfd) = start::open_init(&init)? else {
        return Ok(());
    };
    match pidfd_send_signal(&pidfd, libc::SIGKILL) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.context(|| format!("kill process {}", init.pid))?,
    }
    start::await_end(&pidfd).context(|| format!("wait for process {}", init.pid))?;
    // Ours only after `run`; otherwise ECHILD, and its parent's business.
    signal::wait_pidfd(&pidfd).ok();
    Ok(())
}

/// Runs the poststop hooks; failures are warnings (runtime-spec, "Lifecycle" 13).
pub(super) fn run_poststop(context: &Context<'_>, spec: &Spec, state: &State) {
    let hooks = hooks(spec, HookKind::Poststop);
    if hooks.is_empty() {
        return;
    }
    context.trace.begin("run the poststop hooks");
    let warn = |text| context.log.alert(text);
    let run = || {
        let text = hook_state(state, Status::Stopped, "0")?;
        // They run in any case: they take down what create has set up.
        let manner = hook_manner(&state.annotations, None, &warn).or_else(|error| {
            context.log.warn(format!("{error}, ignoring"));
            hook_manner(&BTreeMap::new(), None, &warn)
        })?;
        Ok(crate::hooks::run_poststop(hooks, &text, &manner))
    };
    let failures = run().unwrap_or_else(|error: Error| vec![error]);
    for error in failures {
        context.log.warn(format!("{error}, ignoring"));
    }
}
