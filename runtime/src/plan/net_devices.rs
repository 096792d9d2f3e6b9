//! `linux.netDevices`: which network devices of the caller's namespace come into the container's, and under which names.
//!
//! Pure. They are moved by `crate::network`.

use super::namespaces::Namespaces;
use crate::host::Host;
use crate::report::{Error, Kind, Result};
use oci_spec::runtime::Linux;

/// A network device to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    pub(crate) name: String,
    /// What it is called in the container.
    pub(crate) new_name: String,
}

/// The devices in the order of their names.
pub(crate) fn plan(linux: &Linux, ns: &Namespaces, host: &Host) -> Result<Vec<NetDevice>> {
    let Some(map) = linux.net_devices().as_ref().filter(|map| !map.is_empty()) else {
        return Ok(Vec::new());
    };
    if !ns.has(libc::CLONE_NEWNET) {
        return Err(Error::invalid(
            "unable to move network devices without a NET namespace",
        ));
    }
    if !host.sys_admin {
        return Err(Error::new(
            Kind::Unsupported,
            "network devices are not supported for rootless containers",
        ));
    }
    let mut devices: Vec<NetDevice> = map
        .iter()
        .map(|(name, device)| {
            let new_name = device.name().as_ref().filter(|name| !name.is_empty());
            NetDevice {
                name: name.clone(),
                new_name: new_name.unwrap_or(name).clone(),
            }
        })
        .collect();
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for (at, device) in devices.iter().enumerate() {
        for name in [&device.name, &device.new_name] {
            if !is_name(name) {
                return Err(Error::invalid(format!(
                    "invalid network device name {name:?}"
                )));
            }
        }
        if devices[..at].iter().any(|d| d.new_name == device.new_name) {
            return Err(Error::invalid(format!(
                "two network devices are called {:?} in linux.netDevices",
                device.new_name
            )));
        }
    }
    Ok(devices)
}

/// What the kernel takes as a name (dev_valid_name), but for `%`, which it would replace by a number of its own choice.
fn is_name(name: &str) -> bool {
    let length = 1..libc::IFNAMSIZ;
    length.contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(devices: &str, new: i32, sys_admin: bool) -> Result<Vec<NetDevice>> {
        let linux = serde_json::from_str(&format!("{{\"netDevices\":{devices}}}")).unwrap();
        let ns = Namespaces {
            new: new as u64,
            ..Namespaces::default()
        };
        let host = Host {
            euid: 0,
            egid: 0,
            sys_admin,
            initial_user_namespace: true,
            kcore: true,
        };
        plan(&linux, &ns, &host)
    }

    #[test]
    fn devices_keep_their_name_unless_they_get_another() {
        let devices = planned(
            r#"{"eth1":{"name":"eth0"},"dummy0":{}}"#,
            libc::CLONE_NEWNET,
            true,
        );
        let names: Vec<_> = devices
            .unwrap()
            .into_iter()
            .map(|device| (device.name, device.new_name))
            .collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names, [pair("dummy0", "dummy0"), pair("eth1", "eth0")]);
        assert!(planned("{}", 0, false).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_moved_is_refused() {
        for (devices, new, sys_admin, words) in [
            (r#"{"a":{}}"#, 0, true, "without a NET namespace"),
            (r#"{"a":{}}"#, libc::CLONE_NEWNET, false, "rootless"),
            (
                r#"{"a":{"name":"b"},"c":{"name":"b"}}"#,
                libc::CLONE_NEWNET,
                true,
                "two network devices",
            ),
            (
                r#"{"a/b":{}}"#,
                libc::CLONE_NEWNET,
                true,
                "invalid network device name",
            ),
            (
                r#"{"a":{"name":"eth%d"}}"#,
                libc::CLONE_NEWNET,
                true,
                "invalid network device name",
            ),
            (
                r#"{"a":{"name":"0123456789abcdef"}}"#,
                libc::CLONE_NEWNET,
                true,
                "invalid network device name",
            ),
            (
                r#"{"..":{}}"#,
                libc::CLONE_NEWNET,
                true,
                "invalid network device name",
            ),
        ] {
            let error = planned(devices, new, sys_admin).unwrap_err().to_string();
            assert!(error.contains(words), "{devices}: {error}");
        }
    }
}
