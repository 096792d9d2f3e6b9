//! `delete`: removes what is left of a container, killing it first if it was never started or if forced to.

use super::create::cgroup_plan;
use super::{Context, hook_manner, hook_state, hooks, saved_cgroup, start};
use crate::cgroup;
use crate::hooks::Kind as HookKind;
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spec;
use crate::state::{ContainerId, Directory, Init, Locked, State, Status};
use crate::sys::mount::mount_id;
use crate::sys::process::pidfd_send_signal;
use crate::sys::{Errno, signal};
use nix::mount::{MntFlags, umount2};
use oci_spec::runtime::Spec;
use std::collections::BTreeMap;

/// How long a killed process may take to end, with the container's lock held.
const PATIENCE_MS: u16 = 10_000;

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
        Err(error) if force && error.kind() == Kind::Invalid => {
            return clear(context, directory, &error);
        }
        other => other?,
    };
    let status = context.status(&directory, &state)?;
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        let text = format!("cannot delete container {id} that is not stopped: {status}");
        return Err(Error::new(Kind::State, text));
    }
    let story = || format!("delete container '{id}'");
    let spec = match config(&directory) {
        Err(error) if force => {
            let text = format!("{error}: running no poststop hooks, ignoring");
            context.log.warn(text);
            None
        }
        other => other.context(story)?,
    };
    destroy(context, directory, &state, spec.as_ref()).context(story)
}

/// The config of a container; None if it was never saved.
fn config(directory: &Directory) -> Result<Option<Spec>> {
    match directory.config() {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        text => {
            let parsed = spec::parse(&text?);
            let parsed = parsed.context(|| "parse its config.json")?;
            Ok(Some(parsed.value))
        }
    }
}

/// Removes what can be found of a container whose state is damaged. `error` tells of the damage.
fn clear(context: &Context<'_>, directory: Locked, error: &Error) -> Result<()> {
    let text =
        format!("{error}: removing what can be found, and running no poststop hooks, ignoring");
    context.log.warn(text);
    let id = directory.id().clone();
    let story = || format!("delete container '{id}'");
    let found = directory.salvage().context(story)?;
    kill_init(found.init).context(story)?;
    let cgroup = match serde_json::from_value(found.cgroup) {
        Ok(Some(saved)) => Some(saved),
        // Damaged as well, or not there: where it must have been made.
        Ok(None) | Err(_) => match planned_cgroup(context, &directory) {
            // Who may still live is not to be forgotten.
            Err(error) if error.kind() == Kind::State => return Err(error).context(story),
            Err(error) => {
                let text = format!("find its cgroup: {error}, ignoring");
                context.log.warn(text);
                None
            }
            Ok(saved) => saved,
        },
    };
    if let Some(saved) = cgroup {
        cgroup::destroy(&saved).context(story)?;
    }
    if let Ok(Some(group)) = Group::saved(&found.resctrl) {
        group.remove().context(story)?;
    }
    directory.remove().context(story)
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

/// The cgroup that a container's config says it has.
fn planned_cgroup(context: &Context<'_>, directory: &Directory) -> Result<Option<cgroup::Saved>> {
    let Some(spec) = config(directory)? else {
        return Ok(None);
    };
    let id = directory.id().as_str();
    cgroup::made_after(&cgroup_plan(context, id, &spec, &context.host()?)?)
}

/// Kills what lives and removes the groups, the mounts and the directory, in this order: interrupted at any point, it can be repeated. Then runs
/// the poststop hooks, if `spec` has any, as the specification has it: the container is no more, and one that hangs keeps nothing of it.
pub(super) fn destroy(
    context: &Context<'_>,
    directory: Locked,
    state: &State,
    spec: Option<&Spec>,
) -> Result<()> {
    context.trace.begin("kill the process");
    kill_init(state.init)?;
    context.trace.begin("remove the cgroup");
    if let Some(saved) = saved_cgroup(state)? {
        cgroup::destroy(&saved)?;
    }
    if let Some(group) = Group::saved(&state.resctrl)? {
        group.remove()?;
    }
    unmount_root(state)?;
    context.trace.begin("remove the container's directory");
    directory.remove()?;
    if let Some(spec) = spec {
        run_poststop(context, spec, state);
    }
    Ok(())
}

/// Unmounts the root of a container without a mount namespace, and with it all that was mounted there: on the host. What is at the path is
/// the container's if it was not there before.
pub(super) fn unmount_root(state: &State) -> Result<()> {
    let Some(below) = state.below_root else {
        return Ok(());
    };
    let unmounted = match mount_id(&state.rootfs) {
        Ok(id) if id == below => return Ok(()),
        Ok(_) => umount2(&state.rootfs, MntFlags::MNT_DETACH),
        Err(errno) => Err(errno),
    };
    match unmounted {
        // Somebody else has unmounted or removed it.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other.context(|| format!("unmount {:?}", state.rootfs)),
    }
}

/// Kills init and waits for its end.
fn kill_init(init: Option<Init>) -> Result<()> {
    let Some(init) = init else {
        return Ok(());
    };
    let Some(pidfd) = start::open_init(&init)? else {
        return Ok(());
    };
    match pidfd_send_signal(&pidfd, libc::SIGKILL) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.context(|| format!("kill process {}", init.pid))?,
    }
    let ended = start::await_end(&pidfd, PATIENCE_MS.into());
    if !ended.context(|| format!("wait for process {}", init.pid))? {
        // As runc says it, after as long.
        return Err(Error::new(Kind::System, "container init still running"));
    }
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
        let text = hook_state(state, Status::Stopped, None)?;
        // They run in any case: they take down what create has set up.
        let manner = hook_manner(&state.annotations, &state.bundle, &warn).or_else(|error| {
            context.log.warn(format!("{error}, ignoring"));
            hook_manner(&BTreeMap::new(), &state.bundle, &warn)
        })?;
        Ok(crate::hooks::run_poststop(hooks, &text, &manner))
    };
    let failures = run().unwrap_or_else(|error: Error| vec![error]);
    for error in failures {
        context.log.warn(format!("{error}, ignoring"));
    }
}
