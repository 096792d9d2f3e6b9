//! `update`: changes the resources of a container that exists.
//!
//! The resources that a container has are those of its config until the first update, and from then on those in state.json: the next
//! update starts from them. The config stays as it was at create.

use super::{Context, read_or_stdin};
use crate::cgroup::Cgroup;
use crate::cli::{self, Resources};
use crate::plan::{self, resctrl::ResctrlPlan};
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::{self, Group};
use crate::spec;
use crate::state::{Locked, State};
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};
use std::borrow::Cow;
use std::path::Path;

/// The `update` command.
pub(super) fn run(context: &Context<'_>, request: &cli::Update) -> Result<()> {
    for flag in &request.ignored {
        context
            .log
            .warn(format!("--{flag} has no effect, ignoring"));
    }
    // Before the lock: it may take its time to come.
    let given = match &request.resources {
        Resources::Given(resources) => Cow::Borrowed(resources.as_ref()),
        Resources::Document(path) => Cow::Owned(document(path)?),
    };
    let directory = context.root.lock(&request.id)?;
    let mut state = directory.load()?;
    change(context, &directory, &mut state, &given, request)
        .context(|| format!("update container '{}'", request.id))
}

fn change(
    context: &Context<'_>,
    directory: &Locked,
    state: &mut State,
    given: &LinuxResources,
    request: &cli::Update,
) -> Result<()> {
    context.living(directory, state)?;
    let Some(cgroup) = context.cgroup(state)? else {
        let text = "the container has no cgroup, which resources need";
        return Err(Error::new(Kind::Unsupported, text));
    };
    let class = class(request)?;
    let mut update = plan::update::update(&current(directory, state)?, given, request.force)?;
    if cgroup.is_of_unit() {
        plan::systemd::round(&mut update.limits);
    }
    let mut updated = cgroup.update(&update)?;
    let warnings = std::mem::take(&mut updated.warnings);
    let former = state.resources.replace(update.resources.clone());
    let saved = directory.save(state);
    let done = saved.and_then(|()| match &class {
        Some(class) => reclass(class, directory, state, &cgroup),
        None => Ok(()),
    });
    if let Err(error) = done {
        state.resources = former;
        let error = match directory.save(state) {
            Ok(()) => error,
            Err(again) => error.and(&again),
        };
        return Err(updated.take_back(error));
    }
    warnings
        .iter()
        .for_each(|warning| context.log.warn(warning));
    Ok(())
}

fn current(directory: &Locked, state: &State) -> Result<LinuxResources> {
    if let Some(resources) = &state.resources {
        return Ok(resources.clone());
    }
    let spec = spec::parse(&directory.config()?)?.value;
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().clone());
    Ok(resources.unwrap_or_default())
}

/// What the flags ask for of the container's class of service, if they do and the machine has it.
fn class(request: &cli::Update) -> Result<Option<ResctrlPlan>> {
    if request.cache.is_none() && request.bandwidth.is_none() {
        return Ok(None);
    }
    let mut config = LinuxIntelRdt::default();
    config
        .set_l3_cache_schema(request.cache.clone())
        .set_mem_bw_schema(request.bandwidth.clone());
    let plan = plan::resctrl::plan(&config, request.id.as_str())?;
    resctrl::check_update(&plan)?;
    Ok(Some(plan))
}

/// Changes the container's class, or makes one for a container that has none, as runc does.
fn reclass(
    plan: &ResctrlPlan,
    directory: &Locked,
    state: &mut State,
    cgroup: &Cgroup,
) -> Result<()> {
    if let Some(group) = Group::saved(&state.resctrl)? {
        return group.set(&plan.schemata);
    }
    let group = Group::locate(plan)?;
    state.resctrl = serde_json::to_value(&group)
        .map_err(|e| Error::new(Kind::System, format!("save the resctrl group: {e}")))?;
    // Before it is made, so that `delete` knows of it whatever happens.
    directory.save(state)?;
    group.make(plan)?;
    let processes = cgroup.processes()?;
    processes
        .into_iter()
        .try_for_each(|pid| group.add(pid.as_raw()))
}

fn document(path: &Path) -> Result<LinuxResources> {
    let story = || format!("read resources from {}", path.display());
    spec::parse_resources(&read_or_stdin(path)?).context(story)
}
