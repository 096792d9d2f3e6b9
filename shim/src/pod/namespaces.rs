//! The namespaces of a pod: which are its own, how they are made without a process, and which of them a container joins.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::bundle::Document;
use crate::error::{Error, Result};
use crate::protos::pod::{LinuxPodSandboxConfig, NamespaceMode, NamespaceOption};

/// Sysctls of an IPC namespace.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// None: the host's.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// The client's, by its path.
    network: Option<String>,
    ipc: Option<File>,
    uts: Option<File>,
    host_pid: bool,
}

impl Namespaces {
    /// Without a network namespace the pod owns none, unless CRI wants one for IPC.
    pub(super) fn make(
        network: &str,
        options: Option<&NamespaceOption>,
        hostname: &str,
        linux: Option<&LinuxPodSandboxConfig>,
    ) -> Result<Self> {
        let is_hosts = |mode: protobuf::EnumOrUnknown<NamespaceMode>| {
            mode.enum_value() == Ok(NamespaceMode::NODE)
        };
        let own_uts = !network.is_empty();
        let own_ipc = options.map_or(own_uts, |options| !is_hosts(options.ipc));
        let mut made = Self {
            network: (!network.is_empty()).then(|| network.to_owned()),
            ipc: None,
            uts: None,
            host_pid: options.is_some_and(|options| is_hosts(options.pid)),
        };
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWIPC, own_ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, own_uts);
        let sysctls = linux.map(|linux| &linux.sysctls);
        if let Some(sysctls) = sysctls {
            for name in sysctls.keys() {
                made.permits(name, own_ipc)?;
            }
        }
        let inside = || -> Result<(Option<File>, Option<File>)> {
            let held = |name: &str, own: bool| {
                let opened = own.then(|| open(&format!("/proc/self/ns/{name}")));
                opened.transpose()
            };
            let (ipc, uts) = (held("ipc", own_ipc)?, held("uts", own_uts)?);
            if own_uts && !hostname.is_empty() {
                sethostname(hostname)
                    .map_err(|errno| Error::os(format!("set host name {hostname}"), errno))?;
            }
            for (name, value) in sysctls.into_iter().flatten() {
                set(&format!("/proc/sys/{}", path(name)), value)
                    .map_err(|error| Error::os(format!("set sysctl {name} to {value}"), error))?;
            }
            Ok((ipc, uts))
        };
        (made.ipc, made.uts) = away(made.network.as_deref(), flags, inside)?;
        Ok(made)
    }

    pub(super) fn own_ipc(&self) -> bool {
        self.ipc.is_some()
    }

    /// A sysctl that is not of one of the pod's namespaces would be the host's.
    fn permits(&self, name: &str, own_ipc: bool) -> Result<()> {
        let path = path(name);
        let own = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            own_ipc
        } else {
            path.starts_with("net/") && self.network.is_some()
        };
        if own && !path.split('/').any(|part| part == "..") {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "sysctl {name} is not of a namespace of the sandbox"
        )))
    }

    /// Puts them into a container's configuration, in the place of those of process 0, and of new ones.
    pub(super) fn join(&self, config: &mut Document) -> Result<()> {
        let failed = |error| Error::os("read the container's namespaces", error);
        let mut joined = Vec::new();
        for mut namespace in config.namespaces().map_err(failed)? {
            let (file, held) = match namespace.r#type.as_str() {
                "network" => ("net", self.network.clone()),
                "ipc" => ("ipc", self.ipc.as_ref().map(held)),
                "uts" => ("uts", self.uts.as_ref().map(held)),
                "pid" => ("pid", None),
                "user" => ("user", None),
                _ => {
                    joined.push(namespace);
                    continue;
                }
            };
            let is_pods = namespace.path == format!("/proc/0/ns/{file}");
            match held {
                Some(path) if is_pods || namespace.path.is_empty() => namespace.path = path,
                None if is_pods && (file == "user" || file == "pid" && !self.host_pid) => {
                    return Err(Error::precondition(format!(
                        "containers cannot share a {file} namespace of a sandbox without a process"
                    )));
                }
                // The host's: no other than the runtime's own.
                None if is_pods => continue,
                _ => {}
            }
            joined.push(namespace);
        }
        config.set_namespaces(&joined).map_err(failed)
    }
}

