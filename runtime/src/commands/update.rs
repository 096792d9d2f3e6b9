//! `update`: changes the resources of a container that exists.
//!
//! The resources that a container has are those of its config until the first update, and from then on those in state.json: the next
//! update starts from them. The config stays as it was at create.

use super::Context;
use crate::cli::{self, Resources};
use crate::plan;
use crate::report::{Context as _, Error, Kind, Result};
use crate::spec;
use crate::state::{Locked, State, Status};
use oci_spec::runtime::LinuxResources;
use std::borrow::Cow;
use std::io::Read;
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
    change(context, &directory, &mut state, &given, request.force)
        .context(|| format!("update container '{}'", request.id))
}

fn change(
    context: &Context<'_>,
    directory: &Locked,
    state: &mut State,
    given: &LinuxResources,
    force: bool,
) -> Result<()> {
    let wrong_state = |text: &str| Err(Error::new(Kind::State, text));
    match context.status(directory, state)? {
        Status::Stopped => return wrong_state("container not running"),
        Status::Creating => return wrong_state("the container is still being created"),
        Status::Created | Status::Running | Status::Paused => {}
    }
    let Some(cgroup) = context.cgroup(state)? else {
        let text = "the container has no cgroup, which resources need";
        return Err(Error::new(Kind::Unsupported, text));
    };
    let update = plan::update::update(&current(directory, state)?, given, force)?;
    let mut updated = cgroup.update(&update)?;
    let warnings = std::mem::take(&mut updated.warnings);
    state.resources = Some(update.resources.clone());
    if let Err(error) = directory.save(state) {
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

fn document(path: &Path) -> Result<LinuxResources> {
    let story = || format!("read resources from {}", path.display());
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        let read = std::io::stdin().read_to_end(&mut text);
        read.map(|_| text)
    } else {
        std::fs::read(path)
    };
    spec::parse_resources(&text.context(story)?).context(story)
}
