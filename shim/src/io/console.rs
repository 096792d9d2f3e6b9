//! The console socket (`--console-socket`): the runtime command connects and sends the master of the terminal that it has made.

use std::io::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{isatty, mkdtemp};

use crate::error::told;
use crate::sys;

/// A socket in a directory of its own, which is removed with it.
#[derive(Debug)]
pub(super) struct Console {
    listener: UnixListener,
    directory: PathBuf,
    socket: PathBuf,
}

impl Console {
    /// Not in the bundle, whose path may be longer than a socket's address.
    pub(super) fn new() -> Result<Self> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR")
            .filter(|path| !path.is_empty())
            .map_or("/tmp".into(), PathBuf::from);
        let template = parent.join("caisson-console-XXXXXX");
        let directory = mkdtemp(&template).map_err(|errno| context(&template, errno.into()))?;
        let socket = directory.join("socket");
        let bound = UnixListener::bind(&socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        match bound {
            Ok(listener) => Ok(Self {
                listener,
                directory,
                socket,
            }),
            Err(error) => {
                // Why there is no socket matters more than that an empty directory is left.
                std::fs::remove_dir(&directory).ok();
                Err(context(&socket, error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.socket
    }

    /// The master, non-blocking. The command has succeeded, so it has been sent: nothing waits here. The socket has done its work.
    pub(super) fn terminal(&self) -> Result<OwnedFd> {
        let received = self
            .listener
            .accept()
            .and_then(|(peer, _)| sys::tty::receive(peer.as_fd()));
        let terminal = received.map_err(|error| context(&self.socket, error))?;
        self.remove();
        if !isatty(&terminal).unwrap_or(false) {
            return Err(context(&self.socket, Errno::ENOTTY.into()));
        }
        let flags = OFlag::from_bits_retain(fcntl(&terminal, FcntlArg::F_GETFL)?);
        fcntl(&terminal, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(terminal)
    }

    fn remove(&self) {
        // ENOENT the second time; and a leftover in a directory for such things is not worth more than a try.
        std::fs::remove_file(&self.socket).ok();
        std::fs::remove_dir(&self.directory).ok();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.remove();
    }
}

fn context(path: &Path, error: Error) -> Error {
    told(format_args!("console socket {}", path.display()), error)
}
