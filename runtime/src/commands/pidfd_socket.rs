//! The pidfd of a process for whoever asked for it: runc's `--pidfd-socket` and crun's annotation.
//!
//! The socket is connected before anything is made, and gets one message with one descriptor, whose text says what the process is.

use crate::console;
use crate::report::{Context, Result};
use crate::sys::socket::send_with_fd;
use oci_spec::runtime::Spec;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// crun's annotation: the path of such a socket, for the container's init.
pub(super) const RECEIVER: &str = "run.oci.pidfd_receiver";

/// What the annotation says.
pub(super) fn receiver(spec: &Spec) -> Option<&Path> {
    let path = spec.annotations().as_ref()?.get(RECEIVER)?;
    Some(Path::new(path))
}

/// The text for a container's init, and for a process of exec.
pub(super) const INIT: &str = "standard";
pub(super) const EXEC: &str = "setns";

/// Connects to these sockets.
pub(super) fn connect<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<OwnedFd>> {
    let connect = |path| console::connect("connect to the pidfd socket", path);
    paths.into_iter().map(connect).collect()
}

/// Sends the pidfd to all of them.
pub(super) fn send(sockets: &[OwnedFd], pidfd: &OwnedFd, what: &str) -> Result<()> {
    sockets.iter().try_for_each(|socket| {
        send_with_fd(socket, what.as_bytes(), Some(pidfd.as_fd()))
            .context(|| "send the pidfd over the pidfd socket")
    })
}
