//! The root file system, device nodes and links of a container: config into data.
//!
//! Pure. Made by `crate::init::rootfs` and `crate::init::devices`.

use super::mounts::{c_path, c_string, clean_target};
use super::{Slot, Step};
use crate::report::{Error, Faults, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The root directory and what is mounted there.
#[derive(Debug)]
pub(crate) struct Root {
    /// `root.path`, absolute.
    pub(crate) path: CString,
    pub(crate) source: Source,
}

/// Where the root's content comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The directory itself, as a private copy of its mount.
    Directory { slot: Option<Slot> },
    /// An overlay of layers, assembled in the container's mount namespace.
    Overlay(Overlay),
}

/// An overlay file system.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Read-only layers, top first.
    pub(crate) lower: Vec<CString>,
    /// Upper and work directory; without, a tmpfs that dies with the container.
    pub(crate) upper: Option<[CString; 2]>,
    /// In a user namespace the kernel wants its attributes in `user.overlay.*`.
    pub(crate) userxattr: bool,
}

impl Overlay {
    /// The steps that open its directories: the layers, then upper and work directory.
    pub(crate) fn open(&self) -> impl Iterator<Item = Step> {
        let paths = self.lower.iter().chain(self.upper.iter().flatten());
        paths.cloned().map(Step::OpenLayer)
    }
}

/// The annotations that ask for an overlay.
const LOWER: &str = "dev.caisson.overlay.lower";
const UPPER: &str = "dev.caisson.overlay.upper";
const WORK: &str = "dev.caisson.overlay.work";

/// Overlayfs stacks at most this many layers (OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;

/// Whether any of the overlay annotations is there.
pub(crate) fn wants_overlay(annotations: Option<&HashMap<String, String>>) -> bool {
    annotations.is_some_and(|a| {
        [LOWER, UPPER, WORK]
            .iter()
            .any(|name| a.contains_key(*name))
    })
}

/// Reads the overlay annotations; None if there are none.
pub(crate) fn overlay(
    annotations: Option<&HashMap<String, String>>,
    userns: bool,
) -> Result<Option<Overlay>> {
    let get = |name: &str| annotations.and_then(|a| a.get(name)).map(String::as_str);
    let (upper, work) = (get(UPPER), get(WORK));
    let Some(lower) = get(LOWER) else {
        if upper.is_some() || work.is_some() {
            return Err(Error::invalid(format!(
                "annotation {UPPER} or {WORK} without {LOWER}"
            )));
        }
        return Ok(None);
    };
    let absolute = |name: &str, path: &str| {
        if Path::new(path).is_absolute() {
            return c_string(path);
        }
        Err(Error::invalid(format!(
            "annotation {name}: {path:?} is not an absolute path"
        )))
    };
    let lower: Vec<CString> = lower
        .split(':')
        .map(|path| absolute(LOWER, path))
        .collect::<Result<_>>()?;
    if lower.len() > MAX_LAYERS {
        return Err(Error::invalid(format!(
            "annotation {LOWER}: {} layers, at most {MAX_LAYERS}",
            lower.len()
        )));
    }
    let upper = match (upper, work) {
        (Some(upper), Some(work)) => Some([absolute(UPPER, upper)?, absolute(WORK, work)?]),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(format!(
                "annotations {UPPER} and {WORK} go together"
            )));
        }
    };
    Ok(Some(Overlay {
        lower,
        upper,
        userxattr: userns,
    }))
}

/// A device node.
#[derive(Debug)]
pub(crate) struct Device {
    /// Where, in the container.
    pub(crate) path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, with the permissions.
    pub(crate) mode: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A user namespace cannot make nodes: the host's node at the same path is bound.
    pub(crate) bind: bool,
}

const DEFAULT_DEVICES: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/random", 1, 8),
    (c"/dev/full", 1, 7),
    (c"/dev/tty", 5, 0),
    (c"/dev/zero", 1, 5),
    (c"/dev/urandom", 1, 9),
];

