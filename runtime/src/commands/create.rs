//! `create`, and the part of `run` that is the same: a container whose init is set up and waits for the word to start.

use super::{
    Context, HOOK_WARN_AFTER, hook_manner, hook_state, hook_warn_after, hooks, pid_file,
    pidfd_socket, state_around_pid,
};
use crate::cgroup::{self, Cgroup};
use crate::cli;
use crate::hooks::Kind as HookKind;
use crate::host::Host;
use crate::notify_socket;
use crate::plan::{self, Plan, seccomp};
use crate::report::{self, Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spawn::{self, Child};
use crate::spec;
use crate::state::{Init, Locked, OCI_VERSION, State, Status};
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Spec;
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

/// A container that waits to be started.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) directory: Locked,
    pub(super) state: State,
    pub(super) spec: Spec,
    pub(super) child: Child,
    pub(super) host: Host,
}

/// The `create` command.
pub(super) fn run(context: &Context<'_>, request: &cli::Create) -> Result<()> {
    let mut created = create(
        context,
        request,
        Mode::Create,
        SigSet::thread_get_mask().context(|| "read the signal mask")?,
    )?;
    created.child.release()
}

/// Everything that is known before anything is made.
struct Prepared<'a> {
    request: &'a cli::Create,
    bundle: PathBuf,
    rootfs: PathBuf,
    spec: Spec,
    config: Vec<u8>,
    host: Host,
    cgroup: plan::cgroup::CgroupPlan,
    resctrl: Option<plan::resctrl::ResctrlPlan>,
    seccomp: Option<seccomp::Filter>,
    console_socket: Option<OwnedFd>,
    pidfd_sockets: Vec<OwnedFd>,
    preserved_fds: u32,
    mode: Mode,
    signal_mask: SigSet,
}

/// Creates a container. What fails leaves nothing behind.
pub(super) fn create(
    context: &Context<'_>,
    request: &cli::Create,
    mode: Mode,
    signal_mask: SigSet,
) -> Result<Created> {
    let mut prepared = prepare(context, request, mode, signal_mask).context(|| failed(request))?;
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
        }),
        Err(error) => {
            take_back(context, made, directory, &prepared.spec, &state);
            Err(error.context(failed(request)))
        }
    }
}

fn failed(request: &cli::Create) -> String {
    format!("create container '{}'", request.id)
}

fn prepare<'a>(
    context: &Context<'_>,
    request: &'a cli::Create,
    mode: Mode,
    signal_mask: SigSet,
) -> Result<Prepared<'a>> {
    let bundle = std::path::absolute(&request.bundle)
        .context(|| format!("find bundle {}", request.bundle.display()))?;
    let (parsed, config) = spec::load(&bundle)?;
    parsed
        .warnings
        .iter()
        .for_each(|warning| context.log.warn(warning));
    let mut spec = parsed.value;
    let preserved_fds = listen_fds(&mut spec).saturating_add(request.preserve_fds);
    context.inherited.check(preserved_fds)?;
    let terminal = spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal)
        .unwrap_or(false);
    // runc changes into the bundle before it connects.
    let socket_path = request
        .console_socket
        .as_ref()
        .map(|path| bundle.join(path));
    let console_socket =
        console_socket(socket_path.as_deref(), terminal, mode != Mode::Foreground)?;
    let unraised = spec.process().as_ref().map(plan::process::ambient_warnings);
    let unraised = unraised.iter().flatten();
    unraised.for_each(|warning| context.log.warn(warning));
    let pidfd_sockets = pidfd_sockets(request, &spec, &bundle)?;
    let host = context.host()?;
    let rootfs = root_directory(&spec, &bundle)?;
    let linux = spec.linux().as_ref();
    refuse_host_network(&spec)?;
    let cgroup = plan::cgroup::plan(&plan::cgroup::Request {
        id: request.id.as_str(),
        driver: driver(context),
        cgroups_path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        resources: linux.and_then(|linux| linux.resources().as_ref()),
        rootless: rootless(context, &host),
        in_user_namespace: !host.initial_user_namespace,
        owner: cgroup_owner(&spec),
        annotations: spec.annotations().as_ref(),
    })?;
    let unknown = linux.into_iter().flat_map(plan::personality::warnings);
    unknown.for_each(|warning| context.log.warn(&warning));
    let resctrl = resctrl(&spec, request.id.as_str())?;
    let seccomp = super::seccomp::filter(context, &spec)?;
    Ok(Prepared {
        request,
        bundle,
        rootfs,
        spec,
        config,
        host,
        cgroup,
        resctrl,
        seccomp,
        console_socket,
        pidfd_sockets,
        preserved_fds,
        mode,
        signal_mask,
    })
}

