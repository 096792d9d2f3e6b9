//! Making and removing a container: its record, its volumes, and the directory that takes what it writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path};
use std::sync::Arc;

use super::ids::Mode;
use super::log::MOST_FILES;
use super::volumes::removed;
use super::{Container, Supervisor, bare, told};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::image::Image;
use crate::lock::lock;
use crate::protos::containers::{
    Config, Container as Record, Ids, Mount, Resources, State, mount::Kind as Source,
    restart_policy::Name, state::Status,
};
use crate::protos::system::Volume;
use crate::records::{Change, event, now};
use crate::shim::Launch;
use crate::spec::{self, Defaults, Found};
use protobuf::MessageField;

/// A name, and a range of ids, that are in use by an operation, until that ends.
pub(super) struct Reserved<'a> {
    supervisor: &'a Supervisor,
    name: String,
    pub(super) ids: Option<Ids>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        lock(&self.supervisor.reserved).retain(|name| *name != self.name);
        if let Some(ids) = &self.ids {
            lock(&self.supervisor.taken).retain(|taken| taken != ids);
        }
    }
}

impl Supervisor {
    /// What is to be known of its image comes with it.
    pub(crate) async fn create(
        &self,
        name: &str,
        mut config: Config,
    ) -> Result<(Arc<Container>, Option<String>)> {
        let id = random()?;
        let mut reserved = self.reserve(name, &id)?;
        let (store, wanted) = (self.store.clone(), config.image.clone());
        let image =
            blocking(move || store.image(&wanted).map_err(|error| of_image(&error))).await?;
        let (defaults, warning) = (defaults(&image), crate::image::warning(&image.config));
        check(&config, &defaults)?;
        Launch::check(&self.host, &config.runtime)?;
        self.name_others(&mut config)?;
        let ids = self.take_ids(&config, &mut reserved)?;
        let mut change = Change::default();
        let anonymous = self.volumes(&mut config, &defaults, &mut change)?;
        let mut labels: std::collections::HashMap<_, _> =
            defaults.labels.clone().into_iter().collect();
        labels.extend(config.labels.clone());
        let record = Record {
            id: id.clone(),
            name: reserved.name.clone(),
            created_at: now(),
            args: spec::pid_one(&config, &defaults)?,
            image_id: image.id.to_string(),
            config: MessageField::some(config),
            state: MessageField::some(State::default()),
            anonymous_volumes: anonymous,
            log_path: self
                .host
                .log(&id)
                .join(super::log::NAME)
                .display()
                .to_string(),
            labels,
            ids: ids.into(),
            ..Record::default()
        };
        let (store, snapshot_id) = (self.store.clone(), id.clone());
        let snapshot = blocking(move || {
            store
                .snapshot(&snapshot_id, &image)
                .tried(|| "make the container's directory".into())
        })
        .await?;
        let record = Record {
            upper: snapshot.upper.display().to_string(),
            ..record
        };
        change = change.event(told(&record, "create", &[]));
        change.containers_made.push(record.clone());
        if let Err(fault) = self.records.apply(change).await {
            let store = self.store.clone();
            // The first fault is the one to report.
            blocking(move || store.remove_snapshot(&id).tried(String::new))
                .await
                .ok();
            return Err(fault);
        }
        let container = Container::new(record, true);
        lock(&self.containers).insert(container.id.clone(), container.clone());
        Ok((container, warning))
    }

