//! Calls in which the kernel may keep us for long, as it does who unmounts a file system that has much to write: on a thread beside the shim's
//! only one, which ends with the call.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};

/// More than any of these calls needs.
const STACK: usize = 256 << 10;

/// A runtime (tokio's) whose threads beside the first one are gone when they have done their work.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::ZERO)
        .thread_stack_size(STACK)
        .build()
}

/// Waits for it as for anything else.
pub(crate) async fn aside<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(call).await {
        Ok(done) => done,
        // Panics abort, and nobody cancels.
        Err(error) => Err(Error::unknown(error.to_string())),
    }
}
