//! Files that all containers of a pod see, in the sandbox' bundle: what containerd's pause containers have of them.

use std::fs;
use std::io::Result as IoResult;
use std::path::{Path, PathBuf};

use nix::unistd::gethostname;
use serde_json::json;

use super::host_file;
use crate::bundle::{self, Document};
use crate::error::{Error, Result};
use crate::mounts;
use crate::protos::pod::{DNSConfig, PodSandboxConfig};
use crate::protos::types::Mount;

/// Shared memory: a tmpfs of this name in the bundle.
const MEMORY: &str = "shm";

/// In the bundle, and in a container.
const TEXTS: [(&str, &str); 3] = [
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
    ("resolv.conf", "/etc/resolv.conf"),
];

#[derive(Debug)]
pub(super) struct Files {
    bundle: PathBuf,
    /// What containers have at /dev/shm.
    memory: PathBuf,
}

impl Files {
    pub(super) fn make(bundle: &Path, config: &PodSandboxConfig, own_ipc: bool) -> Result<Self> {
        let written = |name: &str, text: IoResult<Vec<u8>>| {
            let path = bundle.join(name);
            text.and_then(|text| bundle::write_for_all(&path, &text))
                .map_err(|error| Error::os(format!("write {}", path.display()), error))
        };
        written("hostname", hostname(config))?;
        written("hosts", host_file("/etc/hosts"))?;
        let resolver = match config.dns_config.as_ref() {
            Some(dns) => Ok(resolver(dns)),
            None => host_file("/etc/resolv.conf"),
        };
        written("resolv.conf", resolver)?;
        let memory = if own_ipc {
            memory(bundle)?
        } else {
            PathBuf::from("/dev/shm")
        };
        Ok(Self {
            bundle: bundle.to_owned(),
            memory,
        })
    }

    /// Adds them to a container's mounts, but for those that it has others in the place of.
    pub(super) fn join(&self, config: &mut Document) -> IoResult<()> {
        let access = if config.has_readonly_root()? {
            "ro"
        } else {
            "rw"
        };
        let texts = TEXTS.map(|(name, target)| (self.bundle.join(name), target, access));
        let memory = (self.memory.clone(), "/dev/shm", "rw");
        // The default, a tmpfs of its own.
        config.remove_mounts(|mount| mount.destination == "/dev/shm" && mount.r#type == "tmpfs")?;
        for (source, target, access) in texts.into_iter().chain([memory]) {
            if !config.has_mount(target)? {
                config.add_mount(&json!({
                    "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access],
                }))?;
            }
        }
        Ok(())
    }
}

fn hostname(config: &PodSandboxConfig) -> IoResult<Vec<u8>> {
    let name = match config.hostname.as_str() {
        "" => gethostname()?.into_string().unwrap_or_default(),
        name => name.to_owned(),
    };
    Ok(format!("{name}\n").into_bytes())
}

fn resolver(dns: &DNSConfig) -> Vec<u8> {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text.into_bytes()
}

fn memory(bundle: &Path) -> Result<PathBuf> {
    let path = bundle.join(MEMORY);
    fs::create_dir(&path).map_err(|error| Error::os(format!("make {}", path.display()), error))?;
    let options = ["noexec", "nosuid", "nodev", "mode=1777", "size=65536k"];
    let mount = Mount {
        type_: "tmpfs".into(),
        source: MEMORY.into(),
        options: options.map(String::from).into(),
        ..Mount::default()
    };
    mounts::attach(&[mount], &path)?;
    Ok(path)
}

/// Undoes the mount in a sandbox' bundle, if there is one.
pub(crate) fn detach(bundle: &Path) -> Result<()> {
    mounts::detach(&bundle.join(MEMORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_configured_as_the_pod_says() {
        let words = |text: &str| text.split(' ').map(String::from).collect();
        let dns = DNSConfig {
            servers: words("10.0.0.1 10.0.0.2"),
            searches: words("a.local b.local"),
            options: words("ndots:5"),
            ..Default::default()
        };
        assert_eq!(
            String::from_utf8(resolver(&dns)).unwrap(),
            "search a.local b.local\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        );
    }
}
