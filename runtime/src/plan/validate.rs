//! Rules that a config must keep, apart from those that the module of a field checks itself.
//!
//! Pure. Each rule names its origin; where the specification is silent, what runc refuses is refused.

use super::namespaces::{self, Namespaces};
use crate::host::Host;
use crate::report::{Error, Kind, Result};
use oci_spec::runtime::Spec;

/// Checks a config against its own namespaces.
pub(crate) fn check(spec: &Spec, ns: &Namespaces, host: &Host) -> Result<()> {
    version(spec.version())?;
    if !host.sys_admin && !ns.has(libc::CLONE_NEWUSER) {
        return Err(Error::invalid(
            "rootless container requires user namespaces: add one to linux.namespaces, with uidMappings and gidMappings",
        ));
    }
    let Some(root) = spec.root() else {
        return Err(Error::invalid("Root must be specified"));
    };
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path must not be empty"));
    }
    names(spec, ns)?;
    sysctls(spec, ns)?;
    ids(spec, ns)?;
    let linux = spec.linux().as_ref();
    let paths = linux
        .is_some_and(|linux| linux.masked_paths().is_some() || linux.readonly_paths().is_some());
    if paths && !ns.has(libc::CLONE_NEWNS) {
        return Err(Error::invalid(
            "unable to restrict sys entries without a private MNT namespace",
        ));
    }
    if spec
        .mounts()
        .as_ref()
        .is_some_and(|mounts| !mounts.is_empty())
        && !ns.has(libc::CLONE_NEWNS)
    {
        return Err(Error::invalid(
            "mounts without a mount namespace would appear on the host: add one to linux.namespaces",
        ));
    }
    Ok(())
}

/// runtime-spec, config.md "Specification version": SemVer 2. Every 1.x is accepted.
fn version(version: &str) -> Result<()> {
    let mut parts = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.');
    let major = parts.next().and_then(|part| part.parse::<u32>().ok());
    let rest = parts.filter(|part| part.parse::<u32>().is_ok()).count();
    match major {
        Some(1) if rest == 2 => Ok(()),
        Some(_) if rest == 2 => Err(Error::new(
            Kind::Unsupported,
            format!("ociVersion {version} is not supported: only 1.x"),
        )),
        _ => Err(Error::invalid(format!(
            "ociVersion {version:?} is not a SemVer version"
        ))),
    }
}

fn names(spec: &Spec, ns: &Namespaces) -> Result<()> {
    let given = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if given(spec.hostname()) && !ns.has(libc::CLONE_NEWUTS) {
        return Err(Error::invalid(
            "unable to set hostname without a private UTS namespace",
        ));
    }
    if given(spec.domainname()) && !ns.has(libc::CLONE_NEWUTS) {
        return Err(Error::invalid(
            "unable to set domainname without a private UTS namespace",
        ));
    }
    Ok(())
}

/// A sysctl that is not of one of the container's namespaces would be the host's.
fn sysctls(spec: &Spec, ns: &Namespaces) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let Some(sysctl) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref())
    else {
        return Ok(());
    };
    for name in sysctl.keys() {
        // Both separators are in use, and a name has only one kind: `net/ipv4/conf/eth0.1/forwarding`.
        let dotted = sysctl_path(name).replace('/', ".");
        let allowed = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            ns.has(libc::CLONE_NEWIPC)
        } else if dotted.starts_with("net.") {
            ns.has(libc::CLONE_NEWNET)
        } else if dotted.starts_with("user.") {
            ns.has(libc::CLONE_NEWUSER)
        } else if dotted == "kernel.domainname" {
            ns.has(libc::CLONE_NEWUTS)
        } else if dotted == "kernel.hostname" {
            let text = format!(
                "sysctl {name:?} is not allowed as it conflicts with the OCI \"hostname\" field"
            );
            return Err(Error::invalid(text));
        } else {
            return Err(Error::invalid(format!(
                "sysctl {name:?} is not in a separate kernel namespace"
            )));
        };
        if !allowed {
            let text = format!("sysctl {name:?} is not allowed in the hosts namespace");
            return Err(Error::invalid(text));
        }
        if dotted.contains("..") {
            return Err(Error::invalid(format!("sysctl {name:?}: not a name")));
        }
    }
    Ok(())
}

/// The path of a sysctl below /proc/sys. Dots separate, unless a slash comes first: then slashes do, and dots are part of names
/// (sysctl(8)).
pub(crate) fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Ids of the process must exist in its user namespace: the kernel would say EINVAL without a reason.
fn ids(spec: &Spec, ns: &Namespaces) -> Result<()> {
    let (Some(maps), Some(process)) = (&ns.birth.id_maps, spec.process()) else {
        return Ok(());
    };
    let user = process.user();
    if namespaces::host_id(&maps.uids, user.uid()).is_none() {
        return Err(Error::invalid(format!(
            "process.user.uid {} is not mapped by uidMappings",
            user.uid()
        )));
    }
    let groups = user.additional_gids().iter().flatten().copied();
    for gid in groups.chain([user.gid()]) {
        if namespaces::host_id(&maps.gids, gid).is_none() {
            return Err(Error::invalid(format!(
                "process.user group {gid} is not mapped by gidMappings"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semver_of_major_1() {
        for good in ["1.0.2", "1.0.2-dev", "1.3.0", "1.2.0+x"] {
            assert!(version(good).is_ok(), "{good}");
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.9.0", "x.y.z"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sysctl_names_take_either_separator() {
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(sysctl_path("kernel.sem"), "kernel/sem");
    }
}
