//! Rules that a config must keep, apart from those that the module of a field checks itself.
//!
//! Pure. Each rule names its origin; where the specification is silent, what runc refuses is refused.

use super::namespaces::{self, Namespaces};
use crate::host::Host;
use crate::report::{Error, Faults, Kind, Result};
use oci_spec::runtime::Spec;

/// Checks a config against its own namespaces.
pub(crate) fn check(spec: &Spec, ns: &Namespaces, host: &Host, faults: &mut Faults) {
    faults.keep_in("ociVersion", version(spec.version()));
    if !host.sys_admin && !ns.has(libc::CLONE_NEWUSER) {
        let text = "rootless container requires user namespaces: add one to linux.namespaces, with uidMappings and gidMappings";
        faults.keep_in("linux.namespaces", refuse(text));
    }
    faults.keep(root(spec));
    names(spec, ns, faults);
    sysctls(spec, ns, faults);
    ids(spec, ns, faults);
    if ns.has(libc::CLONE_NEWNS) {
        return;
    }
    let linux = spec.linux().as_ref();
    let paths = [
        (
            "linux.maskedPaths",
            linux.and_then(|linux| linux.masked_paths().as_deref()),
        ),
        (
            "linux.readonlyPaths",
            linux.and_then(|linux| linux.readonly_paths().as_deref()),
        ),
    ];
    for (field, _) in paths
        .iter()
        .filter(|(_, list)| list.is_some_and(|list| !list.is_empty()))
    {
        let text = "unable to restrict sys entries without a private MNT namespace";
        faults.keep_in(field, refuse(text));
    }
    if ns.has(libc::CLONE_NEWUSER) {
        let text = "root of a user namespace cannot mount in the host's mount namespace: add one to linux.namespaces";
        faults.keep_in("root.path", refuse(text));
    }
}

fn refuse(text: impl Into<String>) -> Result<()> {
    Err(Error::invalid(text))
}

fn root(spec: &Spec) -> Result<()> {
    let Some(root) = spec.root() else {
        return Err(Error::invalid("Root must be specified").in_field("root"));
    };
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path must not be empty").in_field("root.path"));
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

fn names(spec: &Spec, ns: &Namespaces, faults: &mut Faults) {
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        let given = name.as_ref().is_some_and(|name| !name.is_empty());
        if given && !ns.has(libc::CLONE_NEWUTS) {
            let text = format!("unable to set {field} without a private UTS namespace");
            faults.keep_in(field, refuse(text));
        }
    }
}

fn sysctls(spec: &Spec, ns: &Namespaces, faults: &mut Faults) {
    let linux = spec.linux().as_ref();
    for name in linux
        .and_then(|linux| linux.sysctl().as_ref())
        .into_iter()
        .flat_map(|all| all.keys())
    {
        faults.keep_in(format!("linux.sysctl[{name:?}]"), sysctl(name, ns));
    }
}

/// A sysctl that is not of one of the container's namespaces would be the host's.
fn sysctl(name: &str, ns: &Namespaces) -> Result<()> {
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
        return refuse(text);
    } else {
        return refuse(format!(
            "sysctl {name:?} is not in a separate kernel namespace"
        ));
    };
    if !allowed {
        return refuse(format!(
            "sysctl {name:?} is not allowed in the hosts namespace"
        ));
    }
    if dotted.contains("..") {
        return refuse(format!("sysctl {name:?}: not a name"));
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
fn ids(spec: &Spec, ns: &Namespaces, faults: &mut Faults) {
    let (Some(maps), Some(process)) = (&ns.birth.id_maps, spec.process()) else {
        return;
    };
    let user = process.user();
    if namespaces::host_id(&maps.uids, user.uid()).is_none() {
        let text = format!(
            "process.user.uid {} is not mapped by uidMappings",
            user.uid()
        );
        faults.keep_in("process.user.uid", refuse(text));
    }
    let groups = user.additional_gids().iter().flatten().copied();
    let groups = groups
        .enumerate()
        .map(|(at, gid)| (format!("process.user.additionalGids[{at}]"), gid));
    for (field, gid) in groups.chain([("process.user.gid".to_owned(), user.gid())]) {
        if namespaces::host_id(&maps.gids, gid).is_none() {
            let text = format!("process.user group {gid} is not mapped by gidMappings");
            faults.keep_in(field, refuse(text));
        }
    }
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
