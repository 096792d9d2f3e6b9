//! The plan of `create` and `run`: a new container from its config.

use super::mounts::{self, Surroundings, c_path, c_string};
use super::namespaces::{self, Namespaces};
use super::rootfs::{self, Overlay, Root, Source};
use super::{
    Console, HookCall, Ids, Open, Plan, Request, Slot, Step, Tree, idmap, landlock, net_devices,
    process, seccomp, validate,
};
use crate::host::Host;
use crate::report::{Error, Result};
use crate::sys::process::CStringArray;
use oci_spec::runtime::{Hook, Linux, Process, Spec};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the command line and the host add to the config.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    /// `root.path`, absolute and without links.
    pub(crate) rootfs: &'a Path,
    pub(crate) host: &'a Host,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    /// Descriptors from 3 on that the process keeps.
    pub(crate) preserved_fds: u32,
    /// No command stays with the process.
    pub(crate) detached: bool,
    /// Where the container's cgroup is: the hierarchy's mount point and the group's own directory.
    pub(crate) cgroup_root: Option<&'a Path>,
    pub(crate) cgroup_path: Option<&'a Path>,
    /// Starts by the fifo (`create`) or at the parent's word (`run`).
    pub(crate) start_by_fifo: bool,
    pub(crate) seccomp: Option<seccomp::Filter>,
    /// The state that hooks read, as JSON in front of and behind the pid; for createContainer and startContainer.
    pub(crate) hook_states: [[Vec<u8>; 2]; 2],
    /// After how many milliseconds a hook without a timeout is warned of.
    pub(crate) hook_warn_ms: Option<i32>,
}

/// Plans a new container.
pub(crate) fn create(spec: &Spec, mut options: Options<'_>) -> Result<Plan> {
    let Some(linux) = spec.linux() else {
        return Err(Error::invalid("config.json has no linux section"));
    };
    let Some(process) = spec.process() else {
        return Err(Error::invalid("config.json has no process"));
    };
    let mut ns = namespaces::plan(linux, options.host)?;
    validate::check(spec, &ns, options.host)?;
    let mut opens = std::mem::take(&mut ns.opens);
    let mut steps = Vec::with_capacity(96);
    ns.birth.oom_score_adj = process.oom_score_adj();
    let overlay = rootfs::overlay(spec.annotations().as_ref(), ns.has(libc::CLONE_NEWUSER))?;
    let user = Ids {
        uid: process.user().uid(),
        gid: process.user().gid(),
    };
    enter(&mut ns, &options, user, overlay.as_ref(), &mut steps)?;
    let net_devices = net_devices::plan(linux, &ns, options.host)?;
    if !net_devices.is_empty() {
        steps.push(Step::Ask(Request::NetDevices));
    }
    let hooks = spec.hooks().as_ref();
    assemble(spec, linux, &ns, &options, overlay, &mut opens, &mut steps)?;
    let runtime_hooks = hooks.is_some_and(|h| !empty(h.create_runtime()) || has_prestart(h));
    if runtime_hooks {
        steps.push(Step::Ask(Request::Hooks));
    }
    let [create_state, start_state] = std::mem::take(&mut options.hook_states);
    let warn = options.hook_warn_ms;
    if let Some(list) = hooks.and_then(|h| h.create_container().as_ref()) {
        steps.push(Step::EnterRoot);
        steps.extend(hook_calls("createContainer", list, &create_state, warn)?);
    }
    change_root(spec, process, &ns, &options, &mut steps)?;
    restrict(spec, linux, process, &mut steps)?;
    let mut before_exec = vec![Step::Ask(Request::Start)];
    if options.start_by_fifo {
        before_exec.push(Step::AwaitStart);
    }
    if let Some(list) = hooks.and_then(|h| h.start_container().as_ref()) {
        before_exec.extend(hook_calls(START, list, &start_state, warn)?);
    }
    let userns = ns.has(libc::CLONE_NEWUSER);
    let mut rlimits = Vec::new();
    let annotation = |name| spec.annotations().as_ref().and_then(|a| a.get(name));
    let tail = process::Tail {
        process,
        landlock: landlock::parse(annotation(landlock::ANNOTATION))?,
        seccomp: options.seccomp.take(),
        ask_for_rlimits: userns,
        keep_groups: super::keeps_groups(annotation(super::KEEP_GROUPS)),
        detached: options.detached,
        close_from: 3 + options.preserved_fds,
        before_exec,
    };
    process::tail(tail, &mut steps, &mut rlimits)?;
    Ok(Plan {
        birth: ns.birth,
        opens,
        steps,
        exec: process::exec(process)?,
        rlimits,
        net_devices,
    })
}