/// The sockets that get the pidfd of init, connected. Relative paths are relative to the bundle, as that of the console socket is.
fn pidfd_sockets(request: &cli::Create, spec: &Spec, bundle: &Path) -> Result<Vec<OwnedFd>> {
    let annotations = spec.annotations().as_ref();
    let receiver = annotations.and_then(|all| all.get(pidfd_socket::RECEIVER));
    let paths = [request.pidfd_socket.clone(), receiver.map(PathBuf::from)];
    let paths = paths.map(|path| path.map(|path| bundle.join(path)));
    pidfd_socket::connect(paths.iter().flatten().map(PathBuf::as_path))
}

/// Socket activation (sd_listen_fds(3)): what this command was handed goes to the container, whose first process it is for.
fn listen_fds(spec: &mut Spec) -> u32 {
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse::<u32>().ok())
        .unwrap_or(0);
    if count > 0
        && let Some(process) = spec.process_mut()
    {
        let env = process.env_mut().get_or_insert_default();
        env.push(format!("LISTEN_FDS={count}"));
        env.push("LISTEN_PID=1".to_owned());
    }
    count
}

/// The console socket, connected. runc's rules for when there must be one and when there must not.
pub(super) fn console_socket(
    path: Option<&Path>,
    terminal: bool,
    detached: bool,
) -> Result<Option<OwnedFd>> {
    match path {
        None if detached && terminal => {
            let text = "cannot allocate tty if runc will detach without setting console socket";
            Err(Error::new(Kind::Usage, text))
        }
        Some(_) if !detached || !terminal => {
            let text = "cannot use console socket if runc will not detach or allocate tty";
            Err(Error::new(Kind::Usage, text))
        }
        Some(path) => crate::console::connect("console socket", path).map(Some),
        None => Ok(None),
    }
}

fn root_directory(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let Some(root) = spec.root() else {
        return Err(Error::invalid("Root must be specified"));
    };
    let path = bundle.join(root.path());
    let rootfs = path.canonicalize().map_err(|error| {
        let reason = error.raw_os_error().map_or(error.to_string(), |n| {
            crate::sys::Errno::from_raw(n).desc().to_owned()
        });
        Error::invalid(format!("invalid rootfs: {}: {reason}", path.display()))
    })?;
    if !rootfs.is_dir() {
        return Err(Error::invalid(format!(
            "invalid rootfs: {} is not a directory",
            rootfs.display()
        )));
    }
    if plan::rootfs::wants_overlay(spec.annotations().as_ref()) {
        overlay_is_the_bundles(&rootfs, bundle)?;
    }
    Ok(rootfs)
}

