//! Which file systems the kernel knows, and whether it takes the options of a mount.
//!
//! The options are told to a file system context (fsopen(2)), which the kernel checks as it will, and which is dropped without a superblock:
//! nothing is mounted. Not where that would load a module.

use super::namespaces;
use crate::host::Host;
use crate::plan::Plan;
use crate::plan::mounts::Filesystem;
use crate::report::{Error, Kind, Result};
use crate::sys::Errno;
use crate::sys::fs;
use crate::sys::mount::{fsconfig_flag, fsconfig_string, fsopen};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// What the kernel has.
#[derive(Debug)]
pub(super) struct Filesystems {
    /// /proc/filesystems; empty if it cannot be read.
    known: String,
    /// The mounts are made in a new user namespace.
    user_namespace: bool,
    /// `CLONE_NEW*` of the namespaces that are made in it.
    new: u64,
    privileged: bool,
}

/// File systems that a user namespace may mount (FS_USERNS_MOUNT), and those that fall back to a bind of the host's.
const OF_USERS: [&str; 11] = [
    "bpf", "cgroup", "cgroup2", "devpts", "fuse", "mqueue", "overlay", "proc", "ramfs", "sysfs",
    "tmpfs",
];

impl Filesystems {
    pub(super) fn read(host: &Host, plan: &Plan) -> Self {
        Filesystems {
            known: std::fs::read_to_string("/proc/filesystems").unwrap_or_default(),
            user_namespace: plan.birth.id_maps.is_some(),
            new: namespaces::new(plan),
            privileged: host.sys_admin,
        }
    }

    /// Fails with what mounting it would fail with, as far as that can be known.
    pub(super) fn try_out(&self, filesystem: &Filesystem) -> Result<()> {
        let fstype = filesystem.fstype.to_string_lossy();
        let loaded = self
            .known
            .lines()
            .any(|line| line.split('\t').nth(1) == Some(&*fstype));
        if !loaded {
            return match self.known.is_empty() || is_module(&fstype) {
                true => Ok(()),
                false => {
                    let text = format!("this kernel has no file system {fstype}");
                    Err(Error::new(Kind::Unsupported, text).in_field("type"))
                }
            };
        }
        if self.user_namespace && !OF_USERS.contains(&&*fstype) {
            let text = format!("a user namespace may not mount {fstype}");
            return Err(Error::os(text, Errno::EPERM).in_field("type"));
        }
        // What they show must belong to the user namespace, too.
        let shown = match &*fstype {
            "proc" => libc::CLONE_NEWPID,
            "sysfs" => libc::CLONE_NEWNET,
            "mqueue" => libc::CLONE_NEWIPC,
            _ => 0,
        };
        if self.user_namespace && self.new & shown as u64 != shown as u64 {
            let Some(fallback) = &filesystem.fallback else {
                let text = format!(
                    "a user namespace may not mount {fstype} of a namespace that is not its own"
                );
                return Err(Error::os(text, Errno::EPERM).in_field("type"));
            };
            let there = fs::stat_at(fs::CWD, fallback, 0);
            return there.map(drop).map_err(|errno| {
                let host = fallback.to_string_lossy();
                Error::os(format!("open {host} of the host in place of it"), errno).in_field("type")
            });
        }
        // With long options, mount(2) is used, and only that can tell.
        let by_mount = filesystem.legacy.is_some() && filesystem.remount().is_none();
        if self.privileged && !by_mount {
            return configure(filesystem);
        }
        Ok(())
    }
}

fn configure(filesystem: &Filesystem) -> Result<()> {
    let Ok(context) = fsopen(&filesystem.fstype) else {
        return Ok(());
    };
    fsconfig_string(&context, c"source", &filesystem.source)
        .map_err(|errno| refused(&context, c"source", errno))?;
    for (key, value) in &filesystem.params {
        match value {
            Some(value) => fsconfig_string(&context, key, value),
            None => fsconfig_flag(&context, key),
        }
        .map_err(|errno| refused(&context, key, errno))?;
    }
    Ok(())
}

/// The refusal of an option with what the kernel wrote about it.
fn refused(context: &OwnedFd, key: &CStr, errno: Errno) -> Error {
    let mut line = [0; 256];
    let mut said = String::new();
    while let Ok(length @ 1..) = fs::read(context, &mut line) {
        if let Some(text) = line[..length].strip_prefix(b"e ") {
            said = format!(" ({})", String::from_utf8_lossy(text).trim_end());
        }
    }
    Error::os(format!("option {}{said}", key.to_string_lossy()), errno).in_field("options")
}

/// Whether a module of the running kernel is, or has, this file system.
fn is_module(fstype: &str) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else {
        return false;
    };
    let directory = std::path::Path::new("/lib/modules").join(name.release());
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let file = format!("/{}.ko", fstype.replace('-', "_"));
    read("modules.dep").contains(&file)
        || read("modules.alias").contains(&format!("alias fs-{fstype} "))
}
