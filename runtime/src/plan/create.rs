//! The plan of `create` and `run`: a new container from its config.

use super::mounts::{self, Outside, Surroundings, c_path, c_string};
use super::namespaces::{self, Namespaces};
use super::rootfs::{self, Overlay, Root, Source};
use super::{
    Console, HookCall, Ids, Open, Plan, Request, Slot, Step, Tree, landlock, net_devices, process,
    seccomp, validate,
};
use crate::host::Host;
use crate::report::{Error, Faults, Result};
use crate::sys::process::CStringArray;
use oci_spec::runtime::{Hook, Linux, Process, Spec};
use std::ffi::{CString, OsStr};
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
    /// Init moves into a group below that, which the container manages.
    pub(crate) delegates: bool,
    /// Starts by the fifo (`create`) or at the parent's word (`run`).
    pub(crate) start_by_fifo: bool,
    pub(crate) seccomp: Option<seccomp::Filter>,
    /// The state that hooks read, as JSON in front of and behind the pid; for createContainer and startContainer.
    pub(crate) hook_states: [[Vec<u8>; 2]; 2],
    /// After how many milliseconds a hook without a timeout is warned of.
    pub(crate) hook_warn_ms: Option<i32>,
}

impl<'a> Options<'a> {
    fn outside(&self) -> Outside<'a> {
        Outside {
            bundle: self.bundle,
            rootfs: self.rootfs,
            host: self.host,
            cgroup_root: self.cgroup_root,
            cgroup_path: self.cgroup_path,
        }
    }
}

/// Plans a new container.
pub(crate) fn create(spec: &Spec, options: Options<'_>) -> Result<Plan> {
    let mut faults = Faults::default();
    let plan = draft(spec, options, &mut faults);
    faults.settle()?;
    plan.ok_or_else(|| Error::invalid("config.json has no process"))
}

/// The same with all that is wrong, and with the plan without that, as far as there is one.
pub(crate) fn draft(spec: &Spec, mut options: Options<'_>, faults: &mut Faults) -> Option<Plan> {
    let lacks = |what| Error::invalid(format!("config.json has no {what}"));
    let linux = spec.linux().as_ref().ok_or_else(|| lacks("linux section"));
    let linux = faults.keep_in("linux", linux)?;
    let process = spec.process().as_ref().ok_or_else(|| lacks("process"));
    let process = faults.keep_in("process", process)?;
    let mut ns = namespaces::plan(linux, options.host, faults);
    validate::check(spec, &ns, options.host, faults);
    let mut opens = std::mem::take(&mut ns.opens);
    let mut steps = Vec::with_capacity(96);
    ns.birth.oom_score_adj = process.oom_score_adj();
    let overlay = rootfs::overlay(spec.annotations().as_ref(), ns.has(libc::CLONE_NEWUSER));
    let overlay = faults.keep_in("annotations", overlay).flatten();
    let user = Ids {
        uid: process.user().uid(),
        gid: process.user().gid(),
    };
    faults.keep(enter(&mut ns, &options, user, overlay.as_ref(), &mut steps));
    let net_devices = net_devices::plan(linux, &ns, options.host);
    let net_devices = faults.keep_in("linux.netDevices", net_devices);
    let net_devices = net_devices.unwrap_or_default();
    if !net_devices.is_empty() {
        steps.push(Step::Ask(Request::NetDevices));
    }
    let mut parts = Parts {
        opens: &mut opens,
        steps: &mut steps,
        faults,
    };
    assemble(spec, linux, &ns, &options, overlay, &mut parts);
    hooks_before_root(spec, &options, &mut steps, faults);
    faults.keep(change_root(spec, process, &ns, &options, &mut steps));
    restrict(spec, linux, process, &mut steps, faults);
    let before_exec = before_exec(spec, &options, faults);
    let userns = ns.has(libc::CLONE_NEWUSER);
    let annotation = |name| spec.annotations().as_ref().and_then(|a| a.get(name));
    let landlock = landlock::parse(annotation(landlock::ANNOTATION));
    let tail = process::Tail {
        process,
        landlock: faults.keep_in("annotations", landlock).flatten(),
        seccomp: options.seccomp.take(),
        ask_for_rlimits: userns,
        keep_groups: super::is_on(annotation(super::KEEP_GROUPS)),
        detached: options.detached,
        close_from: 3 + options.preserved_fds,
        before_exec,
    };
    // For what `exec` runs, and wrong already now.
    faults.keep_in("process.execCPUAffinity", process::affinity(process));
    let rlimits = process::tail(tail, &mut steps, faults);
    let exec = process::exec(process, faults);
    Some(Plan {
        birth: ns.birth,
        opens,
        steps,
        exec,
        rlimits,
        net_devices,
    })
}

