//! The console socket (`--console-socket`): the runtime command connects and sends the master of the terminal that it has made.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, isatty, unlinkat};

use crate::error::told;
use crate::sys;

/// A socket in the bundle, where it goes with all else if we are killed. The bundle's path may be longer than a socket's address, so
/// it is named by way of a descriptor of ours.
#[derive(Debug)]
pub(super) struct Console {
    listener: UnixListener,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Console {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (own, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("console-{own}-{number}");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(directory, flags, Mode::empty());
        let directory = opened.map_err(|errno| context(directory, errno.into()))?;
        let number = directory.as_raw_fd();
        let path = PathBuf::from(format!("/proc/{own}/fd/{number}/{name}"));
        // Of a shim that was killed and had our pid; mostly there is none.
        unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        let bound = UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = bound.map_err(|error| context(&path, error))?;
        Ok(Self {
            listener,
            directory,
            name,
            path,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The master, non-blocking. The command has succeeded, so it has been sent: nothing waits here. The socket has done its work.
    pub(super) fn terminal(&self) -> Result<OwnedFd> {
        let received = self
            .listener
            .accept()
            .and_then(|(peer, _)| sys::tty::receive(peer.as_fd()));
        let terminal = received.map_err(|error| context(&self.path, error))?;
        self.remove();
        if !isatty(&terminal).unwrap_or(false) {
            return Err(context(&self.path, Errno::ENOTTY.into()));
        }
        let flags = OFlag::from_bits_retain(fcntl(&terminal, FcntlArg::F_GETFL)?);
        fcntl(&terminal, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(terminal)
    }

    fn remove(&self) {
        // ENOENT the second time; and the bundle goes, too.
        unlinkat(
            &self.directory,
            self.name.as_str(),
            UnlinkatFlags::NoRemoveDir,
        )
        .ok();
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
