//! `create`, and the part of `run` that is the same: a container whose init is set up and waits for the word to start.
//!
//! What is read and checked before anything is made is in `prepare`; what is made here is taken back if the rest fails.

pub(super) mod prepare;
mod restore;

pub(super) use prepare::{cgroup_plan, console_socket};
pub(super) use restore::{Restored, restore};

use super::{
    Context, HOOK_WARN_AFTER, hook_manner, hook_state, hook_warn_ms, hooks, pid_file, pidfd_socket,
    state_around_pid,
};
use crate::cgroup::{self, Cgroup};
use crate::cli::{self, DryRun};
use crate::foreground::Signals;
use crate::hooks::Kind as HookKind;
use crate::host::Host;
use crate::notify_socket;
use crate::output::print;
use crate::plan::outline::Outline;
use crate::plan::{self, Plan, Request};
use crate::report::{self, Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spawn::{self, Child};
use crate::state::{Init, Locked, OCI_VERSION, State, Status};
use crate::sys::mount::mount_id;
use crate::sys::process::pidfd_open;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Spec;
use prepare::{Prepared, prepare, root_of};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Who starts the container, and where its terminal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The `start` command, by the fifo.
    Create,
    /// `run --detach`.
    Detached,
    /// `run`: the terminal's master stays here.
    Foreground,
}

impl Mode {
    /// That of `run` and `restore`.
    pub(super) fn of(detach: bool) -> Self {
        match detach {
            true => Mode::Detached,
            false => Mode::Foreground,
        }
    }

    /// Takes the signals for the container, if this command will stay with it. To be called when all is read and nothing is made: a config
    /// can be a pipe whose writer never comes, and until then a signal is for this command.
    fn take_signals(self) -> Result<Option<Signals>> {
        (self == Mode::Foreground).then(Signals::block).transpose()
    }
}

/// A container that waits to be started.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) directory: Locked,
    pub(super) state: State,
    pub(super) spec: Spec,
    pub(super) child: Child,
    pub(super) host: Host,
    /// In the foreground.
    pub(super) signals: Option<Signals>,
}

/// The `create` command.
pub(super) fn run(context: &Context<'_>, request: &cli::Create) -> Result<()> {
    if request.dry_run.is_some() {
        return outline(context, request, Mode::Create);
    }
    let mut created = create(context, request, Mode::Create)?;
    created.child.release()
}

/// Creates a container. What fails leaves nothing behind.
pub(super) fn create(context: &Context<'_>, request: &cli::Create, mode: Mode) -> Result<Created> {
    context.trace.begin("read the bundle");
    let failed = || failed(context, request, mode);
    let mut prepared = prepare(context, request, mode).context(failed)?;
    let signals = mode.take_signals()?;
    context.trace.begin("make the container's directory");
    let directory = context.root.create(&request.id)?;
    let mut state = initial_state(&prepared);
    let mut made = Made {
        cgroup: None,
        resctrl: None,
        child: None,
    };
    match construct(context, &mut prepared, &directory, &mut made, &mut state) {
        Ok(child) => Ok(Created {
            directory,
            state,
            spec: prepared.spec,
            child,
            host: prepared.host,
            signals,
        }),
        Err(error) => {
            take_back(context, made, directory, &prepared.spec, &state);
            Err(error.context(failed()))
        }
    }
}

/// Says what `create` would do, and does none of it.
pub(super) fn outline(context: &Context<'_>, request: &cli::Create, mode: Mode) -> Result<()> {
    let failed = || failed(context, request, mode);
    let mut prepared = prepare(context, request, mode).context(failed)?;
    let state = initial_state(&prepared);
    let located = cgroup::locate(&prepared.cgroup).context(failed)?;
    let group = located
        .as_ref()
        .map(|located| (located.mountpoint(), located.host_path()));
    let path = group.as_ref().map(|(_, path)| path.clone());
    let plan = make_plan(&mut prepared, &state, group).context(failed)?;
    let outline = Outline::of(&plan, path);
    match request.dry_run {
        Some(DryRun::Json) => {
            let text = serde_json::to_string_pretty(&outline)
                .map_err(|e| Error::new(Kind::System, format!("write the plan: {e}")))?;
            print(&(text + "\n"))
        }
        _ => print(&outline.to_string()),
    }
}