/// The hooks of the runtime namespace, for which init asks, and createContainer.
fn hooks_before_root(
    spec: &Spec,
    options: &Options<'_>,
    steps: &mut Vec<Step>,
    faults: &mut Faults,
) {
    let Some(hooks) = spec.hooks() else { return };
    if !empty(hooks.create_runtime()) || has_prestart(hooks) {
        steps.push(Step::Ask(Request::Hooks));
    }
    if let Some(list) = hooks.create_container() {
        let [state, _] = &options.hook_states;
        steps.push(Step::EnterRoot);
        let warn = options.hook_warn_ms;
        steps.extend(hook_calls("createContainer", list, state, warn, faults));
    }
}

/// Waits for `start`, and the hooks that run then.
fn before_exec(spec: &Spec, options: &Options<'_>, faults: &mut Faults) -> Vec<Step> {
    let mut steps = vec![Step::Ask(Request::Start)];
    steps.extend(options.start_by_fifo.then_some(Step::AwaitStart));
    let hooks = spec.hooks().as_ref();
    if let Some(list) = hooks.and_then(|hooks| hooks.start_container().as_ref()) {
        let [_, state] = &options.hook_states;
        steps.extend(hook_calls(START, list, state, options.hook_warn_ms, faults));
    }
    steps
}

