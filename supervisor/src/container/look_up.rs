//! What a start needs to know of this host and of other containers → [`Found`].
//!
//! Blocking calls, for a thread that may block.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::create::{defaults, of_image, same_path};
use super::layers::Layers;
use super::{Supervisor, bundle};
use crate::fault::{Fault, Result, Tried as _};
use crate::layer::Snapshot;
use crate::protos::containers::{Config, Container as Record, Effective, Throttle, mount::Kind};
use crate::spec::{self, Accounts, Bind, Defaults, Found, Joined, Node, Rate, Rates, User};
use crate::store::Store;

/// The word of a bind mount whose ids are mapped, as those of a volume are without it.
const ID_MAPPED: &str = "idmap";

impl Supervisor {
    /// What its configuration and its image say together.
    pub(crate) fn effective(&self, record: &Record) -> Result<Effective> {
        let image = self.store.image(&record.image_id);
        let image = image.map_err(|error| of_image(&error))?;
        Ok(self.effective_with(record, &defaults(&image)))
    }

    /// What the options and the image say together. The hostname is, unless it was said, that of whose network it is in, or its own.
    fn effective_with(&self, record: &Record, image: &Defaults) -> Effective {
        let config = record.config.get_or_default();
        let mut effective = spec::effective(config, image);
        if !effective.hostname.is_empty() {
            return effective;
        }
        let other = config.network.strip_prefix("container:");
        let other = other.and_then(|id| self.find(id).ok());
        let of_other = other.and_then(|other| self.effective(&other.record()).ok());
        effective.hostname = match of_other {
            Some(other) => other.hostname,
            None if config.network == "host" || config.uts_mode == "host" => own_hostname(),
            None => record.id[..12].to_owned(),
        };
        effective
    }

    pub(super) fn look_up(
        &self,
        record: &Record,
        image: &Defaults,
        layers: &Layers,
    ) -> Result<Found> {
        let config = record.config.get_or_default();
        let effective = self.effective_with(record, image);
        let hostname = effective.hostname;
        let user = user(layers, &effective.user, &config.groups)?;
        for id in [user.uid, user.gid].iter().chain(&user.groups) {
            super::ids::has(record, *id)?;
        }
        let joined = self.joined(record)?;
        let mut binds = self.binds(record)?;
        let directory = self.host.bundle(&record.id);
        for (number, bind) in binds.iter_mut().enumerate() {
            if !bind.within.is_empty() {
                let place = bundle::pin(&directory, number, &bind.source, &bind.within)?;
                bind.source = place.display().to_string();
                bind.within.clear();
            }
        }
        binds.extend(self.own_files(record, &hostname)?);
        let resources = config.resources.get_or_default();
        Ok(Found {
            id: record.id.clone(),
            args: record.args.clone(),
            user,
            hostname,
            binds,
            joined,
            devices: devices(record)?,
            rates: Rates {
                read_bps: rates(&resources.read_bps)?,
                write_bps: rates(&resources.write_bps)?,
                read_iops: rates(&resources.read_iops)?,
                write_iops: rates(&resources.write_iops)?,
            },
            capabilities: capabilities(),
            init: config.init.then(|| self.host.daemon.clone()),
            ids: record.ids.clone().into_option(),
            run: super::create::random()?,
            // KERNEL(5.12): without it, only the directory itself is.
            recursive: crate::sys::can_restrict_trees(),
            sysctls: sysctls(),
            profile: self.profile.of(config)?,
        })
    }

    fn joined(&self, record: &Record) -> Result<Joined> {
        let config = record.config.get_or_default();
        let of = |mode: &str, kind: &str| -> Result<Option<String>> {
            match mode.strip_prefix("container:") {
                Some(id) => {
                    let other = self.find(id)?;
                    other.shim().map_err(|_| {
                        Fault::precondition(format!(
                            "cannot join the {kind} namespace of container {}, which is not running",
                            other.name()
                        ))
                    })?;
                    Ok(Some(format!(
                        "/proc/{}/ns/{kind}",
                        other.record().state.pid
                    )))
                }
                None => Ok((mode == "host").then(String::new)),
            }
        };
        let user = of(&config.userns, "user")?.filter(|_| record.ids.is_some());
        let shm = self.shm(record)?.map(|path| path.display().to_string());
        Ok(Joined {
            user,
            network: of(&config.network, "net")?,
            pid: of(&config.pid_mode, "pid")?,
            ipc: of(&config.ipc_mode, "ipc")?,
            shm,
        })
    }

