//! The standard streams of a container's process: what its runtime command gets, and the copying to and from what the client named.
//!
//! Runs in the serving shim. Knows neither containers nor the runtime. Copying never blocks a container because of a reader that is gone,
//! and goes on after a write error.

use std::io::Result;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// What a request (Create or Exec) says of the streams: paths or URIs, empty for none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Whose streams they are: for the environment of a logger (`binary://`), and the owner of pipes (`io_uid`, `io_gid` of the options).
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) namespace: String,
    pub(crate) container: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What becomes descriptors 0, 1 and 2 of the runtime command. With a terminal, /dev/null.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The streams of one process, from before its creation until its deletion. All methods take `&self`: a call that waits
/// (`drained`) does not keep others (`resize`, `close_stdin`) out. Dropping it ends the copying and closes everything, the
/// console socket's directory included.
#[derive(Debug)]
pub(crate) struct Stdio {}

impl Stdio {
    /// Opens what the request names, or the console socket. Does not hang if the other end of a fifo is never opened.
    pub(crate) async fn open(streams: &Streams, owner: &Owner) -> Result<Self> {
        unimplemented!("open {streams:?} for {owner:?}")
    }

    /// The inner ends, for the runtime command; once. They are closed here when it has been spawned, so that the end of the process is
    /// the end of its output.
    pub(crate) fn take_inner(&self) -> Result<Inner> {
        unimplemented!()
    }

    /// The path for `--console-socket`, with a terminal.
    pub(crate) fn console_socket(&self) -> Option<&Path> {
        unimplemented!()
    }

    /// To be called when the runtime command has succeeded: takes the terminal from the console socket, and starts to copy.
    pub(crate) async fn start(&self) -> Result<()> {
        unimplemented!()
    }

    /// Closes the shim's own writer of the stdin fifo, so that the process sees the end when the client's is closed too. Any number of times.
    pub(crate) fn close_stdin(&self) {
        unimplemented!()
    }

    /// The terminal's size. Without a terminal, nothing.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<()> {
        unimplemented!("resize to {width}x{height}")
    }

    /// Waits until all output has been copied, at most so long. False if the time was over before: something holds the pipe still.
    pub(crate) async fn drained(&self, timeout: Duration) -> bool {
        unimplemented!("{timeout:?}")
    }
}
