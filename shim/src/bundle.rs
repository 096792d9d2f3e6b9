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
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
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
