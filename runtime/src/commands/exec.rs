//! `exec`: one more process in a running container.

use super::create::console_socket;
use super::{Context, pid_file, pidfd_socket, seccomp, start};
use crate::cgroup::Cgroup;
use crate::cli::{self, ExecProcess, ProcessChanges};
use crate::foreground::{self, Signals};
use crate::plan;
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spawn::{self, Child};
use crate::spec;
use crate::state::{Directory, State, Status};
use crate::sys::Errno;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};
use std::os::fd::{AsFd, OwnedFd};

/// Engines look for the last words.
const STOPPED: &str = "cannot exec in a stopped container: container not running";

/// The `exec` command. Returns the process's exit status, or 0 if it is detached.
pub(super) fn run(context: &Context<'_>, request: &cli::Exec) -> Result<u8> {
    let story = || context.failed("exec", "exec in", request.id.as_str());
    let (child, signals) = exec(context, request).context(story)?;
    let Some(signals) = signals else {
        return Ok(0);
    };
    context.trace.begin("wait");
    context.write_trace();
    foreground::wait(
        &signals,
        foreground::Child {
            pid: child.pid,
            pidfd: child.pidfd.as_fd(),
        },
        child.terminal,
        None,
    )
}

/// The process and, in the foreground, the signals for it.
fn exec(context: &Context<'_>, request: &cli::Exec) -> Result<(Child, Option<Signals>)> {
    let directory = context.root.directory(&request.id)?;
    let state = directory.load()?;
    exec_in(context, request, &directory, &state).map_err(|error| explain(error, &state))
}

fn exec_in(
    context: &Context<'_>,
    request: &cli::Exec,
    directory: &Directory,
    state: &State,
) -> Result<(Child, Option<Signals>)> {
    context.trace.begin("read the container");
    let (pidfd, status) = running(context, request, directory, state)?;
    let config = spec::parse(&directory.config()?)?.value;
    let process = process(context, request, &config)?;
    let unraised = plan::process::ambient_warnings(&process);
    unraised
        .iter()
        .for_each(|warning| context.log.warn(warning));
    let terminal = process.terminal().unwrap_or(false);
    let console_socket =
        console_socket(request.console_socket.as_deref(), terminal, request.detach)?;
    let pidfd_sockets = pidfd_socket::connect(request.pidfd_socket.as_deref())?;
    context.inherited.check(request.preserve_fds)?;
    let host = context.host()?;
    let filter = seccomp::saved(directory)?;
    let agent = seccomp::agent(filter.as_ref(), &config, state, status, state.pid())?;
    context.trace.begin("plan");
    let plan = plan::exec::exec(
        &process,
        plan::exec::Options {
            id: request.id.as_str(),
            host: &host,
            namespaces: state.namespaces,
            init: state.pid().unwrap_or_default(),
            new_keyring: !state.no_new_keyring,
            keep_groups: plan::is_on(state.annotations.get(plan::KEEP_GROUPS)),
            preserved_fds: request.preserve_fds,
            detached: request.detach,
            landlock: plan::landlock::parse(state.annotations.get(plan::landlock::ANNOTATION))?,
            seccomp: filter,
            linux: config.linux().as_ref(),
        },
    )?;
    context.log_plan(&plan);
    let cgroup = cgroup(context, request, state)?;
    let resctrl = Group::saved(&state.resctrl)?.filter(Group::exists);
    // Not before all is read: the process's document can be a pipe whose writer never comes, and until then a signal is for us.
    let signals = (!request.detach).then(Signals::block).transpose()?;
    let mut child = spawn::spawn(
        plan,
        spawn::Surroundings {
            cgroup: cgroup.as_ref(),
            // Who names a group means it.
            beside: request.cgroup.is_none().then(|| state.pid()).flatten(),
            resctrl: resctrl.as_ref(),
            console_socket,
            agent,
            process: Some(pidfd),
            ..spawn::Surroundings::none(&host, context.trace)
        },
    )?;
    context.log_birth(&child);
    context
        .log
        .debug(|| "setns_init: about to exec, once it has joined the container");
    let written = child
        .until_executed(&host, &|_| {}) // it has no hooks
        .and_then(|()| pidfd_socket::send(&pidfd_sockets, &child.pidfd, pidfd_socket::EXEC))
        .and_then(|()| match &request.pid_file {
            Some(path) => pid_file::write(path, child.pid),
            None => Ok(()),
        });
    written.inspect_err(|_| child.kill())?;
    Ok((child, signals))
}

/// No lock keeps the container from ending meanwhile, which shows in whatever comes next. A process that is ending has no namespaces any
/// more (ESRCH) a moment before it counts as ended.
fn explain(error: Error, state: &State) -> Error {
    let ending = error.errno() == Some(Errno::ESRCH);
    match state.init.map(|init| init.is_alive()) {
        Some(Ok(alive)) if error.kind() != Kind::State && (ending || !alive) => {
            Error::new(Kind::State, format!("{STOPPED}: {error}"))
        }
        _ => error,
    }
}