    fn reserve(&self, name: &str, id: &str) -> Result<Reserved<'_>> {
        let name = if name.is_empty() {
            made_up(id)
        } else {
            bare(name).to_owned()
        };
        valid_name(&name)?;
        let taken = lock(&self.containers)
            .values()
            .find(|container| container.name() == name)
            .cloned();
        let mut reserved = lock(&self.reserved);
        if let Some(container) = taken {
            return Err(Fault::of(
                Kind::AlreadyExists,
                format!(
                    "the name {name} is in use by container {}: remove or rename that container, or take another name",
                    &container.id[..12]
                ),
            ));
        }
        if reserved.contains(&name) {
            return Err(Fault::of(
                Kind::AlreadyExists,
                format!("the name {name} is about to be used by another container"),
            ));
        }
        reserved.push(name.clone());
        Ok(Reserved {
            supervisor: self,
            name,
            ids: None,
        })
    }

    /// Containers whose namespaces are joined are kept by their ids, which do not change.
    fn name_others(&self, config: &mut Config) -> Result<()> {
        for mode in [
            &mut config.network,
            &mut config.pid_mode,
            &mut config.ipc_mode,
            &mut config.userns,
        ] {
            if let Some(name) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.find(name)?.id);
            }
        }
        Ok(())
    }

    /// The volumes that the configuration and the image name, made if they are not there. Returns those without a name.
    fn volumes(
        &self,
        config: &mut Config,
        image: &Defaults,
        change: &mut Change,
    ) -> Result<Vec<String>> {
        for path in &image.volumes {
            if !config
                .mounts
                .iter()
                .any(|mount| same_path(&mount.target, path))
            {
                config.mounts.push(Mount {
                    kind: Source::VOLUME.into(),
                    target: path.clone(),
                    ..Mount::default()
                });
            }
        }
        let known = self.records.volumes()?;
        let mut anonymous = vec![];
        for mount in &mut config.mounts {
            if mount.kind.enum_value() != Ok(Source::VOLUME) {
                continue;
            }
            let unnamed = mount.source.is_empty();
            if unnamed {
                mount.source = random()?;
                anonymous.push(mount.source.clone());
            }
            let new = |volume: &Volume| volume.name != mount.source;
            if known.iter().all(new) && change.volumes.iter().all(new) {
                let volume = self.new_volume(&mount.source, unnamed)?;
                change
                    .events
                    .push(event("volume", "create", &volume.name, &[]));
                change.volumes.push(volume);
            }
        }
        Ok(anonymous)
    }

    pub(crate) fn new_volume(&self, name: &str, anonymous: bool) -> Result<Volume> {
        valid_name(name)?;
        let path = self.host.volume(name);
        let made = fs::create_dir_all(&path);
        // No record is to outlive its directory, whatever becomes of the machine.
        made.and_then(|()| super::volumes::sync(&self.host))
            .tried(|| format!("make {}", path.display()))?;
        Ok(Volume {
            name: name.into(),
            path: path.display().to_string(),
            created_at: now(),
            anonymous,
            ..Volume::default()
        })
    }

    /// Removes one that does not run, after `force` has ended it.
    pub(crate) async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        if !force {
            return self.remove_ended(container, volumes).await;
        }
        // Others who start it meanwhile, again and again, would keep it.
        container.going.send_replace(true);
        let removed = async {
            self.end(container).await?;
            self.remove_ended(container, volumes).await
        };
        let removed = removed.await;
        container.going.send_replace(false);
        removed
    }

    pub(super) async fn remove_ended(
        &self,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        if !self.is_known(container) {
            return Ok(());
        }
        let restarting = container.status() == Status::RESTARTING;
        if restarting || container.is_alive() {
            let status = if restarting { "restarting" } else { "running" };
            return Err(Fault::precondition(format!(
                "container {} is {status}: stop it before it is removed, or remove it with force",
                container.name()
            )));
        }
        self.forget(container, volumes, Change::default()).await
    }

    /// What is left of one that does not run goes, its record first: what is cut off by the daemon's end from then on is for the next one
    /// to remove, and before, nothing is missing of it.
    pub(super) async fn forget(
        &self,
        container: &Container,
        volumes: bool,
        mut change: Change,
    ) -> Result<()> {
        let record = container.record();
        let (store, id, log) = (
            self.store.clone(),
            record.id.clone(),
            self.host.log(&record.id),
        );
        let directory = self.host.bundle(&record.id);
        // Usually it went with the container's end; what could not be cleaned up then goes now, mounts first.
        blocking(move || super::bundle::remove(&directory)).await?;
        change = change.event(told(&record, "destroy", &[]));
        change.containers_gone.push(record.id.clone());
        if volumes {
            for name in &record.anonymous_volumes {
                if self.users_of(name).iter().any(|user| *user != record.id) {
                    continue;
                }
                change.events.push(event("volume", "destroy", name, &[]));
                change.volumes_gone.push(name.clone());
            }
        }
        let gone = change.volumes_gone.clone();
        self.records.apply(change).await?;
        lock(&self.containers).remove(&record.id);
        container.changed.send_modify(|()| {});
        blocking(move || {
            store
                .remove_snapshot(&id)
                .tried(|| "remove the container's directory".into())?;
            removed(&log)
        })
        .await?;
        self.clear_volumes(gone).await
    }

    /// The containers that have the volume mounted when they run.
    pub(crate) fn users_of(&self, volume: &str) -> Vec<String> {
        let uses = |config: &Config| {
            config.mounts.iter().any(|mount| {
                mount.kind.enum_value() == Ok(Source::VOLUME) && mount.source == volume
            })
        };
        let containers = self.list();
        let users = containers
            .iter()
            .filter(|container| uses(&container.config()));
        users.map(|container| container.id.clone()).collect()
    }
}

/// What would fail at every start is refused now.
fn check(config: &Config, defaults: &Defaults) -> Result<()> {
    let args = spec::pid_one(config, defaults)?;
    let found = Found {
        args,
        capabilities: spec::all_capabilities(),
        ..Found::default()
    };
    spec::build(config, defaults, &found)?;
    spec::check_names(config)?;
    if config.log.max_files > MOST_FILES {
        return Err(Fault::new(format!(
            "max-file cannot be more than {MOST_FILES}"
        )));
    }
    check_hostname("host", &config.hostname)?;
    check_hostname("domain", &config.domainname)?;
    check_targets(&config.mounts)?;
    check_limits(&config.resources)?;
    check_modes(config)?;
    Mode::parse(&config.userns)?;
    check_policy(config)?;
    signal(&config.stop_signal).map(drop)
}