/// What a plan grows by while its root is assembled.
struct Parts<'a> {
    opens: &'a mut Vec<Open>,
    steps: &'a mut Vec<Step>,
    faults: &'a mut Faults,
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
    if ns.unshared != 0 {
        steps.push(Step::Unshare(ns.unshared));
    }
    steps.extend(options.delegates.then_some(Step::Ask(Request::Delegate)));
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
    parts: &mut Parts<'_>,
) {
    let Parts {
        opens,
        steps,
        faults,
    } = parts;
    let userns = ns.has(libc::CLONE_NEWUSER);
    let propagation = rootfs::propagation(linux.rootfs_propagation().as_deref());
    let propagation = faults.keep_in("linux.rootfsPropagation", propagation);
    let propagation = propagation.flatten();
    let path = faults.keep_in("root.path", c_path(options.rootfs));
    let path = path.unwrap_or_default();
    let private = ns.has(libc::CLONE_NEWNS);
    if !private && overlay.is_some() {
        let text = "an overlay root needs a mount namespace";
        faults.keep_in("linux.namespaces", Err::<(), _>(Error::invalid(text)));
    }
    let inherited = rootfs::source_propagation(propagation);
    // The host's own mounts stay as they are.
    if private {
        steps.push(Step::Propagation(inherited | libc::MS_REC));
    }
    if private && inherited == libc::MS_SHARED {
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
    let option = mounts::label_option(spec.annotations().as_ref());
    let option = faults.keep_in("annotations", option);
    let option = option.unwrap_or("context");
    let around = Surroundings::new(linux, ns, option, &options.outside());
    for (at, entry) in spec.mounts().iter().flatten().enumerate() {
        let mount = mounts::plan(entry, &around);
        let Some(mut mount) = faults.keep_in(format!("mounts[{at}]"), mount) else {
            continue;
        };
        mount.index = at;
        inherit_propagation(&mut mount, propagation);
        if let mounts::Kind::Bind(bind) = &mut mount.kind {
            trees.wanted = opened_by_parent(bind, userns, options);
            bind.slot = trees.open(|| source_tree(bind, inherited));
            bind.step = steps.len() as u32;
        }
        steps.push(Step::Mount(Box::new(mount)));
    }
    steps.extend(rootfs::devices(spec, userns, options.host.kcore, faults));
    if !empty(linux.masked_paths()) {
        steps.push(Step::MaskSources);
    }
}

/// Whether the parent opens the source, as init may be unable to. Not what comes from the root itself: that may be on a mount made before it.
fn opened_by_parent(bind: &mounts::Bind, userns: bool, options: &Options<'_>) -> bool {
    let source = Path::new(OsStr::from_bytes(bind.source.as_bytes()));
    let wanted = bind.id_map.is_some() || userns;
    wanted && options.host.sys_admin && !source.starts_with(options.rootfs)
}

/// The source of a bind, as the parent opens it.
pub(super) fn source_tree(bind: &mounts::Bind, propagation: u64) -> Tree {
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
        let path = c_path(mounts::clean_target(process.cwd()));
        steps.push(Step::MakeDirectory(
            path.map_err(|e| e.in_field("process.cwd"))?,
        ));
    }
    if process.terminal().unwrap_or(false) {
        steps.push(Step::Console(console(process, true)));
    }
    steps.push(Step::LateReadonly);
    if spec
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
fn restrict(
    spec: &Spec,
    linux: &Linux,
    process: &Process,
    steps: &mut Vec<Step>,
    faults: &mut Faults,
) {
    let mut text = |field: &str, name: &Option<String>| {
        let name = name.as_deref().filter(|name| !name.is_empty());
        name.and_then(|name| faults.keep_in(field, c_string(name)))
    };
    steps.extend(text("hostname", spec.hostname()).map(Step::Hostname));
    steps.extend(text("domainname", spec.domainname()).map(Step::Domainname));
    let profile = text("process.apparmorProfile", process.apparmor_profile());
    steps.extend(profile.map(Step::Apparmor));
    for (name, value) in linux.sysctl().iter().flatten() {
        let path = c_string(format!("sys/{}", validate::sysctl_path(name)));
        let both = path.and_then(|path| Ok((path, c_string(value)?)));
        let both = faults.keep_in(format!("linux.sysctl[{name:?}]"), both);
        steps.extend(both.map(|(path, value)| Step::Sysctl {
            name: name.clone(),
            path,
            value,
        }));
    }
    let mut targets = |field: &str, list: &Option<Vec<String>>, step: fn(CString) -> Step| {
        for (at, path) in list.iter().flatten().enumerate() {
            // As with runc: it would be the root.
            if path.is_empty() {
                continue;
            }
            let path = c_path(mounts::clean_target(Path::new(path)));
            let path = faults.keep_in(format!("linux.{field}[{at}]"), path);
            steps.extend(path.map(step));
        }
    };
    targets("readonlyPaths", linux.readonly_paths(), Step::ReadonlyPath);
    targets("maskedPaths", linux.masked_paths(), Step::MaskedPath);
    // Late, since what is unbindable cannot be cloned for a read-only path. The root's own mount only: the others have theirs.
    if let Ok(Some(flags)) = rootfs::propagation(linux.rootfs_propagation().as_deref()) {
        steps.push(Step::RootPropagation(flags & !libc::MS_REC));
    }
    faults.keep(super::of_every_process(linux, steps));
}

const START: &str = "startContainer";

/// Hooks that init runs. Without `env`, a startContainer hook gets the process's.
fn hook_calls(
    kind: &'static str,
    hooks: &[Hook],
    state: &[Vec<u8>; 2],
    warn_ms: Option<i32>,
    faults: &mut Faults,
) -> Vec<Step> {
    let calls = hooks.iter().enumerate().filter_map(|(index, hook)| {
        let call = hook_call(kind, index, hook, state, warn_ms);
        faults.keep_in(format!("hooks.{kind}[{index}]"), call)
    });
    calls.map(Step::Hook).collect()
}

fn hook_call(
    kind: &'static str,
    index: usize,
    hook: &Hook,
    state: &[Vec<u8>; 2],
    warn_ms: Option<i32>,
) -> Result<HookCall> {
    let array = |list: &[String]| {
        list.iter()
            .map(c_string)
            .collect::<Result<Vec<_>>>()
            .map(CStringArray::new)
    };
    let wrong = |field: &str, what: &str| {
        let path = hook.path().display();
        Error::invalid(format!("{kind} hook #{index} ({path}): {what}")).in_field(field)
    };
    if !hook.path().is_absolute() {
        return Err(wrong("path", "the path is not absolute"));
    }
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        return Err(wrong("timeout", "the timeout is not positive"));
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
    Ok(HookCall {
        kind,
        index,
        path,
        argv,
        envp,
        timeout_ms,
        warn_after_ms: warn_ms.filter(|_| timeout_ms.is_none()),
        state: state.clone(),
    })
}