fn failed(context: &Context<'_>, request: &cli::Create, mode: Mode) -> String {
    let verb = match mode {
        Mode::Create => "create",
        Mode::Detached | Mode::Foreground => "run",
    };
    context.failed(verb, "create", request.id.as_str())
}

/// What exists by now and has to go if the rest fails.
struct Made {
    cgroup: Option<Cgroup>,
    resctrl: Option<Group>,
    child: Option<Child>,
}

/// Makes what the container's process is born into, noting what exists in `made` and `state`.
fn reserve(
    context: &Context<'_>,
    prepared: &mut Prepared<'_>,
    directory: &Locked,
    made: &mut Made,
    state: &mut State,
) -> Result<()> {
    context.trace.begin("make the cgroup");
    // Saved before it is made: a command that is killed from here on leaves a trail for `delete --force`.
    let located = cgroup::locate(&prepared.cgroup)?;
    if let Some(located) = &located {
        state.cgroup = serde_json::to_value(&located.saved)
            .map_err(|e| Error::new(Kind::System, format!("save the cgroup: {e}")))?;
    }
    let resctrl = prepared.resctrl.as_ref().map(Group::locate).transpose()?;
    state.resctrl = serde_json::to_value(&resctrl)
        .map_err(|e| Error::new(Kind::System, format!("save the resctrl group: {e}")))?;
    if own_namespaces(&prepared.spec) & libc::CLONE_NEWNS as u64 == 0 {
        let below = mount_id(&state.rootfs);
        state.below_root = Some(below.context(|| format!("find the mount of {:?}", state.rootfs))?);
    }
    directory.save(state)?;
    if let (Some(group), Some(plan)) = (resctrl, &prepared.resctrl) {
        made.resctrl.insert(group).make(plan)?;
    }
    if notify_socket::supervisor().is_some() {
        notify_socket::extend(&mut prepared.spec, &directory.make_notify()?);
    }
    let created = cgroup::create(&prepared.cgroup, located)?;
    created
        .warnings
        .iter()
        .for_each(|warning| context.log.warn(warning));
    made.cgroup = created.cgroup;
    if made.cgroup.is_none() {
        state.cgroup = serde_json::Value::Null;
        if own_namespaces(&prepared.spec) & libc::CLONE_NEWPID as u64 == 0 {
            let text = "the container has neither a cgroup nor a pid namespace of its own: processes that outlive its first one cannot be found and killed";
            context.log.warn(text);
        }
    }
    Ok(())
}