pub(super) fn check_policy(config: &Config) -> Result<()> {
    let name = config.restart.name.enum_value();
    if config.auto_remove && name != Ok(Name::NO) {
        return Err(Fault::new(
            "a container that is removed at its end cannot have a restart policy",
        ));
    }
    if config.restart.maximum != 0 && name != Ok(Name::ON_FAILURE) {
        return Err(Fault::new(
            "only the restart policy on-failure takes a number of attempts",
        ));
    }
    Ok(())
}

/// Whose namespaces it is in.
fn check_modes(config: &Config) -> Result<()> {
    for (what, mode, known, joins) in [
        ("network", &config.network, &["none", "host"][..], true),
        (
            "IPC mode",
            &config.ipc_mode,
            &["private", "shareable", "host"],
            true,
        ),
        ("PID mode", &config.pid_mode, &["private", "host"], true),
        ("UTS mode", &config.uts_mode, &["host"], false),
        (
            "cgroup namespace mode",
            &config.cgroupns_mode,
            &["private", "host"],
            false,
        ),
    ] {
        let fine = mode.is_empty()
            || known.contains(&mode.as_str())
            || joins && mode.starts_with("container:");
        if !fine {
            let mut known = known.to_vec();
            known.extend(joins.then_some("container:NAME"));
            return Err(Fault::new(format!(
                "no {what} is called '{mode}': there is {}",
                known.join(", ")
            )));
        }
    }
    if config.network.starts_with("container:") {
        for (what, given) in [
            ("hostname", !config.hostname.is_empty()),
            ("custom host-to-IP mapping", !config.extra_hosts.is_empty()),
            (
                "dns",
                !config.dns.is_empty()
                    || !config.dns_search.is_empty()
                    || !config.dns_options.is_empty(),
            ),
        ] {
            if given {
                return Err(Fault::new(format!(
                    "conflicting options: {what} and the network mode: these are the other container's"
                )));
            }
        }
    }
    if config.uts_mode == "host" && !(config.hostname.is_empty() && config.domainname.is_empty()) {
        return Err(Fault::new(
            "conflicting options: hostname and the UTS mode: the host's is not to be renamed",
        ));
    }
    Ok(())
}

/// What the kernel, /etc/hosts and /etc/hostname take.
fn check_hostname(what: &str, name: &str) -> Result<()> {
    const LONGEST: usize = 64;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fine = name.len() <= LONGEST && name.bytes().all(known) && !name.starts_with(['-', '.']);
    fine.then_some(()).ok_or_else(|| {
        Fault::new(format!(
            "the {what} name '{name}' is invalid: up to {LONGEST} of [a-zA-Z0-9_.-], not beginning with '-' or '.'"
        ))
    })
}

/// Of two mounts on one place, one could not be seen. Before anything is made of them.
fn check_targets(mounts: &[Mount]) -> Result<()> {
    for (at, mount) in mounts.iter().enumerate() {
        spec::check_target(&mount.target)?;
        check_subpath(mount)?;
        if mounts[..at]
            .iter()
            .any(|other| same_path(&other.target, &mount.target))
        {
            return Err(Fault::new(format!(
                "duplicate mount point: {}: only one thing can be mounted there",
                mount.target
            )));
        }
    }
    Ok(())
}

fn check_subpath(mount: &Mount) -> Result<()> {
    let wrong = |why: &str| {
        let path = &mount.subpath;
        Err(Fault::new(format!("volume-subpath '{path}': {why}")))
    };
    let mut parts = Path::new(&mount.subpath).components();
    let is_volume = mount.kind.enum_value() == Ok(Source::VOLUME);
    if !mount.subpath.is_empty() && (!is_volume || mount.source.is_empty()) {
        return wrong("only a volume with a name has parts that can be mounted");
    }
    match parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true => Ok(()),
        false => wrong("it is to be a path within the volume"),
    }
}

/// What nobody can have. Containers that are there already are not asked: this machine may have become smaller.
pub(super) fn check_limits(limits: &Resources) -> Result<()> {
    if limits.memory > 0 && limits.memory_reservation > limits.memory {
        return Err(Fault::new(
            "the limit of memory is below what is reserved of it",
        ));
    }
    if limits.nano_cpus > 0 && (limits.cpu_period, limits.cpu_quota) != (0, 0) {
        return Err(Fault::new(
            "conflicting options: a number of CPUs is a quota and its period, and these cannot be set beside it",
        ));
    }
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let cpus = cpus.tried(|| "count the processors".into())?;
    let there = (0..nix::sched::CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true));
    let there = there.count();
    if limits.nano_cpus > i64::try_from(there).unwrap_or(i64::MAX) * 1_000_000_000 {
        return Err(Fault::new(format!(
            "more CPUs are asked for than the {there} that are available"
        )));
    }
    Ok(())
}