fn empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn has_prestart(hooks: &oci_spec::runtime::Hooks) -> bool {
    !empty(hooks.prestart())
}

/// Into the namespaces: the first steps of init.
fn enter(
    ns: &mut Namespaces,
    options: &Options<'_>,
    user: Ids,
    overlay: Option<&Overlay>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if let Some(stage) = &mut ns.birth.stage {
        stage.otherwise = user;
    }
    steps.push(Step::Cpus(None));
    let maps_ids =
        ns.birth.id_maps.is_some() && !ns.birth.stage.as_ref().is_some_and(|stage| stage.new_user);
    if maps_ids {
        steps.push(Step::Ask(Request::IdMaps));
    }
    // As the caller, who can reach layers in directories of his own that the container's root may not enter. The kernel takes layers
    // only from mounts of its own mount namespace, so not before that is joined.
    let mut layers = overlay.into_iter().flat_map(Overlay::open);
    if ns.joined & libc::CLONE_NEWNS as u64 == 0 {
        steps.extend(layers.by_ref());
    }
    if ns.has(libc::CLONE_NEWUSER) {
        steps.push(Step::BecomeRoot { otherwise: user });
    }
    // Not before: an unprivileged parent could not write the id maps of a process that is not dumpable.
    steps.push(Step::NotDumpable);
    steps.extend(std::mem::take(&mut ns.joins).into_iter().map(Step::Join));
    steps.extend(layers);
    if ns.new & libc::CLONE_NEWCGROUP as u64 != 0 {
        steps.push(Step::Unshare(libc::CLONE_NEWCGROUP as u64));
    }
    steps.push(Step::NewSession);
    if !options.no_new_keyring {
        steps.push(Step::Keyring(c_string(format!("_ses.{}", options.id))?));
    }
    if ns.new & libc::CLONE_NEWNET as u64 != 0 {
        steps.push(Step::LoopbackUp);
    }
    Ok(())
}