/// The nodes and links of /dev, unless /dev is a bind mount and thus somebody else's.
pub(crate) fn devices(spec: &Spec, bind: bool, kcore: bool, faults: &mut Faults) -> Vec<Step> {
    let is_foreign_dev = |mount: &oci_spec::runtime::Mount| {
        let words = mount.options().iter().flatten();
        clean_target(mount.destination()) == Path::new("/dev")
            && (mount.typ().as_deref() == Some("bind")
                || words.clone().any(|word| word == "bind" || word == "rbind"))
    };
    if spec.mounts().iter().flatten().any(is_foreign_dev) {
        return Vec::new();
    }
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    let paths: Vec<PathBuf> = listed
        .iter()
        .map(|device| clean_target(device.path()))
        .collect();
    let mut steps = Vec::new();
    let replaced = |path: &CStr| {
        paths
            .iter()
            .any(|listed| listed.as_os_str().as_bytes() == path.to_bytes())
    };
    for (path, major, minor) in DEFAULT_DEVICES.iter().filter(|(path, ..)| !replaced(path)) {
        let mode = libc::S_IFCHR | 0o666;
        let device = Device {
            path: CString::from(*path),
            mode,
            major: *major,
            minor: *minor,
            uid: 0,
            gid: 0,
            bind,
        };
        steps.push(Step::Device(device));
    }
    for (at, (device, path)) in listed.iter().zip(&paths).enumerate() {
        let device = listed_device(device, path, bind);
        let device = faults.keep_in(format!("linux.devices[{at}]"), device);
        steps.extend(device.map(Step::Device));
    }
    let links = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
    ];
    let core = kcore.then_some((c"/proc/kcore", c"/dev/core"));
    for (target, path) in links
        .into_iter()
        .chain(core)
        .chain([(c"pts/ptmx", c"/dev/ptmx")])
    {
        steps.push(Step::Symlink {
            target: CString::from(target),
            path: CString::from(path),
        });
    }
    steps
}

fn listed_device(device: &LinuxDevice, path: &Path, bind: bool) -> Result<Device> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!(
                "device {}: type must be c, b, u or p",
                path.display()
            )));
        }
    };
    let number = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            Error::invalid(format!("device {}: invalid {what} {value}", path.display()))
        })
    };
    let numbered = kind != libc::S_IFIFO;
    Ok(Device {
        path: c_path(path)?,
        // A set-id bit means nothing on a device; with runc and crun it goes when the owner is set.
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o1777,
        major: if numbered {
            number("major", device.major())?
        } else {
            0
        },
        minor: if numbered {
            number("minor", device.minor())?
        } else {
            0
        },
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        bind: bind && numbered,
    })
}

/// The propagation of what the container's mounts are made of, while it is on its way.
pub(crate) fn source_propagation(of_root: Option<u64>) -> u64 {
    match of_root.unwrap_or(libc::MS_SLAVE) & !libc::MS_REC {
        // What is unbindable could not be cloned as the root; private keeps the same from propagating.
        libc::MS_UNBINDABLE => libc::MS_PRIVATE,
        flag => flag,
    }
}

/// `rootfsPropagation` as `MS_*` flags, with MS_REC for the words that start with r.
pub(crate) fn propagation(word: Option<&str>) -> Result<Option<u64>> {
    let Some(word) = word.filter(|word| !word.is_empty()) else {
        return Ok(None);
    };
    let (name, recursive) = match word.strip_prefix('r') {
        Some(name) => (name, libc::MS_REC),
        None => (word, 0),
    };
    let flag = match name {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => {
            return Err(Error::invalid(format!(
                "rootfsPropagation={word} is not supported"
            )));
        }
    };
    Ok(Some(flag | recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_eight_propagations_are_known() {
        for word in [
            "shared",
            "rshared",
            "slave",
            "rslave",
            "private",
            "rprivate",
            "unbindable",
            "runbindable",
        ] {
            let flags = propagation(Some(word)).unwrap().unwrap();
            assert_eq!(flags & libc::MS_REC != 0, word.starts_with('r'), "{word}");
        }
        assert!(propagation(Some("rrshared")).is_err());
        assert_eq!(propagation(Some("")).unwrap(), None);
    }

    #[test]
    fn a_listed_device_replaces_the_default_at_its_path() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.0.2","linux":{"devices":[{"path":"/dev/null","type":"c","major":1,"minor":5}]}}"#,
        )
        .unwrap();
        let nulls: Vec<u32> = devices(&spec, false, true, &mut Faults::default())
            .iter()
            .filter_map(|step| match step {
                Step::Device(device) if device.path.as_c_str() == c"/dev/null" => {
                    Some(device.minor)
                }
                _ => None,
            })
            .collect();
        assert_eq!(nulls, [5]);
    }

    #[test]
    fn overlay_annotations_go_together() {
        let with = |pairs: &[(&str, &str)]| {
            let map = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            overlay(Some(&map), false)
        };
        assert!(with(&[]).unwrap().is_none());
        assert_eq!(with(&[(LOWER, "/a:/b")]).unwrap().unwrap().lower.len(), 2);
        assert!(with(&[(LOWER, "a")]).is_err());
        assert!(with(&[(UPPER, "/u")]).is_err());
        assert!(with(&[(LOWER, "/a"), (UPPER, "/u")]).is_err());
    }
}
