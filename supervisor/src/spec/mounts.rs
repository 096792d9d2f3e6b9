//! Mounts: the kernel's file systems, and what the configuration brings in. Pure.

use serde_json::{Value, json};

use super::linux::map;
use super::process::INIT;
use super::{Fault, Found, Result};
use crate::protos::containers::{Config, mount::Kind};

/// A directory or file of the host that has been made ready.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    pub(crate) options: Vec<String>,
    /// If the container has a user namespace, ids on the disk are those in the container.
    pub(crate) mapped: bool,
    /// What of the source is meant, if that is not yet found: a path that anybody's links may be in the way of.
    pub(crate) within: String,
}

/// In the order in which they are made: what is below another target comes after it.
pub(super) fn mounts(config: &Config, found: &Found) -> Result<Vec<Value>> {
    let mut mounts = kernel(config, found);
    for mount in &config.mounts {
        if mount.kind.enum_value() != Ok(Kind::TMPFS) {
            continue;
        }
        check_target(&mount.target)?;
        let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(String::from).to_vec();
        for option in &mount.options {
            // What is said last counts, but both would be odd to read.
            let opposite = option
                .strip_prefix("no")
                .map_or(format!("no{option}"), str::to_owned);
            options.retain(|word| *word != opposite && word != option);
            options.push(option.clone());
        }
        if mount.read_only {
            options.push("ro".into());
        }
        replace(
            &mut mounts,
            json!({ "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options }),
        );
    }
    for bind in &found.binds {
        check_target(&bind.target)?;
        let mut mount = json!({
            "destination": bind.target, "type": "bind", "source": bind.source, "options": options(bind, found.recursive),
        });
        if let Some(ids) = found.ids.as_ref().filter(|_| bind.mapped) {
            mount["uidMappings"] = map(ids.first_uid, ids);
            mount["gidMappings"] = map(ids.first_gid, ids);
        }
        replace(&mut mounts, mount);
    }
    for device in found.devices.iter().filter(|_| found.ids.is_some()) {
        replace(
            &mut mounts,
            json!({ "destination": device.path, "type": "bind", "source": device.source, "options": ["bind", "nosuid", "noexec", "rprivate"] }),
        );
    }
    if let Some(init) = &found.init {
        mounts.push(json!({
            "destination": INIT, "type": "bind", "source": init.display().to_string(), "options": ["bind", "ro", "rprivate"],
        }));
    }
    mounts.sort_by_key(depth);
    Ok(mounts)
}

/// Of the options of a mount.
pub(crate) fn is_propagation(option: &str) -> bool {
    option.ends_with("private") || option.ends_with("slave") || option.ends_with("shared")
}

/// What is mounted below comes too, read-only as well, unless the configuration says otherwise: `bind`, or just `ro`.
fn options(bind: &Bind, recursive: bool) -> Vec<String> {
    let says = |word: &str| bind.options.iter().any(|option| option == word);
    let mut options = vec![];
    if !says("bind") {
        options.push("rbind");
    }
    options.push(if bind.read_only { "ro" } else { "rw" });
    // Beside `ro`: a runtime that does not know the word takes it for the file system's.
    if bind.read_only && recursive && !says("ro") {
        options.push("rro");
    }
    if !bind.options.iter().any(|word| is_propagation(word)) {
        options.push("rprivate");
    }
    let options = options.into_iter().map(str::to_owned);
    options.chain(bind.options.iter().cloned()).collect()
}

/// Bytes of /dev/shm.
pub(crate) fn shm_size(config: &Config) -> u64 {
    match config.shm_size {
        0 => 64 << 20,
        size => size,
    }
}

fn kernel(config: &Config, found: &Found) -> Vec<Value> {
    let plain = ["nosuid", "noexec", "nodev"];
    let mount = |destination: &str, kind: &str, options: &[&str], more: &[&str]| {
        let options: Vec<&str> = options.iter().chain(more).copied().collect();
        json!({ "destination": destination, "type": kind, "source": kind, "options": options })
    };
    let guarded: &[&str] = if config.privileged { &["rw"] } else { &["ro"] };
    let size = format!("size={}", shm_size(config));
    let mut mounts = vec![
        mount("/proc", "proc", &plain, &[]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
            &[],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
            &[],
        ),
        mount("/sys/fs/cgroup", "cgroup", &plain, guarded),
    ];
    // What belongs to a namespace is mounted by who owns that.
    let is_others = |mode: &str| found.ids.is_some() && shares(mode) && mode != config.userns;
    if is_others(&config.network) {
        let write = if config.privileged { "rw" } else { "rro" };
        let options = ["rbind", "rprivate", "rnosuid", "rnoexec", "rnodev", write];
        mounts.push(
            json!({ "destination": "/sys", "type": "bind", "source": "/sys", "options": options }),
        );
    } else {
        mounts.push(mount("/sys", "sysfs", &plain, guarded));
    }
    if !is_others(&config.ipc_mode) {
        mounts.push(mount("/dev/mqueue", "mqueue", &plain, &[]));
    }
    if let Some(shm) = &found.joined.shm {
        mounts.push(json!({ "destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rprivate"] }));
    } else {
        mounts.push(mount("/dev/shm", "tmpfs", &plain, &["mode=1777", &size]));
    }
    mounts
}

/// The namespace is the host's or another container's.
fn shares(mode: &str) -> bool {
    mode == "host" || mode.starts_with("container:")
}

/// The configuration's mount in the place of a default one at the same target.
fn replace(mounts: &mut Vec<Value>, mount: Value) {
    mounts.retain(|other| other["destination"] != mount["destination"]);
    mounts.push(mount);
}

fn depth(mount: &Value) -> usize {
    let path = mount["destination"].as_str().unwrap_or_default();
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// Whether something can be mounted there.
pub(crate) fn check_target(target: &str) -> Result<()> {
    let fine = target.starts_with('/')
        && target
            .split('/')
            .any(|part| !part.is_empty() && part != ".");
    fine.then_some(()).ok_or_else(|| {
        Fault::new(format!(
            "mount target '{target}' is invalid: it must be an absolute path other than /"
        ))
    })
}