/// The root file system with everything mounted in it, still beside the host's tree.
fn assemble(
    spec: &Spec,
    linux: &Linux,
    ns: &Namespaces,
    options: &Options<'_>,
    overlay: Option<Overlay>,
    opens: &mut Vec<Open>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let userns = ns.has(libc::CLONE_NEWUSER);
    let propagation = rootfs::propagation(linux.rootfs_propagation().as_deref())?;
    let path = c_path(options.rootfs)?;
    if !ns.has(libc::CLONE_NEWNS) {
        if overlay.is_some() {
            return Err(Error::invalid("an overlay root needs a mount namespace"));
        }
        steps.push(Step::Root(Root {
            path,
            source: Source::Directory { slot: None },
        }));
        return Ok(());
    }
    let inherited = match propagation.unwrap_or(libc::MS_SLAVE) & !libc::MS_REC {
        // What is unbindable could not be cloned as the root; private keeps the same from propagating.
        libc::MS_UNBINDABLE => libc::MS_PRIVATE,
        flag => flag,
    };
    steps.push(Step::Propagation(inherited | libc::MS_REC));
    if inherited == libc::MS_SHARED {
        steps.push(Step::RootParentPrivate(path.clone()));
    }
    // A container with a user namespace may have no way to its sources; a privileged parent opens them for it.
    let mut trees = Trees {
        opens,
        wanted: userns && options.host.sys_admin,
    };
    let source = match overlay {
        Some(overlay) => Source::Overlay(overlay),
        None => Source::Directory {
            slot: trees.open(|| Tree {
                path: path.clone(),
                keep_link: false,
                recursive: true,
                propagation: libc::MS_PRIVATE,
                id_map: None,
            }),
        },
    };
    steps.push(Step::Root(Root { path, source }));
    let around = Surroundings {
        bundle: options.bundle,
        rootfs: options.rootfs,
        label: linux.mount_label().as_deref(),
        label_option: mounts::label_option(spec.annotations().as_ref())?,
        user_namespace: userns,
        network_namespace: ns.has(libc::CLONE_NEWNET),
        pid_namespace: ns.has(libc::CLONE_NEWPID),
        cgroup_namespace: ns.has(libc::CLONE_NEWCGROUP),
        cgroup_root: options.cgroup_root,
        cgroup_path: options.cgroup_path,
        id_maps: idmap::Container {
            maps: ns.birth.id_maps.as_ref(),
            joined: ns.joined_user,
            privileged: options.host.sys_admin,
        },
    };
    for entry in spec.mounts().iter().flatten() {
        let mut mount = mounts::plan(entry, &around)?;
        inherit_propagation(&mut mount, propagation);
        if let mounts::Kind::Bind(bind) = &mut mount.kind {
            trees.wanted = opened_by_parent(bind, userns, options);
            bind.slot = trees.open(|| source_tree(bind, inherited));
            bind.step = steps.len() as u32;
        }
        steps.push(Step::Mount(Box::new(mount)));
    }
    steps.extend(rootfs::devices(spec, userns, options.host.kcore)?);
    if !empty(linux.masked_paths()) {
        steps.push(Step::MaskSources);
    }
    Ok(())
}

/// Whether the parent opens the source, as init may be unable to. Not what comes from the root itself: that may be on a mount made before it.
fn opened_by_parent(bind: &mounts::Bind, userns: bool, options: &Options<'_>) -> bool {
    let source = Path::new(OsStr::from_bytes(bind.source.as_bytes()));
    let wanted = bind.id_map.is_some() || userns;
    wanted && options.host.sys_admin && !source.starts_with(options.rootfs)
}

/// The source of a bind, as the parent opens it.
fn source_tree(bind: &mounts::Bind, propagation: u64) -> Tree {
    Tree {
        path: bind.source.clone(),
        keep_link: bind.links.keep_source,
        recursive: bind.recursive,
        propagation,
        id_map: bind.id_map.clone(),
    }
}

/// The trees that the parent opens, if it does.
struct Trees<'a> {
    opens: &'a mut Vec<Open>,
    wanted: bool,
}

impl Trees<'_> {
    fn open(&mut self, tree: impl FnOnce() -> Tree) -> Option<Slot> {
        if !self.wanted {
            return None;
        }
        self.opens.push(Open::Tree(tree()));
        Some(Slot(self.opens.len() - 1))
    }
}

/// A recursive rootfsPropagation holds for mounts that say nothing themselves. But for unbindable: masks and read-only paths are clones.
fn inherit_propagation(mount: &mut mounts::Mount, propagation: Option<u64>) {
    let Some(flags) = propagation.filter(|flags| flags & libc::MS_REC != 0) else {
        return;
    };
    if flags & libc::MS_UNBINDABLE == 0 && mount.propagation.is_empty() {
        mount.propagation.push((flags & !libc::MS_REC, true));
    }
}