    /// The directory that becomes its /dev/shm, unless that is its own: the files of an IPC namespace belong to it.
    fn shm(&self, record: &Record) -> Result<Option<PathBuf>> {
        let config = record.config.get_or_default();
        match config.ipc_mode.as_str() {
            "host" => Ok(Some("/dev/shm".into())),
            "shareable" => {
                let directory = self.host.bundle(&record.id);
                let ids = record.ids.get_or_default();
                let owner = (ids.first_uid, ids.first_gid);
                bundle::make_shm(&directory, crate::spec::shm_size(config), owner).map(Some)
            }
            mode => {
                let Some(id) = mode.strip_prefix("container:") else {
                    return Ok(None);
                };
                let other = self.find(id)?;
                if other.config().ipc_mode != "shareable" {
                    return Err(Fault::precondition(format!(
                        "the IPC namespace of container {} is private: run it with --ipc shareable",
                        other.name()
                    )));
                }
                Ok(Some(bundle::shm(&self.host.bundle(&other.id))))
            }
        }
    }

    pub(super) fn binds(&self, record: &Record) -> Result<Vec<Bind>> {
        let config = record.config.get_or_default();
        let mut binds = vec![];
        for mount in &config.mounts {
            let source = match mount.kind.enum_value_or_default() {
                Kind::TMPFS => continue,
                Kind::VOLUME => {
                    let path = self.host.volume(&mount.source);
                    // Its record is there; somebody may have removed the directory by hand.
                    fs::create_dir_all(&path).tried(|| format!("make {}", path.display()))?;
                    path
                }
                Kind::BIND => {
                    let path = PathBuf::from(&mount.source);
                    if !path.is_absolute() {
                        return Err(Fault::new(format!(
                            "bind source '{}' is no absolute path",
                            mount.source
                        )));
                    }
                    if !path.exists() {
                        if !mount.make_source {
                            return Err(Fault::new(format!(
                                "bind source path does not exist: {}",
                                mount.source
                            )));
                        }
                        fs::create_dir_all(&path).tried(|| format!("make {}", path.display()))?;
                    }
                    path
                }
            };
            binds.push(Bind {
                source: source.display().to_string(),
                target: mount.target.clone(),
                read_only: mount.read_only,
                options: mount
                    .options
                    .iter()
                    .filter(|word| *word != ID_MAPPED)
                    .cloned()
                    .collect(),
                mapped: mount.kind == Kind::VOLUME.into()
                    || mount.options.iter().any(|word| word == ID_MAPPED),
                within: mount.subpath.clone(),
            });
        }
        Ok(binds)
    }

    /// Such a file of the container whose network it is in, which may have another mounted there. A link, so that it stays when that one ends.
    fn shared(&self, config: &Config, directory: &Path, name: &str) -> Result<Option<PathBuf>> {
        let Some(id) = config.network.strip_prefix("container:") else {
            return Ok(None);
        };
        let (from, to) = (self.host.bundle(id).join(name), directory.join(name));
        match fs::hard_link(&from, &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).tried(|| format!("link {}", from.display())),
        }
    }

    /// hostname, hosts and resolv.conf, unless the configuration mounts others there.
    fn own_files(&self, record: &Record, hostname: &str) -> Result<Vec<Bind>> {
        let config = record.config.get_or_default();
        let of_host = |path: &str| fs::read_to_string(path).ok();
        let theirs = of_host("/etc/hosts").filter(|_| config.network == "host");
        let hosts = spec::hosts(config, hostname, theirs)?;
        let servers = of_host("/etc/resolv.conf").unwrap_or_default();
        let resolv = spec::resolv_conf(config, &servers);
        let directory = self.host.bundle(&record.id);
        let hostname = format!("{hostname}\n");
        let mut binds = vec![];
        for (name, content) in [
            ("hostname", &hostname),
            ("hosts", &hosts),
            ("resolv.conf", &resolv),
        ] {
            let target = format!("/etc/{name}");
            if config
                .mounts
                .iter()
                .any(|mount| same_path(&mount.target, &target))
            {
                continue;
            }
            let (source, shared) = match self.shared(config, &directory, name)? {
                Some(source) => (source, true),
                None => (bundle::write(&directory, name, content, 0o644)?, false),
            };
            if let Some(ids) = record.ids.as_ref().filter(|_| !shared) {
                let (uid, gid) = (Some(ids.first_uid), Some(ids.first_gid));
                std::os::unix::fs::lchown(&source, uid, gid)
                    .tried(|| format!("give {} to the container's root", source.display()))?;
            }
            binds.push(Bind {
                source: source.display().to_string(),
                target,
                read_only: false,
                options: vec![],
                mapped: false,
                within: String::new(),
            });
        }
        Ok(binds)
    }
}

