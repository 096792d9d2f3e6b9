//! `check`: everything of a bundle that would fail here, before anything runs.
//!
//! Goes the way of `create` as far as that makes nothing, and collects where that stops at the first error; what comes after is `crate::check`'s to foresee.

use super::create::prepare::{cgroup, refuse_host_network, resctrl, root_directory};
use super::pidfd_socket::{RECEIVER, receiver};
use super::{Context, HOOK_WARN_AFTER, hook_warn_ms, seccomp};
use crate::check::{self, Document, Finding, Findings, Subject};
use crate::host::Host;
use crate::output::print;
use crate::plan;
use crate::report::{Context as _, Error, Faults, Kind, Result};
use crate::resctrl::Group;
use crate::spec;
use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};

/// The id of the container that will not be: it has a part in the names of groups.
const ID: &str = "check";

/// Prints what was found, and returns the exit code: 0 only if nothing would fail.
pub(super) fn run(context: &Context<'_>, bundle: &Path, json: bool) -> Result<u8> {
    let mut findings = Findings::default();
    let document = look(context, bundle, &mut findings)?;
    let code = u8::from(findings.any_error());
    let list = findings.in_order(&document);
    print(&text(&list, json)?)?;
    Ok(code)
}

fn text(list: &[Finding], json: bool) -> Result<String> {
    if !json {
        return Ok(list.iter().map(|finding| format!("{finding}\n")).collect());
    }
    let text = serde_json::to_string_pretty(list)
        .map_err(|e| Error::new(Kind::System, format!("write the findings: {e}")))?;
    Ok(text + "\n")
}

fn look(context: &Context<'_>, bundle: &Path, findings: &mut Findings) -> Result<Document> {
    let bundle =
        std::path::absolute(bundle).context(|| format!("find bundle {}", bundle.display()))?;
    let text = match spec::read(&bundle.join("config.json")) {
        Ok(text) => text,
        Err(error) => {
            findings.error(error);
            return Ok(Document::default());
        }
    };
    let (parsed, document) = check::read(&text, findings);
    let Some(parsed) = parsed else {
        return Ok(document);
    };
    let spec = parsed.value;
    for warning in &parsed.warnings {
        findings.warn("process.capabilities", warning);
    }
    let host = context.host()?;
    let mut faults = Faults::default();
    let prepared = prepare(context, &spec, &bundle, &host, findings, &mut faults);
    let located = prepared
        .cgroup
        .as_ref()
        .and_then(|plan| crate::cgroup::locate(plan).ok())
        .flatten();
    let group = located
        .as_ref()
        .map(|located| (located.mountpoint(), located.host_path()));
    let rootfs = prepared.rootfs.clone();
    let annotations = spec.annotations().as_ref();
    let warn_after = annotations.and_then(|all| all.get(HOOK_WARN_AFTER));
    let warn_ms = faults.keep_in("annotations", hook_warn_ms(warn_after));
    let options = plan::create::Options {
        id: ID,
        bundle: &bundle,
        rootfs: rootfs.as_deref().unwrap_or(&bundle),
        host: &host,
        no_pivot: false,
        no_new_keyring: false,
        preserved_fds: 0,
        detached: true,
        cgroup_root: group.as_ref().map(|(root, _)| *root),
        cgroup_path: group.as_ref().map(|(_, path)| path.as_path()),
        delegates: prepared
            .cgroup
            .as_ref()
            .is_some_and(|plan| plan.delegated.is_some()),
        start_by_fifo: true,
        seccomp: prepared.seccomp,
        hook_states: <[[Vec<u8>; 2]; 2]>::default(),
        hook_warn_ms: warn_ms.flatten(),
    };
    let plan = plan::create::draft(&spec, options, &mut faults);
    faults
        .all()
        .into_iter()
        .for_each(|error| findings.error(error));
    if let Some(plan) = &plan {
        let subject = Subject {
            spec: &spec,
            bundle: &bundle,
            rootfs: rootfs.as_deref(),
            host: &host,
            plan,
            cgroup: prepared.cgroup.as_ref(),
        };
        check::look(&subject, findings);
    }
    Ok(document)
}

/// What `create` knows before it makes anything, as far as there is such.
struct Prepared {
    rootfs: Option<PathBuf>,
    cgroup: Option<plan::cgroup::CgroupPlan>,
    seccomp: Option<plan::seccomp::Filter>,
}

fn prepare(
    context: &Context<'_>,
    spec: &Spec,
    bundle: &Path,
    host: &Host,
    findings: &mut Findings,
    faults: &mut Faults,
) -> Prepared {
    let rootfs = faults.keep(root_directory(spec, bundle));
    faults.keep(refuse_host_network(spec));
    let cgroup = plan::cgroup::draft(&cgroup(context, spec, host, ID), faults);
    let resctrl = resctrl(spec, ID);
    let group = resctrl.and_then(|plan| plan.as_ref().map(Group::locate).transpose());
    faults.keep_in("linux.intelRdt", group);
    let seccomp = faults
        .keep_in("linux.seccomp", seccomp::compile(spec))
        .flatten();
    sockets(spec, bundle, seccomp.as_ref(), findings);
    let resources = cgroup
        .iter()
        .flat_map(|plan| plan.limits.warnings.iter().chain(&plan.devices.warnings));
    resources.for_each(|warning| findings.warn("linux.resources", warning));
    let filter = seccomp.iter().flat_map(|filter| &filter.warnings);
    filter.for_each(|warning| findings.warn("linux.seccomp", warning));
    let unraised = spec.process().as_ref().map(plan::process::ambient_warnings);
    let unraised = unraised.iter().flatten();
    unraised.for_each(|warning| findings.warn("process.capabilities.ambient", warning));
    let unknown = spec.linux().iter().flat_map(plan::personality::warnings);
    unknown.for_each(|warning| findings.warn("linux.personality", warning));
    Prepared {
        rootfs,
        cgroup,
        seccomp,
    }
}

/// Who gets the filter's listener and the pidfd of init.
fn sockets(
    spec: &Spec,
    bundle: &Path,
    filter: Option<&plan::seccomp::Filter>,
    findings: &mut Findings,
) {
    let notifies = filter.is_some_and(plan::seccomp::Filter::notifies);
    let listener = seccomp::listener_path(spec).filter(|_| notifies);
    if let Some(path) = listener {
        check::socket("linux.seccomp.listenerPath", &bundle.join(path), findings);
    }
    if let Some(path) = receiver(spec) {
        let field = format!("annotations[{RECEIVER:?}]");
        check::socket(&field, &bundle.join(path), findings);
    }
}
