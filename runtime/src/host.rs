//! What this machine and this user can do, as far as a plan depends on it. Asked once, in the runtime command's process.
//!
//! Kernel features are not here: they are found by trying, where they are used.

use crate::report::{Context, Error, Kind, Result};
use crate::sys::cred;
use std::path::{Path, PathBuf};

/// Facts about the host and the calling user.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) euid: u32,
    pub(crate) egid: u32,
    /// Whether we may mount, join namespaces and so on where we are: CAP_SYS_ADMIN in our user namespace.
    pub(crate) sys_admin: bool,
    /// Whether we run in the host's own user namespace.
    pub(crate) initial_user_namespace: bool,
    /// Whether the host has /proc/kcore, which /dev/core then points to.
    pub(crate) kcore: bool,
}

impl Host {
    pub(crate) fn probe() -> Result<Host> {
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        let caps = cred::caps().context(|| "read the capabilities of this process")?;
        Ok(Host {
            euid: nix::unistd::geteuid().as_raw(),
            egid: nix::unistd::getegid().as_raw(),
            sys_admin: caps.effective & CAP_SYS_ADMIN != 0,
            initial_user_namespace: is_initial_user_namespace()?,
            kcore: nix::unistd::access("/proc/kcore", nix::unistd::AccessFlags::F_OK).is_ok(),
        })
    }

    /// Whether we may have a child born in another pid namespace and return to our own, which takes CAP_SYS_ADMIN over that one, too: in
    /// a user namespace, such as Podman makes for its runtime, ours may still be the host's.
    pub(crate) fn may_return_to_pid_namespace(&self) -> bool {
        self.sys_admin && self.initial_user_namespace
    }
}

/// Where newuidmap or newgidmap is, which map more than one's own id.
pub(crate) fn map_helper(name: &str) -> Result<PathBuf> {
    let directories = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];
    let mut paths = directories.iter().map(|dir| Path::new(dir).join(name));
    paths.find(|path| path.exists()).ok_or_else(|| {
        let text = format!(
            "{name} is needed to map more than one's own id, and it is not installed (package uidmap or shadow-utils)"
        );
        Error::new(Kind::Unsupported, text)
    })
}

/// The initial user namespace maps every id to itself; no other can map all of them, since 2^32 - 1 is not an id (user_namespaces(7)).
pub(crate) fn is_initial_user_namespace() -> Result<bool> {
    let text =
        std::fs::read_to_string("/proc/self/uid_map").context(|| "read /proc/self/uid_map")?;
    Ok(text.split_whitespace().eq(["0", "0", "4294967295"]))
}
