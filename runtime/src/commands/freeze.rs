//! `pause` and `resume`: freezes and thaws a container's cgroup.

use super::{Context, not_running};
use crate::cgroup::Cgroup;
use crate::report::{Context as _, Error, Kind, Result};
use crate::state::{ContainerId, Status};

/// The `pause` command.
pub(super) fn pause(context: &Context<'_>, id: &ContainerId) -> Result<()> {
    change(context, id, |status, cgroup| match status {
        Status::Running | Status::Created => cgroup.freeze(),
        _ => Err(Error::new(
            Kind::State,
            format!("container not running or created: {status}"),
        )),
    })
    .context(|| format!("pause container '{id}'"))
}

/// The `resume` command.
pub(super) fn resume(context: &Context<'_>, id: &ContainerId) -> Result<()> {
    change(context, id, |status, cgroup| match status {
        Status::Paused => cgroup.thaw(),
        _ => Err(Error::new(Kind::State, "container not paused")),
    })
    .context(|| format!("resume container '{id}'"))
}

fn change(
    context: &Context<'_>,
    id: &ContainerId,
    act: impl FnOnce(Status, &Cgroup) -> Result<()>,
) -> Result<()> {
    let directory = context.root.lock(id)?;
    let state = directory.load()?;
    let status = context.status(&directory, &state)?;
    match context.cgroup(&state)? {
        Some(cgroup) => act(status, &cgroup),
        None if status == Status::Stopped => Err(not_running()),
        None => Err(Error::new(
            Kind::Unsupported,
            "the container has no cgroup, which pausing needs",
        )),
    }
}