/// A path by which the runtime opens a namespace that we hold.
fn held(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// Does it in the network namespace and in new ones of these kinds, and comes back. Nothing else of the shim runs meanwhile: it has one thread,
/// and this does not wait.
fn away<T>(
    network: Option<&str>,
    flags: CloneFlags,
    inside: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let network = network.map(open).transpose()?;
    let mut home = Vec::new();
    for (name, kind) in [
        ("net", CloneFlags::CLONE_NEWNET),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
    ] {
        if flags.contains(kind) || name == "net" && network.is_some() {
            home.push((open(&format!("/proc/self/ns/{name}"))?, kind));
        }
    }
    let go = || {
        if let Some(network) = &network {
            setns(network, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::os("enter the sandbox' network namespace", errno))?;
        }
        if !flags.is_empty() {
            unshare(flags).map_err(|errno| Error::os("make the sandbox' namespaces", errno))?;
        }
        inside()
    };
    let done = go();
    for (namespace, kind) in home {
        // Where it came from a moment ago.
        setns(namespace, kind)
            .map_err(|errno| Error::os("come back from the sandbox' namespaces", errno))?;
    }
    done
}

fn set(path: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|error: io::Error| Error::os(format!("open {path}"), error))
}

/// Below /proc/sys. Dots separate, unless a slash comes first: then dots are part of names (sysctl(8)).
fn path(name: &str) -> String {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name.chars().map(swapped).collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(network: Option<&str>, host_pid: bool) -> Namespaces {
        Namespaces {
            network: network.map(String::from),
            ipc: None,
            uts: None,
            host_pid,
        }
    }

    fn joined(pod: &Namespaces, namespaces: &str) -> Result<String> {
        let text = format!(r#"{{"linux":{{"namespaces":{namespaces}}}}}"#);
        let mut config = Document::parse(text.as_bytes()).unwrap();
        pod.join(&mut config)?;
        Ok(config.text().unwrap())
    }

    #[test]
    fn what_is_of_the_pod_is_replaced_and_what_is_the_hosts_left_out() {
        let asked = r#"[{"type":"mount"},{"type":"network","path":"/proc/0/ns/net"},{"type":"ipc","path":"/proc/0/ns/ipc"},{"type":"uts","path":"/proc/7/ns/uts"},{"type":"pid"}]"#;
        let text = joined(&namespaces(Some("/run/netns/a"), false), asked).unwrap();
        assert_eq!(
            text,
            r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/run/netns/a"},{"type":"uts","path":"/proc/7/ns/uts"},{"type":"pid"}]}}"#
        );
    }

    #[test]
    fn a_pid_namespace_is_the_hosts_or_none_that_is_shared() {
        let asked = r#"[{"type":"pid","path":"/proc/0/ns/pid"}]"#;
        assert!(joined(&namespaces(None, false), asked).is_err());
        let text = joined(&namespaces(None, true), asked).unwrap();
        assert_eq!(text, r#"{"linux":{"namespaces":[]}}"#);
    }

    #[test]
    fn only_sysctls_of_the_pods_namespaces_are_set() {
        let pod = namespaces(Some("/run/netns/a"), false);
        for (name, own_ipc) in [
            ("net.ipv4.ip_forward", false),
            ("net/ipv4/conf/eth0.1/forwarding", false),
            ("kernel.sem", true),
            ("fs.mqueue.msg_max", true),
        ] {
            assert!(pod.permits(name, own_ipc).is_ok(), "{name}");
        }
        for (name, own_ipc) in [
            ("kernel.sem", false),
            ("kernel.core_pattern", true),
            ("net/../kernel/core_pattern", true),
            ("vm.overcommit_memory", true),
        ] {
            assert!(pod.permits(name, own_ipc).is_err(), "{name}");
        }
        assert!(
            namespaces(None, false)
                .permits("net.ipv4.ip_forward", true)
                .is_err()
        );
    }
}