/// The container's root becomes the root, and what happens in it before restrictions begin.
fn change_root(
    spec: &Spec,
    process: &Process,
    ns: &Namespaces,
    options: &Options<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let private = ns.has(libc::CLONE_NEWNS);
    steps.push(match (private, options.no_pivot) {
        (false, _) => Step::Chroot,
        (true, true) => Step::MoveRoot,
        (true, false) => Step::PivotRoot,
    });
    steps.push(Step::ReopenNull);
    if process.cwd() != Path::new("/") {
        steps.push(Step::MakeDirectory(c_path(mounts::clean_target(
            process.cwd(),
        ))?));
    }
    if process.terminal().unwrap_or(false) {
        steps.push(Step::Console(console(process, true)));
    }
    steps.push(Step::LateReadonly);
    if private
        && spec
            .root()
            .as_ref()
            .and_then(oci_spec::runtime::Root::readonly)
            .unwrap_or(false)
    {
        steps.push(Step::RootReadonly);
    }
    steps.push(Step::Umask(process.user().umask().unwrap_or(0o022)));
    Ok(())
}

/// The terminal that `process` asks for. `bind`: also as /dev/console.
pub(crate) fn console(process: &Process, bind: bool) -> Console {
    let size = process.console_size();
    // The kernel's struct winsize has 16 bits; a larger size means "as large as it gets".
    let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let (rows, columns) = size
        .as_ref()
        .map_or((0, 0), |size| (clamp(size.height()), clamp(size.width())));
    Console {
        rows,
        columns,
        bind,
    }
}

/// Names, labels, sysctls, read-only and masked paths, personality, memory policy.
fn restrict(spec: &Spec, linux: &Linux, process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    let text = |name: &Option<String>| {
        name.as_deref()
            .filter(|name| !name.is_empty())
            .map(c_string)
            .transpose()
    };
    steps.extend(text(spec.hostname())?.map(Step::Hostname));
    steps.extend(text(spec.domainname())?.map(Step::Domainname));
    steps.extend(text(process.apparmor_profile())?.map(Step::Apparmor));
    for (name, value) in linux.sysctl().iter().flatten() {
        let path = c_string(format!("sys/{}", validate::sysctl_path(name)))?;
        steps.push(Step::Sysctl {
            name: name.clone(),
            path,
            value: c_string(value)?,
        });
    }
    let target = |path: &String| c_path(mounts::clean_target(Path::new(path)));
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadonlyPath(target(path)?));
    }
    for path in linux.masked_paths().iter().flatten() {
        steps.push(Step::MaskedPath(target(path)?));
    }
    // Late, since what is unbindable cannot be cloned for a read-only path. The root's own mount only: the others have theirs.
    if let Some(flags) = rootfs::propagation(linux.rootfs_propagation().as_deref())? {
        steps.push(Step::RootPropagation(flags & !libc::MS_REC));
    }
    super::of_every_process(linux, steps)
}

const START: &str = "startContainer";

/// Hooks that init runs. Without `env`, a startContainer hook gets the process's.
fn hook_calls(
    kind: &'static str,
    hooks: &[Hook],
    state: &[Vec<u8>; 2],
    warn_ms: Option<i32>,
) -> Result<Vec<Step>> {
    let array = |list: &[String]| {
        list.iter()
            .map(c_string)
            .collect::<Result<Vec<_>>>()
            .map(CStringArray::new)
    };
    let call = |(index, hook): (usize, &Hook)| {
        let describe = || format!("{kind} hook #{index} ({})", hook.path().display());
        if !hook.path().is_absolute() {
            return Err(Error::invalid(format!(
                "{}: the path is not absolute",
                describe()
            )));
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return Err(Error::invalid(format!(
                "{}: the timeout is not positive",
                describe()
            )));
        }
        let path = c_string(hook.path().as_os_str().as_bytes())?;
        let argv = match hook.args().as_deref() {
            Some(args) if !args.is_empty() => array(args)?,
            _ => CStringArray::new(vec![path.clone()]),
        };
        let envp = match hook.env().as_deref() {
            None if kind == START => None,
            env => Some(array(env.unwrap_or_default())?),
        };
        let timeout_ms = hook
            .timeout()
            .map(|seconds| i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX));
        Ok(Step::Hook(HookCall {
            kind,
            index,
            path,
            argv,
            envp,
            timeout_ms,
            warn_after_ms: warn_ms.filter(|_| timeout_ms.is_none()),
            state: state.clone(),
        }))
    };
    hooks.iter().enumerate().map(call).collect()
}