/// Where a container's files are.
pub(super) fn snapshot(store: &Store, record: &Record) -> Result<Snapshot> {
    let snapshot = store
        .snapshot_of(&record.id)
        .tried(|| "find the container's directory".into())?;
    super::ids::own(&snapshot, record)?;
    Ok(snapshot)
}

/// From the container's own accounts.
pub(super) fn user(layers: &Layers, words: &str, groups: &[String]) -> Result<User> {
    let mut accounts = Accounts {
        passwd: layers.file("/etc/passwd"),
        group: layers.file("/etc/group"),
    };
    accounts.find(words, groups)
}

/// What the daemon can give: its own bounding set.
pub(super) fn capabilities() -> Vec<String> {
    let held = caps::read(None, caps::CapSet::Bounding).unwrap_or_default();
    held.iter().map(ToString::to_string).collect()
}

fn sysctls() -> Vec<&'static str> {
    let there = |name: &&str| Path::new("/proc/sys").join(name.replace('.', "/")).exists();
    spec::OF_NETWORKS.into_iter().filter(there).collect()
}

fn own_hostname() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "localhost".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn devices(record: &Record) -> Result<Vec<Node>> {
    let config = record.config.get_or_default();
    let mut nodes = vec![];
    if config.privileged {
        all_below(Path::new("/dev"), &mut nodes);
    }
    for device in &config.devices {
        let target = if device.target.is_empty() {
            &device.source
        } else {
            &device.target
        };
        let access = if device.access.is_empty() {
            "rwm"
        } else {
            &device.access
        };
        if access.bytes().any(|byte| !b"rwm".contains(&byte)) {
            return Err(Fault::new(format!(
                "device access '{access}' is not of r, w and m"
            )));
        }
        if fs::metadata(&device.source).is_ok_and(|found| found.is_dir()) {
            let mut below = vec![];
            all_below(Path::new(&device.source), &mut below);
            nodes.extend(below.into_iter().map(|node| Node {
                path: node.path.replacen(&device.source, target, 1),
                access: access.into(),
                ..node
            }));
            continue;
        }
        let found = node(Path::new(&device.source), target, access)?;
        nodes.retain(|node| node.path != *target);
        nodes.push(found.ok_or_else(|| Fault::new(format!("{} is no device", device.source)))?);
    }
    Ok(nodes)
}

/// What the container has of its own, or its terminals, is left out.
fn all_below(directory: &Path, nodes: &mut Vec<Node>) {
    const OWN: [&str; 12] = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/console",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
    ];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = path.display().to_string();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if OWN.contains(&text.as_str()) {
            continue;
        }
        if kind.is_dir() {
            all_below(&path, nodes);
        } else if let Ok(Some(found)) = node(&path, &text, "rwm")
            && !kind.is_symlink()
        {
            nodes.push(found);
        }
    }
}

fn node(source: &Path, target: &str, access: &str) -> Result<Option<Node>> {
    let found = fs::metadata(source).tried(|| format!("device {}", source.display()))?;
    let kind = found.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Ok(None);
    }
    Ok(Some(Node {
        path: target.into(),
        source: source.display().to_string(),
        block: kind.is_block_device(),
        major: major(found.rdev()),
        minor: minor(found.rdev()),
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        access: access.into(),
    }))
}

pub(super) fn rates(throttles: &[Throttle]) -> Result<Vec<Rate>> {
    let one = |throttle: &Throttle| {
        let found =
            fs::metadata(&throttle.device).tried(|| format!("device {}", throttle.device))?;
        if !found.file_type().is_block_device() {
            return Err(Fault::new(format!(
                "{} is no block device",
                throttle.device
            )));
        }
        Ok(Rate {
            major: major(found.rdev()),
            minor: minor(found.rdev()),
            rate: throttle.rate,
        })
    };
    throttles.iter().map(one).collect()
}