pub(super) fn same_path(one: &str, other: &str) -> bool {
    let parts = |path: &'_ str| {
        path.split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    parts(one) == parts(other)
}

/// The number of a signal: `SIGTERM`, `TERM` or `15`; empty for 0, which is none.
pub(crate) fn signal(word: &str) -> Result<u32> {
    if word.is_empty() {
        return Ok(0);
    }
    if let Ok(number) = word.parse::<u32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(|| Fault::new(format!("no signal has the number {number}")));
    }
    let upper = word.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}")
        .parse()
        .map_err(|_| Fault::new(format!("no signal is called '{word}'")))?;
    Ok((signal as i32).cast_unsigned())
}

/// `RTMIN`, `RTMIN+n`, `RTMAX-n`, `RTMAX`.
fn real_time(name: &str) -> Option<u32> {
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(number) => number.parse().ok(),
        None => rest.is_empty().then_some(0),
    };
    let number = match name.strip_prefix("RTMIN") {
        Some(rest) => 34_u32.checked_add(offset(rest, '+')?)?,
        None => 64_u32.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?,
    };
    (34..=64).contains(&number).then_some(number)
}

pub(crate) fn defaults(image: &Image) -> Defaults {
    let Some(config) = image.config.config() else {
        return Defaults::default();
    };
    Defaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: below_root(config.working_dir().as_deref().unwrap_or_default()),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
        volumes: config
            .volumes()
            .iter()
            .flatten()
            .map(|path| below_root(path))
            .collect(),
        ports: config.exposed_ports().clone().unwrap_or_default(),
        labels: config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    }
}

/// A path that an image has from wherever its process begins, which is the root.
fn below_root(path: &str) -> String {
    match path.is_empty() || path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

/// The store says which image it is about.
pub(crate) fn of_image(error: &anyhow::Error) -> Fault {
    let refused = error.downcast_ref::<crate::store::Refusal>().is_some();
    let kind = if refused {
        Kind::NotFound
    } else {
        Kind::Unknown
    };
    Fault::of(kind, format!("{error:#}"))
}

/// Runs it on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Panics abort, and nobody cancels.
        Err(error) => Err(Fault::unknown(error.to_string())),
    }
}

/// As Docker has it.
pub(crate) fn valid_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let fine = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() > 1
        && name.len() <= 255
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    fine.then_some(()).ok_or_else(|| {
        Fault::new(format!(
            "the name '{name}' is invalid: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed"
        ))
    })
}

/// 64 hexadecimal digits.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0; 32];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.tried(|| "read /dev/urandom".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name that can be said, from an id's first digits. Two of them are the same rarely, but then the operation says so.
fn made_up(id: &str) -> String {
    const HOW: [&str; 32] = [
        "amber", "brave", "calm", "clever", "deep", "eager", "fair", "fresh", "gentle", "glad",
        "grand", "happy", "keen", "kind", "light", "lively", "loyal", "lucky", "merry", "mild",
        "noble", "proud", "quick", "quiet", "ready", "sharp", "steady", "still", "sunny", "swift",
        "warm", "wise",
    ];
    const WHAT: [&str; 32] = [
        "anchor", "barge", "bay", "beacon", "bridge", "buoy", "canal", "cliff", "cove", "crane",
        "delta", "diver", "dock", "ferry", "harbour", "heron", "island", "jetty", "keel", "lagoon",
        "lock", "mast", "otter", "pier", "quay", "reef", "rudder", "sail", "shore", "tide",
        "tower", "wave",
    ];
    let number =
        |range: std::ops::Range<usize>| usize::from_str_radix(&id[range], 16).unwrap_or_default();
    format!(
        "{}_{}_{}",
        HOW[number(0..4) % 32],
        WHAT[number(4..8) % 32],
        &id[8..12]
    )
}

/// Whether a container with this policy and these ends is started again.
pub(super) fn restarts(config: &Config, state: &State) -> bool {
    let policy = config.restart.get_or_default();
    match policy.name.enum_value_or_default() {
        Name::NO => false,
        Name::ON_FAILURE => {
            state.exit_code != 0
                && !state.stopped
                && (policy.maximum == 0 || state.restarts < policy.maximum)
        }
        Name::ALWAYS | Name::UNLESS_STOPPED => !state.stopped,
    }
}

pub(super) fn status(state: &State) -> Status {
    state.status.enum_value().unwrap_or(Status::EXITED)
}