/// Makes the container, noting what exists in `made` and `state`.
fn construct(
    context: &Context<'_>,
    prepared: &mut Prepared<'_>,
    directory: &Locked,
    made: &mut Made,
    state: &mut State,
) -> Result<Child> {
    reserve(context, prepared, directory, made, state)?;
    let agent = super::seccomp::agent(
        prepared.seccomp.as_ref(),
        &prepared.spec,
        state,
        Status::Creating,
        None,
    )?;
    context.trace.begin("plan");
    let group = made
        .cgroup
        .as_ref()
        .map(|cgroup| (cgroup.mountpoint(), cgroup.host_path()));
    let plan = make_plan(prepared, state, group)?;
    context.log_plan(&plan);
    state.namespaces = own_namespaces(&prepared.spec);
    directory.save_config(&prepared.config)?;
    if let Some(bytes) = plan.steps.iter().find_map(filter_bytes) {
        directory.save_seccomp(&bytes)?;
    }
    let fifo = match prepared.mode {
        Mode::Create => Some(make_fifo(prepared, directory)?),
        _ => None,
    };
    let child = made.child.insert(spawn::spawn(
        plan,
        spawn::Surroundings {
            host: &prepared.host,
            cgroup: made.cgroup.as_ref(),
            beside: None,
            resctrl: made.resctrl.as_ref(),
            fifo,
            console_socket: prepared.console_socket.take(),
            hook_outputs: hook_outputs(prepared, state)?,
            agent,
            process: None,
            trace: context.trace,
            lock: Some(directory.lock_fd()),
        },
    )?);
    let (spec, host) = (&prepared.spec, &prepared.host);
    context.log_birth(child);
    let warn = |text| context.log.alert(text);
    let serve = |request, pid| match (request, &mut made.cgroup) {
        (Request::Delegate, Some(cgroup)) => cgroup.hand_below(&prepared.cgroup, pid),
        _ => run_hooks(spec, state, pid, &warn),
    };
    child
        .until_created(host, serve, &warn)
        .map_err(|e| explain(e, made.cgroup.as_ref()))?;
    context
        .log
        .debug(|| "init: closing the pipe to signal completion: all is set up");
    context.trace.begin("save the state");
    if let Some(cgroup) = &mut made.cgroup {
        cgroup.release()?;
    }
    let child = made
        .child
        .as_mut()
        .ok_or_else(|| Error::new(Kind::System, "no container process"))?;
    state.init = Some(Init::of(child.pid)?);
    directory.save(state)?;
    pidfd_socket::send(&prepared.pidfd_sockets, &child.pidfd, pidfd_socket::INIT)?;
    if let Some(path) = &prepared.request.pid_file {
        pid_file::write(path, child.pid)?;
    }
    made.child
        .take()
        .ok_or_else(|| Error::new(Kind::System, "no container process"))
}

/// Names the limit that killed init, if the kernel counted one.
fn explain(error: Error, cgroup: Option<&Cgroup>) -> Error {
    let Some(hits) = cgroup
        .and_then(|cgroup| cgroup.limit_hits().ok())
        .filter(|hits| hits.any())
    else {
        return error;
    };
    let kind = error.kind();
    let text = format!("{error} ({hits})");
    Error::new(kind, text)
}

fn run_hooks(spec: &Spec, state: &State, pid: i32, warn: &dyn Fn(String)) -> Result<()> {
    let mut manner = hook_manner(&state.annotations, &state.bundle, warn)?;
    // Not reaped by anybody but us.
    manner.creates = Some(pidfd_open(pid).context(|| "open the container's process")?);
    let text = hook_state(state, Status::Creating, Some(&pid.to_string()))?;
    for kind in [HookKind::Prestart, HookKind::CreateRuntime] {
        crate::hooks::run_all(kind, hooks(spec, kind), &text, &manner)?;
    }
    Ok(())
}

/// The files for the output of hooks that init runs.
fn hook_outputs(prepared: &Prepared<'_>, state: &State) -> Result<[Option<OwnedFd>; 2]> {
    let none = |hooks: &Option<Vec<_>>| hooks.as_ref().is_none_or(Vec::is_empty);
    let hooks = prepared.spec.hooks().as_ref();
    if hooks.is_none_or(|hooks| none(hooks.create_container()) && none(hooks.start_container())) {
        return Ok([None, None]);
    }
    let outputs = hook_manner(&state.annotations, &state.bundle, &|_| {})?.outputs;
    Ok(outputs.map(|output| output.map(|output| output.file.into())))
}

fn initial_state(prepared: &Prepared<'_>) -> State {
    State {
        oci_version: OCI_VERSION.to_owned(),
        id: prepared.request.id.clone(),
        bundle: prepared.bundle.clone(),
        rootfs: prepared.rootfs.clone(),
        created: crate::timestamp::nanoseconds(std::time::SystemTime::now()),
        owner: prepared.host.euid,
        init: None,
        annotations: prepared
            .spec
            .annotations()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        namespaces: 0,
        joined_pids: joins_pids(&prepared.spec),
        no_new_keyring: prepared.request.no_new_keyring,
        cgroup: serde_json::Value::Null,
        resources: None,
        resctrl: serde_json::Value::Null,
        below_root: None,
    }
}

