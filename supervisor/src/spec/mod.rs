//! A container's configuration, its image's defaults and what is true of this host → the OCI configuration that the runtime gets. Pure: what
//! has to be looked up (accounts, devices, namespaces of others) comes in.

mod capabilities;
mod linux;
mod mounts;
mod names;
mod process;
mod resources;
mod seccomp;
mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fault::{Fault, Result};
use crate::protos::containers::{Config, Ids};

pub(crate) use capabilities::all as all_capabilities;
pub(crate) use linux::{Joined, OF_NETWORKS, cgroup};
pub(crate) use mounts::{Bind, check_target, is_propagation, shm_size};
pub(crate) use names::{check as check_names, hosts, resolv_conf};
pub(crate) use process::{Exec, effective, exec, pid_one};
pub(crate) use resources::{Rate, Rates, resources};
pub(crate) use user::{Accounts, User};

/// What an image says about the containers made from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) stop_signal: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) ports: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A device node of the host.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    /// Where the host has it.
    pub(crate) source: String,
    pub(crate) block: bool,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) access: String,
}

/// What has been looked up for a container that is about to start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) args: Vec<String>,
    pub(crate) user: User,
    pub(crate) hostname: String,
    pub(crate) binds: Vec<Bind>,
    pub(crate) joined: Joined,
    pub(crate) devices: Vec<Node>,
    pub(crate) rates: Rates,
    /// What the daemon itself can give.
    pub(crate) capabilities: Vec<String>,
    /// The program that is process 1 if the configuration asks for an init.
    pub(crate) init: Option<PathBuf>,
    /// Those of its user namespace, if that is not the host's.
    pub(crate) ids: Option<Ids>,
    /// Names this run: a shim that is about to end must not be taken for the one that is to be started.
    pub(crate) run: String,
    /// What is mounted below a directory can become read-only with it.
    pub(crate) recursive: bool,
    /// Of [`OF_NETWORKS`], what this kernel has.
    pub(crate) sysctls: Vec<&'static str>,
    /// Its AppArmor profile, if this host has such.
    pub(crate) profile: Option<String>,
}

/// config.json.
pub(crate) fn build(config: &Config, image: &Defaults, found: &Found) -> Result<Value> {
    let capabilities = capabilities::bounding(
        &config.cap_add,
        &config.cap_drop,
        config.privileged,
        &found.capabilities,
    )?;
    let security = Security::parse(&config.security_opt)?;
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": process::process(config, image, found, &capabilities, &security)?,
        "root": { "path": "rootfs", "readonly": config.read_only },
        "hostname": found.hostname,
        "mounts": mounts::mounts(config, found)?,
        "annotations": annotations(config, found),
        "linux": linux::linux(config, found, &capabilities, &security)?,
    });
    if config.uts_mode == "host" {
        // The name of another's namespace is not ours to set.
        spec.as_object_mut().map(|spec| spec.remove("hostname"));
    } else if !config.domainname.is_empty() {
        spec["domainname"] = json!(config.domainname);
    }
    Ok(spec)
}

/// Shims of the same group share a process; each run is a group of its own.
fn annotations(config: &Config, found: &Found) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<_, _> = config.annotations.clone().into_iter().collect();
    annotations.insert("io.containerd.runc.v2.group".into(), found.run.clone());
    annotations
}

/// The AppArmor profile that the options name.
pub(crate) fn profile(config: &Config) -> Result<Option<String>> {
    let said = Security::parse(&config.security_opt)?.apparmor;
    Ok(said.filter(|profile| !profile.is_empty()))
}

/// The words of `--security-opt`.
#[derive(Debug, Default)]
struct Security {
    no_new_privileges: bool,
    unconfined: bool,
    profile: Option<Value>,
    apparmor: Option<String>,
    unmasked: bool,
}

impl Security {
    fn parse(words: &[String]) -> Result<Self> {
        let mut security = Self::default();
        for word in words {
            let (name, value) = word.split_once(['=', ':']).unwrap_or((word, ""));
            match (name, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.unconfined = true,
                ("seccomp", "builtin") => {}
                ("seccomp", text) => {
                    let profile = serde_json::from_str(text).map_err(|error| {
                        Fault::new(format!("the seccomp profile is no JSON: {error}"))
                    })?;
                    security.profile = Some(profile);
                }
                ("apparmor", profile) => security.apparmor = Some(profile.to_owned()),
                ("systempaths", "unconfined") => security.unmasked = true,
                ("label", "disable") => {}
                _ => return Err(Fault::new(format!("unknown security option '{word}'"))),
            }
        }
        Ok(security)
    }
}

#[cfg(test)]
mod tests;