/// A network namespace that is joined may be the host's own: its sysctls and devices are the host's then.
fn refuse_host_network(spec: &Spec) -> Result<()> {
    use oci_spec::runtime::LinuxNamespaceType as Type;
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    let names = linux.sysctl().iter().flatten().map(|(name, _)| name);
    let sysctl = names
        .into_iter()
        .find(|name| name.starts_with("net.") || name.starts_with("net/"));
    let devices = linux
        .net_devices()
        .as_ref()
        .is_some_and(|map| !map.is_empty());
    if sysctl.is_none() && !devices {
        return Ok(());
    }
    let list = linux.namespaces().iter().flatten();
    let joined = list
        .filter(|ns| ns.typ() == Type::Network)
        .find_map(|ns| ns.path().as_ref());
    let Some(path) = joined else { return Ok(()) };
    let id = |path: &Path| {
        let stat = nix::sys::stat::stat(path)
            .context(|| format!("look at namespace {}", path.display()))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    if id(path)? != id(Path::new("/proc/self/ns/net"))? {
        return Ok(());
    }
    Err(Error::invalid(match sysctl {
        Some(name) => format!("sysctl {name:?} is not allowed in the hosts namespace"),
        None => "unable to move network devices without a private NET namespace".to_owned(),
    }))
}

/// Some engines (Podman) add the annotations of an image to the container's. One of these must not bring in layers, which are directories of
/// the host: an engine that means them leaves the root to us, in the bundle that it wrote, while those others mount a root elsewhere.
fn overlay_is_the_bundles(rootfs: &Path, bundle: &Path) -> Result<()> {
    let bundle = bundle
        .canonicalize()
        .context(|| format!("find bundle {}", bundle.display()))?;
    if rootfs.starts_with(&bundle) {
        return Ok(());
    }
    let text = format!(
        "annotations dev.caisson.overlay.* are taken only with a root.path in the bundle, not with {}",
        rootfs.display()
    );
    Err(Error::invalid(text))
}

fn driver(context: &Context<'_>) -> plan::cgroup::Driver {
    match context.global.cgroup_manager {
        cli::CgroupManager::Cgroupfs => plan::cgroup::Driver::Cgroupfs,
        cli::CgroupManager::Disabled => plan::cgroup::Driver::Disabled,
        cli::CgroupManager::Systemd => plan::cgroup::Driver::Systemd,
    }
}

fn resctrl(spec: &Spec, id: &str) -> Result<Option<plan::resctrl::ResctrlPlan>> {
    let linux = spec.linux().as_ref();
    let config = linux.and_then(|linux| linux.intel_rdt().as_ref());
    config
        .map(|config| plan::resctrl::plan(config, id))
        .transpose()
}

/// Whether the lack of rights over cgroups is to be expected.
fn rootless(context: &Context<'_>, host: &Host) -> bool {
    match context.global.rootless {
        cli::Rootless::True => true,
        cli::Rootless::False => false,
        cli::Rootless::Auto => host.euid != 0 || !host.initial_user_namespace,
    }
}

/// The container's root manages its own cgroup if it sees it as its own and may write to it.
fn cgroup_owner(spec: &Spec) -> Option<u32> {
    use oci_spec::runtime::LinuxNamespaceType as Type;
    let linux = spec.linux().as_ref()?;
    let has = |typ| {
        linux
            .namespaces()
            .iter()
            .flatten()
            .any(|ns| ns.typ() == typ)
    };
    let writable = |mount: &oci_spec::runtime::Mount| {
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && !mount.options().iter().flatten().any(|word| word == "ro")
    };
    if !has(Type::Cgroup) || !has(Type::User) || !spec.mounts().iter().flatten().any(writable) {
        return None;
    }
    root_of(linux.uid_mappings().as_ref())
}

/// The host's id of the container's root, if it is mapped.
fn root_of(maps: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>) -> Option<u32> {
    let mut maps = maps.into_iter().flatten();
    let root = maps.find(|map| map.container_id() == 0);
    root.map(oci_spec::runtime::LinuxIdMapping::host_id)
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
    // Saved before it is made: a command that is killed from here on leaves a trail for `delete --force`.
    let located = cgroup::locate(&prepared.cgroup)?;
    if let Some(located) = &located {
        state.cgroup = serde_json::to_value(&located.saved)
            .map_err(|e| Error::new(Kind::System, format!("save the cgroup: {e}")))?;
    }
    let resctrl = prepared.resctrl.as_ref().map(Group::locate).transpose()?;
    state.resctrl = serde_json::to_value(&resctrl)
        .map_err(|e| Error::new(Kind::System, format!("save the resctrl group: {e}")))?;
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
    let plan = make_plan(prepared, state, made.cgroup.as_ref())?;
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
            signal_mask: prepared.signal_mask,
            lock: Some(directory.lock_fd()),
        },
    )?);
    let (spec, host) = (&prepared.spec, &prepared.host);
    let warn = |text| context.log.alert(text);
    child
        .until_created(host, |pid| run_hooks(spec, state, pid, &warn), &warn)
        .map_err(|e| explain(e, made.cgroup.as_ref()))?;
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
    let manner = hook_manner(&state.annotations, Some(&state.bundle), warn)?;
    let text = hook_state(state, Status::Creating, &pid.to_string())?;
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
    let outputs = hook_manner(&state.annotations, None, &|_| {})?.outputs;
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
        no_new_keyring: prepared.request.no_new_keyring,
        cgroup: serde_json::Value::Null,
        resources: None,
        resctrl: serde_json::Value::Null,
    }
}

fn make_plan(prepared: &mut Prepared<'_>, state: &State, cgroup: Option<&Cgroup>) -> Result<Plan> {
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
    let hook_warn_ms = hook_warn_after(state.annotations.get(HOOK_WARN_AFTER))?
        .map(|after| i32::try_from(after.as_millis()).unwrap_or(i32::MAX));
    let cgroup_path = cgroup.map(Cgroup::host_path);
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
            cgroup_root: cgroup.map(Cgroup::mountpoint),
            cgroup_path: cgroup_path.as_deref(),
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
    if had_child {
        super::delete::run_poststop(context, spec, state);
    }
    warn(
        "remove the directory of the failed container",
        directory.remove(),
    );
}
