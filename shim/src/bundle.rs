//! The bundle's directory: what containerd, the runtime and we keep in it for each other. One function per file.

mod document;

use std::collections::HashMap;
use std::fs;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::reaper::Exit;

pub(crate) use self::document::Document;

/// What of config.json the shim needs to know.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    cgroups_path: String,
    uid_mappings: Vec<IdMap>,
    gid_mappings: Vec<IdMap>,
}

/// So many ids inside of a user namespace, and which ones these are on the host.
#[derive(Clone, Copy, Debug, Deserialize)]
struct IdMap {
    #[serde(rename = "containerID")]
    inside: u32,
    #[serde(rename = "hostID")]
    outside: u32,
    size: u32,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Namespace {
    pub(crate) r#type: String,
    /// Empty for a new one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) path: String,
}

impl Config {
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        serde_json::from_slice(&fs::read(bundle.join("config.json"))?).map_err(Error::from)
    }

    /// Whether the kernel kills all of the container when its init ends.
    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|namespace| namespace.r#type == "pid" && namespace.path.is_empty())
    }

    /// Whether the group is named as for systemd, `SLICE:PREFIX:NAME`, which no other manager of groups makes sense of.
    pub(crate) fn has_group_of_systemd(&self) -> bool {
        let path = &self.linux.cgroups_path;
        let parts: Vec<&str> = path.split(':').collect();
        matches!(parts[..], [slice, _, name] if (slice.is_empty() || slice.ends_with(".slice")) && !name.is_empty())
            && !path.contains('/')
    }

    /// Who root of the container is on the host: user and group.
    pub(crate) fn root(&self) -> (u32, u32) {
        let on_host = |maps: &[IdMap]| {
            let mut maps = maps.iter();
            let map = maps.find(|map| map.inside == 0 && map.size > 0);
            map.map_or(0, |map| map.outside)
        };
        (
            on_host(&self.linux.uid_mappings),
            on_host(&self.linux.gid_mappings),
        )
    }
}

/// options.json, for `delete`, which is not told.
pub(crate) fn write_options(bundle: &Path, options: &Options) -> Result<()> {
    write(&bundle.join("options.json"), &serde_json::to_vec(options)?)?;
    // Go's shim keeps the binary's name in a file of its own.
    write(&bundle.join("runtime"), options.binary_name.as_bytes())
}

/// None if the container was never created: a sandbox without a process is not.
pub(crate) fn read_options(bundle: &Path) -> Result<Option<Options>> {
    match fs::read(bundle.join("options.json")) {
        Ok(text) => serde_json::from_slice(&text).map_err(Error::from),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the bundle's shim listens.
pub(crate) fn write_address(bundle: &Path, address: &str) -> Result<()> {
    write(&bundle.join("address"), address.as_bytes())
}

/// The link `s`, to the directory in which the bundle's shim listens.
pub(crate) fn write_sockets(bundle: &Path, directory: &Path) -> Result<()> {
    let link = bundle.join("s");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(directory, link)
}

pub(crate) fn sockets(bundle: &Path) -> Result<PathBuf> {
    fs::read_link(bundle.join("s"))
}

/// The file in which the runtime leaves a process' pid. `exec` is empty for init.
pub(crate) fn pid_file(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join(match exec {
        "" => "init.pid".to_owned(),
        // By a name that no id of an exec makes.
        "init" => "init~.pid".to_owned(),
        _ => format!("{exec}.pid"),
    })
}

pub(crate) fn read_pid(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|_| Error::other(format!("'{}' is not a pid", text.trim())))
}

/// exit.json: how the container ended, for whoever comes after a shim that did not live to tell.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExitRecord {
    pub(crate) pid: i32,
    pub(crate) status: u32,
    /// Nanoseconds since the epoch.
    pub(crate) time: u64,
    pub(crate) oom: bool,
    /// Bytes of its output that nobody read or that could not be written; known when all of it was copied.
    #[serde(default)]
    pub(crate) dropped: u64,
}

impl ExitRecord {
    pub(crate) fn new(pid: i32, exit: Exit, oom: bool) -> Self {
        let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            pid,
            status: exit.status,
            time: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            oom,
            dropped: 0,
        }
    }

    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        write(&bundle.join("exit.json"), &serde_json::to_vec(self)?)
    }

    pub(crate) fn read(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join("exit.json")).ok()?).ok()
    }

    pub(crate) fn exit(&self) -> Exit {
        Exit {
            status: self.status,
            at: UNIX_EPOCH + std::time::Duration::from_nanos(self.time),
        }
    }
}

/// A file that whoever runs in a container reads.
pub(crate) fn write_for_all(path: &Path, content: &[u8]) -> Result<()> {
    write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// Whole or not at all: through a file of another name.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?
        .write_all(content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(linux: &str) -> Config {
        serde_json::from_str(&format!("{{\"linux\":{{{linux}}}}}")).unwrap()
    }

    #[test]
    fn a_group_of_systemds_is_told_from_a_path() {
        for (path, is) in [
            ("system.slice:docker:1", true),
            ("kubepods-pod1.slice:cri-containerd:1", true),
            (":caisson:1", true),
            ("system.slice:docker:", false),
            ("system.slice:1", false),
            ("a:b:c", false),
            ("/system.slice:docker:1", false),
            ("/kubepods/pod1/1", false),
            ("", false),
        ] {
            let config = config(&format!("\"cgroupsPath\":\"{path}\""));
            assert_eq!(config.has_group_of_systemd(), is, "{path}");
        }
    }

    #[test]
    fn root_is_whom_the_maps_make_him() {
        let maps = r#""uidMappings":[{"containerID":1,"hostID":7,"size":9},{"containerID":0,"hostID":5,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":6,"size":1}]"#;
        assert_eq!(config(maps).root(), (5, 6));
        assert_eq!(config("").root(), (0, 0));
    }
}
