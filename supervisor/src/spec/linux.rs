//! The part of the configuration that is Linux's: namespaces, devices, what is hidden, the system call filter. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Fault, Found, Node, Result, Security, resources, seccomp};
use crate::protos::containers::{Config, Ids};

/// Namespaces of others, by their paths; `Some("")` is the host's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) user: Option<String>,
    pub(crate) network: Option<String>,
    pub(crate) pid: Option<String>,
    pub(crate) ipc: Option<String>,
    /// The directory that is the other's /dev/shm.
    pub(crate) shm: Option<String>,
}

/// What tells about the host or changes it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// From which port on none is root's only, and who may ping without being root.
const PORTS: &str = "net.ipv4.ip_unprivileged_port_start";
const PING: &str = "net.ipv4.ping_group_range";
/// The parameters of a network namespace that are set, if there are such.
pub(crate) const OF_NETWORKS: [&str; 2] = [PORTS, PING];

pub(super) fn linux(
    config: &Config,
    found: &Found,
    capabilities: &[String],
    security: &Security,
) -> Result<Value> {
    let open = config.privileged || security.unmasked;
    let mut resources = resources::resources(&config.resources, &found.rates)?;
    resources["devices"] = devices_allowed(config, &found.devices)?;
    let mut linux = json!({
        "cgroupsPath": cgroup(config, &found.id)?,
        "namespaces": namespaces(config, found),
        "resources": resources,
        "sysctl": sysctls(config, found),
        "maskedPaths": if open { &[][..] } else { &MASKED[..] },
        "readonlyPaths": if open { &[][..] } else { &READ_ONLY[..] },
        "devices": devices(found),
        "rootfsPropagation": "rprivate",
    });
    if let (Some(ids), None) = (&found.ids, &found.joined.user) {
        linux["uidMappings"] = map(ids.first_uid, ids);
        linux["gidMappings"] = map(ids.first_gid, ids);
    }
    if !config.privileged && !security.unconfined {
        linux["seccomp"] = match &security.profile {
            Some(profile) => profile.clone(),
            None => seccomp::profile(capabilities),
        };
    }
    Ok(linux)
}

/// The control group of a container, by its path from the root of all. What has colons would be taken for a unit of systemd's.
pub(crate) fn cgroup(config: &Config, id: &str) -> Result<String> {
    if config.cgroup_parent.is_empty() {
        return Ok(format!("/caisson/{id}"));
    }
    let parts = config.cgroup_parent.split('/');
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let strange = |character: char| character == ':' || character.is_control();
    if parts.contains(&"..") || parts.contains(&".") || config.cgroup_parent.contains(strange) {
        return Err(Fault::new(format!(
            "'{}' is no path of a control group",
            config.cgroup_parent.escape_debug()
        )));
    }
    let parent: String = parts.iter().map(|part| format!("/{part}")).collect();
    Ok(format!("{parent}/{id}"))
}

/// As it was asked for, and in a network namespace of its own as Docker has it: any user may take any port, and ping.
fn sysctls(config: &Config, found: &Found) -> BTreeMap<String, String> {
    let mut sysctls: BTreeMap<_, _> = config.sysctls.clone().into_iter().collect();
    let private = found.joined.network.is_none();
    for name in found.sysctls.iter().filter(|_| private) {
        let value = match *name {
            PORTS => "0",
            // Groups that no user namespace maps as a whole.
            PING if found.ids.is_none() => "0 2147483647",
            _ => continue,
        };
        if !config
            .sysctls
            .keys()
            .any(|said| said.replace('/', ".") == *name)
        {
            sysctls.insert((*name).into(), value.into());
        }
    }
    sysctls
}

/// From the ids of the container, or those on a file system, to the host's.
pub(super) fn map(first: u32, ids: &Ids) -> Value {
    json!([{ "containerID": 0, "hostID": first, "size": ids.size }])
}

fn namespaces(config: &Config, found: &Found) -> Vec<Value> {
    let joined = &found.joined;
    let mut namespaces = vec![json!({ "type": "mount" })];
    for (kind, mode) in [("cgroup", &config.cgroupns_mode), ("uts", &config.uts_mode)] {
        if mode != "host" {
            namespaces.push(json!({ "type": kind }));
        }
    }
    match &joined.user {
        Some(path) => namespaces.push(json!({ "type": "user", "path": path })),
        None if found.ids.is_some() => namespaces.push(json!({ "type": "user" })),
        None => {}
    }
    for (kind, path) in [
        ("network", &joined.network),
        ("pid", &joined.pid),
        ("ipc", &joined.ipc),
    ] {
        match path.as_deref() {
            None => namespaces.push(json!({ "type": kind })),
            Some("") => {}
            Some(path) => namespaces.push(json!({ "type": kind, "path": path })),
        }
    }
    namespaces
}

/// In a user namespace none can be made: the host's are mounted, by `mounts`.
fn devices(found: &Found) -> Vec<Value> {
    let made = |_: &&Node| found.ids.is_none();
    found.devices.iter().filter(made).map(node).collect()
}

fn node(node: &Node) -> Value {
    json!({
        "path": node.path, "type": if node.block { "b" } else { "c" }, "major": node.major, "minor": node.minor,
        "fileMode": node.mode & 0o777, "uid": node.uid, "gid": node.gid,
    })
}

/// Nothing but the harmless ones and those that were asked for; nodes of any kind may be made, but not opened.
fn devices_allowed(config: &Config, devices: &[Node]) -> Result<Value> {
    let asked: Result<Vec<Value>> = config
        .device_cgroup_rules
        .iter()
        .map(|rule| allowed(rule))
        .collect();
    let asked = asked?;
    if config.privileged {
        return Ok(json!([{ "allow": true, "access": "rwm" }]));
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx; all pts.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(
            json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }),
        );
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true, "type": if device.block { "b" } else { "c" },
            "major": device.major, "minor": device.minor, "access": device.access,
        })
    }));
    rules.extend(asked);
    Ok(json!(rules))
}

/// A rule in Docker's words: `c 10:* rwm`.
fn allowed(rule: &str) -> Result<Value> {
    let wrong = || {
        Fault::new(format!(
            "invalid device cgroup format '{rule}': it is a, b or c, MAJOR:MINOR (a number or * each), and some of rwm"
        ))
    };
    let words: Vec<&str> = rule.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else {
        return Err(wrong());
    };
    let fine = (1..=3).contains(&access.len()) && access.bytes().all(|byte| b"rwm".contains(&byte));
    let (major, minor) = numbers.split_once(':').filter(|_| fine).ok_or_else(wrong)?;
    let mut made = json!({ "allow": true, "type": kind, "access": access });
    for (name, word) in [("major", major), ("minor", minor)] {
        if word != "*" {
            let digits = word.bytes().all(|byte| byte.is_ascii_digit());
            let number = word.parse::<u32>().ok().filter(|_| digits);
            made[name] = json!(number.ok_or_else(wrong)?);
        }
    }
    Ok(made)
}
