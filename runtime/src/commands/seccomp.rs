//! The seccomp filter of a container: which one it is, who serves it if it notifies, and `seccomp dump`, which prints one.

use super::{Context, state_around_pid};
use crate::listener::Agent;
use crate::plan;
use crate::plan::seccomp::{self, Filter};
use crate::report::{Context as _, Error, Kind, Result};
use crate::state::{ContainerId, Directory, State, Status};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use std::io::Write;
use std::path::{Path, PathBuf};

/// crun's annotation for a socket that listens for the filter's notifications, where the profile names none.
const RECEIVER: &str = "run.oci.seccomp.receiver";

/// crun's annotation: a name that no architecture has is an error.
const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";

/// Compiles the filter that a config asks for, and logs what was ignored.
pub(super) fn filter(context: &Context<'_>, spec: &Spec) -> Result<Option<Filter>> {
    let filter = compile(spec)?;
    let warnings = filter.iter().flat_map(|filter| &filter.warnings);
    warnings.for_each(|warning| context.log.warn(warning));
    Ok(filter)
}

/// Compiles the filter that a config asks for.
pub(super) fn compile(spec: &Spec) -> Result<Option<Filter>> {
    let annotation = |name| spec.annotations().as_ref().and_then(|all| all.get(name));
    let profile = profile(spec);
    let filter = match annotation(seccomp::BPF_DATA) {
        Some(data) => Some(seccomp::decode(data, profile)?),
        None => profile
            .map(seccomp::compile)
            .transpose()
            .context(|| "compile linux.seccomp")?,
    };
    let Some(filter) = filter else {
        return Ok(None);
    };
    if plan::is_on(annotation(FAIL_UNKNOWN)) && !filter.unknown.is_empty() {
        return Err(Error::invalid(format!(
            "seccomp: unknown system calls {}, which annotation {FAIL_UNKNOWN} forbids",
            filter.unknown.join(", ")
        )));
    }
    if filter.notifies() && listener_path(spec).is_none() {
        return Err(Error::invalid(
            "seccomp listenerPath is not set, and a rule has the action SCMP_ACT_NOTIFY",
        ));
    }
    Ok(Some(filter))
}

/// Who serves the filter: None if it notifies nobody. `status` and `init` are those of the container; None: its init is the process itself.
pub(super) fn agent(
    filter: Option<&Filter>,
    spec: &Spec,
    state: &State,
    status: Status,
    init: Option<i32>,
) -> Result<Option<Agent>> {
    if !filter.is_some_and(Filter::notifies) {
        return Ok(None);
    }
    let profile = profile(spec);
    let path =
        listener_path(spec).ok_or_else(|| Error::invalid("seccomp listenerPath is not set"))?;
    Ok(Some(Agent {
        // runc works in the bundle's directory.
        path: state.bundle.join(path),
        metadata: profile
            .and_then(|profile| profile.listener_metadata().clone())
            .unwrap_or_default(),
        state: state_around_pid(state, status)?,
        init,
    }))
}

fn profile(spec: &Spec) -> Option<&LinuxSeccomp> {
    spec.linux().as_ref()?.seccomp().as_ref()
}

/// Where the agent listens, absolute or relative to the bundle.
pub(super) fn listener_path(spec: &Spec) -> Option<PathBuf> {
    let listed = profile(spec).and_then(|profile| profile.listener_path().clone());
    let annotations = spec.annotations().as_ref();
    let receiver = || annotations.and_then(|all| all.get(RECEIVER).map(PathBuf::from));
    listed
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(receiver)
}

/// The container's filter, as `create` saved it.
pub(super) fn saved(directory: &Directory) -> Result<Option<Filter>> {
    let Some(bytes) = directory.seccomp()? else {
        return Ok(None);
    };
    let filter = Filter::from_saved(&bytes);
    filter.map(Some).ok_or_else(|| {
        Error::new(
            Kind::System,
            "the saved seccomp filter of the container is damaged",
        )
    })
}

/// Compiles the profile in a file and prints the program.
pub(super) fn dump_profile(profile: &Path, raw: bool) -> Result<()> {
    let text = std::fs::read(profile).context(|| format!("read {}", profile.display()))?;
    let profile = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(format!("parse {}: {e}", profile.display())))?;
    print(&seccomp::compile(&profile)?, raw)
}

/// Prints the program that a container's processes are under.
pub(super) fn dump_container(context: &Context<'_>, id: &ContainerId, raw: bool) -> Result<()> {
    let directory = context.root.directory(id)?;
    directory.load()?;
    let filter = saved(&directory)?.ok_or_else(|| {
        Error::new(
            Kind::State,
            format!("container '{id}' has no seccomp filter"),
        )
    })?;
    print(&filter, raw)
}

fn print(filter: &Filter, raw: bool) -> Result<()> {
    if raw {
        return std::io::stdout()
            .write_all(&filter.to_bytes())
            .context(|| "write to standard output");
    }
    crate::output::print(&filter.disassemble())
}
