//! How many descriptors the serving shim may have open: as many as the host allows, since each process that it copies for needs some. containerd
//! mostly leaves it 1024 (see systemd's `DefaultLimitNOFILE=`), and Go's programs raise that for themselves, too.
//!
//! What the shim executes has the limit that the shim was started with: containers inherit it, and select(2) takes no descriptor beyond 1023.

use std::sync::OnceLock;

use nix::Result;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit before it was raised.
static GIVEN: OnceLock<rlim_t> = OnceLock::new();

/// Allows this process as many as it may allow itself.
pub(crate) fn raise() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    GIVEN.get_or_init(|| soft);
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Undoes it, in a child before it executes something, or around what makes a child. Neither allocates nor locks.
pub(crate) fn lower() -> Result<()> {
    let Some(given) = GIVEN.get() else {
        return Ok(());
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(*given), hard)
}
