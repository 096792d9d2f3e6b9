//! What `create` knows before it makes anything: the bundle, this machine, the caller's sockets, and plans of cgroup and seccomp filter.
//!
//! What is refused here leaves nothing behind, since nothing exists.

use super::Mode;
use crate::cli;
use crate::commands::{Context, pidfd_socket, seccomp};
use crate::host::Host;
use crate::plan;
use crate::report::{Context as _, Error, Kind, Result};
use crate::spec;
use oci_spec::runtime::Spec;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Everything that is known before anything is made.
pub(super) struct Prepared<'a> {
    pub(super) request: &'a cli::Create,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) spec: Spec,
    pub(super) config: Vec<u8>,
    pub(super) host: Host,
    pub(super) cgroup: plan::cgroup::CgroupPlan,
    pub(super) resctrl: Option<plan::resctrl::ResctrlPlan>,
    pub(super) seccomp: Option<plan::seccomp::Filter>,
    pub(super) console_socket: Option<OwnedFd>,
    pub(super) pidfd_sockets: Vec<OwnedFd>,
    pub(super) preserved_fds: u32,
    pub(super) mode: Mode,
}

/// Reads and checks all of it.
pub(super) fn prepare<'a>(
    context: &Context<'_>,
    request: &'a cli::Create,
    mode: Mode,
) -> Result<Prepared<'a>> {
    let bundle = std::path::absolute(&request.bundle)
        .context(|| format!("find bundle {}", request.bundle.display()))?;
    let config = request.config.clone();
    let (parsed, config) = spec::load(&config.unwrap_or_else(|| bundle.join("config.json")))?;
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
    // Who listens there is not to hear of a container that will not be.
    let dry = request.dry_run.is_some();
    let console_socket = match dry {
        true => None,
        false => console_socket(socket_path.as_deref(), terminal, mode != Mode::Foreground)?,
    };
    let unraised = spec.process().as_ref().map(plan::process::ambient_warnings);
    let unraised = unraised.iter().flatten();
    unraised.for_each(|warning| context.log.warn(warning));
    let pidfd_sockets = match dry {
        true => Vec::new(),
        false => pidfd_sockets(request, &spec, &bundle)?,
    };
    let host = context.host()?;
    let rootfs = root_directory(&spec, &bundle)?;
    refuse_host_network(&spec)?;
    let cgroup = cgroup_plan(context, request.id.as_str(), &spec, &host)?;
    let linux = spec.linux().iter();
    let unknown = linux.flat_map(plan::personality::warnings);
    unknown.for_each(|warning| context.log.warn(&warning));
    let resctrl = resctrl(&spec, request.id.as_str())?;
    let seccomp = seccomp::filter(context, &spec)?;
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
    })
}

/// What is asked of the cgroup.
pub(in crate::commands) fn cgroup<'a>(
    context: &Context<'_>,
    spec: &'a Spec,
    host: &Host,
    id: &'a str,
) -> plan::cgroup::Request<'a> {
    let linux = spec.linux().as_ref();
    plan::cgroup::Request {
        id,
        driver: driver(context),
        cgroups_path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        resources: linux.and_then(|linux| linux.resources().as_ref()),
        rootless: rootless(context, host),
        in_user_namespace: !host.initial_user_namespace,
        owner: cgroup_owner(spec),
        annotations: spec.annotations().as_ref(),
    }
}

/// The sockets that get the pidfd of init, connected. Relative paths are relative to the bundle, as that of the console socket is.
fn pidfd_sockets(request: &cli::Create, spec: &Spec, bundle: &Path) -> Result<Vec<OwnedFd>> {
    let paths = [
        request.pidfd_socket.as_deref(),
        pidfd_socket::receiver(spec),
    ];
    let paths = paths.map(|path| path.map(|path| bundle.join(path)));
    pidfd_socket::connect(paths.iter().flatten().map(PathBuf::as_path))
}

/// Socket activation (sd_listen_fds(3)): what this command was handed goes to the container, whose first process it is for. What was
/// meant for another process, which left it in the environment, is not there; callers of crun leave it open who it is meant for.
fn listen_fds(spec: &mut Spec) -> u32 {
    let var = |name| std::env::var(name).ok();
    let ours = var("LISTEN_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let count = var("LISTEN_FDS")
        .filter(|_| ours)
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
pub(in crate::commands) fn console_socket(
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
        Some(path) => crate::console::connect("connect to the console socket", path).map(Some),
        None => Ok(None),
    }
}

/// `root.path` without links.
pub(in crate::commands) fn root_directory(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let Some(root) = spec.root() else {
        return Err(Error::invalid("Root must be specified").in_field("root"));
    };
    let wrong = |text| Error::invalid(text).in_field("root.path");
    let path = bundle.join(root.path());
    let rootfs = path.canonicalize().map_err(|error| {
        let reason = error.raw_os_error().map_or(error.to_string(), |n| {
            crate::sys::Errno::from_raw(n).desc().to_owned()
        });
        wrong(format!("invalid rootfs: {}: {reason}", path.display()))
    })?;
    if !rootfs.is_dir() {
        let text = format!("invalid rootfs: {} is not a directory", rootfs.display());
        return Err(wrong(text));
    }
    if plan::rootfs::wants_overlay(spec.annotations().as_ref()) {
        overlay_is_the_bundles(&rootfs, bundle).map_err(|error| error.in_field("annotations"))?;
    }
    Ok(rootfs)
}

/// A network namespace that is joined may be the host's own: its sysctls and devices are the host's then.
pub(in crate::commands) fn refuse_host_network(spec: &Spec) -> Result<()> {
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
    Err(match sysctl {
        Some(name) => {
            let text = format!("sysctl {name:?} is not allowed in the hosts namespace");
            Error::invalid(text).in_field(format!("linux.sysctl[{name:?}]"))
        }
        None => {
            let text = "unable to move network devices without a private NET namespace";
            Error::invalid(text).in_field("linux.netDevices")
        }
    })
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

/// Which cgroup a container with this config gets.
pub(in crate::commands) fn cgroup_plan(
    context: &Context<'_>,
    id: &str,
    spec: &Spec,
    host: &Host,
) -> Result<plan::cgroup::CgroupPlan> {
    plan::cgroup::plan(&cgroup(context, spec, host, id))
}

fn driver(context: &Context<'_>) -> plan::cgroup::Driver {
    match context.global.cgroup_manager {
        cli::CgroupManager::Cgroupfs => plan::cgroup::Driver::Cgroupfs,
        cli::CgroupManager::Disabled => plan::cgroup::Driver::Disabled,
        cli::CgroupManager::Systemd => plan::cgroup::Driver::Systemd,
    }
}

pub(in crate::commands) fn resctrl(
    spec: &Spec,
    id: &str,
) -> Result<Option<plan::resctrl::ResctrlPlan>> {
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
pub(super) fn root_of(maps: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>) -> Option<u32> {
    let mut maps = maps.into_iter().flatten();
    let root = maps.find(|map| map.container_id() == 0);
    root.map(oci_spec::runtime::LinuxIdMapping::host_id)
}