/// The container's init and status, if a process may be added to it now.
fn running(
    context: &Context<'_>,
    request: &cli::Exec,
    directory: &Directory,
    state: &State,
) -> Result<(OwnedFd, Status)> {
    let stopped = || Error::new(Kind::State, STOPPED);
    let status = context.status(directory, state)?;
    match status {
        Status::Stopped => return Err(stopped()),
        Status::Creating => {
            return Err(Error::new(
                Kind::State,
                "cannot exec in a container that is still being created",
            ));
        }
        Status::Paused if !request.ignore_paused => {
            let text = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(Error::new(Kind::State, text));
        }
        Status::Created | Status::Running | Status::Paused => {}
    }
    let init = state.init.ok_or_else(stopped)?;
    let pidfd = start::open_init(&init)?.ok_or_else(stopped)?;
    Ok((pidfd, status))
}

/// The group that the process is born in.
fn cgroup(context: &Context<'_>, request: &cli::Exec, state: &State) -> Result<Option<Cgroup>> {
    match (context.cgroup(state)?, &request.cgroup) {
        (Some(cgroup), Some(path)) => cgroup.below(path).map(Some),
        (None, Some(_)) => Err(Error::new(
            Kind::Unsupported,
            "--cgroup: the container has no cgroup",
        )),
        (cgroup, None) => Ok(cgroup),
    }
}

/// The process to run: a document of its own, or the container's process with changes.
fn process(context: &Context<'_>, request: &cli::Exec, config: &Spec) -> Result<Process> {
    let own = config
        .process()
        .clone()
        .ok_or_else(|| Error::invalid("config.json has no process"))?;
    match &request.process {
        ExecProcess::File(path) => {
            let text =
                std::fs::read(path).context(|| format!("read process file {}", path.display()))?;
            let parsed = spec::parse_process(&text)
                .context(|| format!("parse process file {}", path.display()))?;
            parsed
                .warnings
                .iter()
                .for_each(|warning| context.log.warn(warning));
            Ok(inherit(parsed.value, &own))
        }
        ExecProcess::Changed(changes) => Ok(change(own, changes, context)),
    }
}

/// A process document without these fields has the container's, as with runc. Not so noNewPrivileges: what is written in Go leaves out a `false`;
/// nor the rlimits, which are the caller's then.
fn inherit(mut process: Process, own: &Process) -> Process {
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if empty(process.apparmor_profile()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if empty(process.selinux_label()) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.user().umask().is_none() {
        let mut user = process.user().clone();
        user.set_umask(own.user().umask());
        process.set_user(user);
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    process
}

fn change(mut process: Process, changes: &ProcessChanges, context: &Context<'_>) -> Process {
    process.set_args(Some(changes.args.clone()));
    process.set_terminal(Some(changes.terminal));
    if let Some(cwd) = &changes.cwd {
        process.set_cwd(cwd.into());
    }
    process
        .env_mut()
        .get_or_insert_default()
        .extend(changes.env.iter().cloned());
    if let Some(user) = &changes.user {
        process.user_mut().set_uid(user.uid);
        if let Some(gid) = user.gid {
            process.user_mut().set_gid(gid);
        }
    }
    let gids = process.user_mut().additional_gids_mut();
    gids.get_or_insert_default()
        .extend(&changes.additional_gids);
    if changes.selinux_label.is_some() {
        process.set_selinux_label(changes.selinux_label.clone());
    }
    if changes.apparmor_profile.is_some() {
        process.set_apparmor_profile(changes.apparmor_profile.clone());
    }
    if changes.no_new_privileges.is_some() {
        process.set_no_new_privileges(changes.no_new_privileges);
    }
    if !changes.capabilities.is_empty() {
        let caps = process.capabilities().clone();
        let known = |name: &String| {
            let cap = serde_json::from_value(name.as_str().into()).ok();
            if cap.is_none() {
                // As in a config: the specification asks for a warning, and runc gives one.
                let warning = format!("unknown capability {name:?}, ignoring");
                context.log.warn(warning);
            }
            cap
        };
        let added = changes.capabilities.iter().filter_map(known);
        process.set_capabilities(Some(add_capabilities(caps, added)));
    }
    process
}

/// Adds to the bounding, effective and permitted set, and to the ambient one if the container has inheritable capabilities. Not to the
/// inheritable set: programs with inheritable file capabilities would get it from there (CVE-2022-29162). The kernel raises as ambient only what
/// is inheritable, so another user than root gets the capability only if the container's inheritable set has it; otherwise there is a warning,
/// and a program with file capabilities may still have it. All that as with runc.
fn add_capabilities(
    caps: Option<LinuxCapabilities>,
    added: impl Iterator<Item = Capability>,
) -> LinuxCapabilities {
    let mut caps = caps.unwrap_or_else(no_capabilities);
    for cap in added {
        let add = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(cap);
            Some(set)
        };
        let (bounding, effective, permitted) = (
            add(caps.bounding()),
            add(caps.effective()),
            add(caps.permitted()),
        );
        caps.set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted);
        if caps.inheritable().is_some() {
            let ambient = add(caps.ambient());
            caps.set_ambient(ambient);
        }
    }
    caps
}

fn no_capabilities() -> LinuxCapabilities {
    let mut caps = LinuxCapabilities::default();
    caps.set_bounding(None)
        .set_effective(None)
        .set_inheritable(None)
        .set_permitted(None)
        .set_ambient(None);
    caps
}
