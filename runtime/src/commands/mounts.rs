//! `mounts add` and `mounts remove`: mounts that come into a container which is there already, and go.
//!
//! They are those of a file, in the form of config.json's. Nothing notes them: they last as long as the container's mount namespace. Either all
//! of a file come, or none.

use super::{Context, not_running, start};
use crate::cli::MountsChange;
use crate::plan::late_mounts::{self, Container};
use crate::plan::{Plan, mounts};
use crate::report::{Context as _, Error, Kind, Result};
use crate::spawn::{self, Surroundings};
use crate::spec;
use crate::state::{ContainerId, Locked, State};
use oci_spec::runtime::Mount;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The `mounts` command.
pub(super) fn run(
    context: &Context<'_>,
    id: &ContainerId,
    file: &Path,
    change: MountsChange,
) -> Result<()> {
    // Before the lock: it may take its time to come.
    let entries = spec::parse_mounts(&super::read_or_stdin(file)?)
        .context(|| format!("read mounts from {}", file.display()))?;
    let directory = context.root.lock(id)?;
    let state = directory.load()?;
    apply(context, &directory, &state, &entries, change).context(|| match change {
        MountsChange::Add => format!("add mounts to container '{id}'"),
        MountsChange::Remove => format!("remove mounts of container '{id}'"),
    })
}

fn apply(
    context: &Context<'_>,
    directory: &Locked,
    state: &State,
    entries: &[Mount],
    change: MountsChange,
) -> Result<()> {
    let pidfd = joinable(context, directory, state)?;
    let config = spec::parse(&directory.config()?)?.value;
    let Some(linux) = config.linux() else {
        return Err(Error::invalid("config.json has no section linux"));
    };
    let root = config.root().as_ref().map(|root| root.path().as_path());
    let rootfs = state.bundle.join(root.unwrap_or(Path::new("rootfs")));
    let host = context.host()?;
    let cgroup = context.cgroup(state)?;
    let group = cgroup
        .as_ref()
        .map(|cgroup| (cgroup.mountpoint(), cgroup.host_path()));
    let container = Container {
        id: state.id.as_str(),
        host: &host,
        namespaces: state.namespaces,
        init: state.pid().unwrap_or_default(),
        bundle: &state.bundle,
        rootfs: &rootfs,
        linux,
        label_option: mounts::label_option(config.annotations().as_ref())?,
        cgroup: group.as_ref().map(|(root, path)| (*root, path.as_path())),
    };
    let carry_out = |plan: Plan| {
        context.log_plan(&plan);
        let around = Surroundings {
            process: Some(pidfd.try_clone().context(|| "duplicate a pidfd")?),
            lock: Some(directory.lock_fd()),
            ..Surroundings::none(&host, context.trace)
        };
        let child = spawn::spawn(plan, around)?;
        child.until_done().inspect_err(|_| child.kill())
    };
    let remove = |entry: &Mount| carry_out(late_mounts::remove(entry.destination(), &container)?);
    let add = |entry: &Mount| carry_out(late_mounts::add(entry, &container)?);
    match change {
        MountsChange::Remove => entries.iter().rev().try_for_each(remove),
        MountsChange::Add => {
            for (at, entry) in entries.iter().enumerate() {
                if let Err(error) = add(entry) {
                    let undone = entries[..at].iter().rev().try_for_each(remove);
                    return Err(match undone {
                        Ok(()) => error,
                        Err(again) => error.and(&again),
                    });
                }
            }
            Ok(())
        }
    }
}

/// The container's init, if its mount namespace is its own and can be joined.
fn joinable(context: &Context<'_>, directory: &Locked, state: &State) -> Result<OwnedFd> {
    context.living(directory, state)?;
    if state.namespaces & libc::CLONE_NEWNS as u64 == 0 {
        let text = "the container has no mount namespace of its own";
        return Err(Error::new(Kind::Unsupported, text));
    }
    let init = state.init.ok_or_else(not_running)?;
    start::open_init(&init)?.ok_or_else(not_running)
}