/// The plan, for a group at these paths: where the hierarchy is mounted, and the group's own.
fn make_plan(
    prepared: &mut Prepared<'_>,
    state: &State,
    cgroup: Option<(&Path, PathBuf)>,
) -> Result<Plan> {
    let has_hooks = prepared.spec.hooks().is_some();
    // The pid is for init to fill in, which alone knows it: it is the one in the container's pid namespace.
    let hook_states = if has_hooks {
        [
            state_around_pid(state, Status::Creating)?,
            state_around_pid(state, Status::Created)?,
        ]
    } else {
        <[[Vec<u8>; 2]; 2]>::default()
    };
    let hook_warn_ms = hook_warn_ms(state.annotations.get(HOOK_WARN_AFTER))?;
    plan::create::create(
        &prepared.spec,
        plan::create::Options {
            id: prepared.request.id.as_str(),
            bundle: &prepared.bundle,
            rootfs: &prepared.rootfs,
            host: &prepared.host,
            no_pivot: prepared.request.no_pivot,
            no_new_keyring: prepared.request.no_new_keyring,
            preserved_fds: prepared.preserved_fds,
            detached: prepared.mode != Mode::Foreground,
            cgroup_root: cgroup.as_ref().map(|(root, _)| *root),
            cgroup_path: cgroup.as_ref().map(|(_, path)| path.as_path()),
            delegates: cgroup.is_some() && prepared.cgroup.delegated.is_some(),
            start_by_fifo: prepared.mode == Mode::Create,
            seccomp: prepared.seccomp.take(),
            hook_states,
            hook_warn_ms,
        },
    )
}

fn filter_bytes(step: &plan::Step) -> Option<Vec<u8>> {
    match step {
        plan::Step::Seccomp(filter) => Some(filter.to_saved()),
        _ => None,
    }
}

/// The `CLONE_NEW*` of the namespaces in the config: those that exec has to join.
fn own_namespaces(spec: &Spec) -> u64 {
    let linux = spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_ref());
    list.into_iter()
        .flatten()
        .fold(0, |flags, ns| flags | ns.typ() as u64)
}

/// Whether the pid namespace in the config is one that is there already.
fn joins_pids(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut list = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    list.any(|ns| ns.typ() as u64 == libc::CLONE_NEWPID as u64 && ns.path().is_some())
}

/// The start fifo belongs to the container's root, who opens it.
fn make_fifo(prepared: &Prepared<'_>, directory: &Locked) -> Result<OwnedFd> {
    let linux = prepared.spec.linux().as_ref();
    let uid = root_of(linux.and_then(|l| l.uid_mappings().as_ref()));
    let gid = root_of(linux.and_then(|l| l.gid_mappings().as_ref()));
    let (uid, gid) = (
        uid.unwrap_or(prepared.host.euid),
        gid.unwrap_or(prepared.host.egid),
    );
    directory.make_fifo(Uid::from_raw(uid), Gid::from_raw(gid))?;
    let fifo = directory.open_fifo(OFlag::O_PATH)?;
    fifo.ok_or_else(|| Error::new(Kind::System, "the start fifo vanished"))
}

/// Removes what a failed create has made. The specification continues a failed create with the steps of delete.
fn take_back(context: &Context<'_>, made: Made, directory: Locked, spec: &Spec, state: &State) {
    let warn = |what: &str, result: report::Result<()>| {
        if let Err(error) = result {
            context.log.warn(format!("{what}: {error}, ignoring"));
        }
    };
    let had_child = made.child.is_some();
    if let Some(child) = made.child {
        child.kill();
    }
    if let Some(cgroup) = made.cgroup {
        warn("kill what is left of the failed container", cgroup.kill());
        warn(
            "remove the cgroup of the failed container",
            cgroup.discard(),
        );
    }
    if let Some(group) = made.resctrl {
        warn(
            "remove the resctrl groups of the failed container",
            group.remove(),
        );
    }
    warn(
        "unmount the root of the failed container",
        super::delete::unmount_root(state),
    );
    warn(
        "remove the directory of the failed container",
        directory.remove(),
    );
    if had_child {
        super::delete::run_poststop(context, spec, state);
    }
}
