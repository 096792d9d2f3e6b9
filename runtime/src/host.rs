//! What this machine and this user can do, as far as a plan depends on it. Asked once, in the runtime command's process.
//!
//! Kernel features are not here: they are found by trying, where they are used.

use crate::report::{Context, Result};
use crate::sys::cred;

/// Facts about the host and the calling user.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) euid: u32,
    pub(crate) egid: u32,
    /// Whether we may mount, join namespaces and so on where we are: CAP_SYS_ADMIN in our user namespace.
    pub(crate) sys_admin: bool,
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
            kcore: nix::unistd::access("/proc/kcore", nix::unistd::AccessFlags::F_OK).is_ok(),
        })
    }
}
