//! Loggers (`binary://`, `binary-v2://`): a program that reads a container's output.
//!
//! ```text
//! shim                                        logger
//! spawns it: CONTAINER_ID, CONTAINER_NAMESPACE ──▶ stdout is 3, stderr 4
//! waits                                       ◀── closes 5; with binary-v2, after one byte
//! copies                                      ──▶ reads 3 and 4
//! closes both when the output has ended       ──▶ reads the end, and ends
//! when the streams are dropped: SIGTERM, and after [`GRACE`] SIGKILL; the shim does not end before ([`Stopping`])
//! ```
//!
//! It reads pipes of its own, not the container's: its end never blocks the container or breaks its pipe.

use std::ffi::{CString, OsStr};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{Owner, pipe, target};
use crate::error::told;
use crate::{descriptors, sys};

/// How long it may take to get ready.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(12);
/// And after SIGKILL.
const KILLED: Duration = Duration::from_secs(2);

/// A running logger. Dropping it asks the program to end.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) stop: Stop,
}

/// Dropping it is the wish.
#[derive(Debug)]
pub(super) struct Stop {
    wish: Option<oneshot::Sender<watch::Receiver<()>>>,
    stopping: Stopping,
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(wish) = self.wish.take() {
            // Nobody takes it if the logger has ended.
            wish.send(self.stopping.0.subscribe()).ok();
        }
    }
}

/// Those of a shim that have been asked to end and have not ended: each holds a receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopping(watch::Sender<()>);

impl Stopping {
    /// Waits until there is none. What the kernel does not let end is not waited for.
    pub(crate) async fn over(&self) -> bool {
        timeout(GRACE + KILLED, self.0.closed()).await.is_ok()
    }
}

/// Starts it and waits until it is ready. `ended` is held until the program has ended.
pub(super) async fn start(
    logger: &target::Logger,
    owner: &Owner,
    ended: watch::Receiver<()>,
) -> Result<Running> {
    let context = |error: Error| told(format_args!("logger {}", logger.program.display()), error);
    let (stdout, theirs_out) = pipe::to_reader().map_err(context)?;
    let (stderr, theirs_err) = pipe::to_reader().map_err(context)?;
    let (ready, theirs_ready) = pipe::to_writer().map_err(context)?;
    let pidfd = spawn(logger, owner, [theirs_out, theirs_err, theirs_ready]).map_err(context)?;
    let pidfd = sys::register(pidfd, Interest::READABLE)?;
    let (wish, stopped) = oneshot::channel();
    tokio::spawn(attend(pidfd, stopped, ended));
    let running = Running {
        stdout,
        stderr,
        stop: Stop {
            wish: Some(wish),
            stopping: owner.stopping.clone(),
        },
    };
    let is_ready = is_ready(sys::register(ready, Interest::READABLE)?, logger.says_ready);
    timeout(READY, is_ready)
        .await
        .unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))
        .map_err(context)?;
    Ok(running)
}

async fn is_ready(pipe: AsyncFd<OwnedFd>, says_so: bool) -> Result<()> {
    let mut said = false;
    loop {
        let mut ready = pipe.readable().await?;
        match read(pipe.get_ref(), &mut [0]) {
            Ok(0) if says_so && !said => {
                return Err(Error::new(
                    ErrorKind::UnexpectedEof,
                    "has closed its pipe without being ready",
                ));
            }
            Ok(0) => return Ok(()),
            Ok(_) if says_so => said = true,
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// With posix_spawn(3), which places the descriptors and tells why the program could not be executed.
fn spawn(logger: &target::Logger, owner: &Owner, fds: [OwnedFd; 3]) -> Result<OwnedFd> {
    let mut actions = PosixSpawnFileActions::init()?;
    for standard in 0..3 {
        actions.add_open(
            standard,
            "/dev/null",
            OFlag::O_RDWR,
            nix::sys::stat::Mode::empty(),
        )?;
    }
    // From beyond their places, so that none is overwritten before it has been put into its own.
    let fds = fds
        .iter()
        .map(|fd| sys::duplicate_from(10, fd.as_fd()))
        .collect::<Result<Vec<_>>>()?;
    for (place, fd) in (3..).zip(&fds) {
        actions.add_dup2(fd.as_raw_fd(), place)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_sigmask(&SigSet::empty())?;
    // The shim ignores it, and what is ignored stays so across execve(2).
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    let program = logger.program.as_os_str();
    let args = std::iter::once(program)
        .chain(logger.args.iter().map(AsRef::<OsStr>::as_ref))
        .map(OsStrExt::as_bytes);
    let args = args
        .map(CString::new)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    // These and no others: what containerd's own shim gives.
    let env = [
        format!("CONTAINER_ID={}", owner.container),
        format!("CONTAINER_NAMESPACE={}", owner.namespace),
    ]
    .map(CString::new);
    let env = env
        .into_iter()
        .collect::<std::result::Result<Vec<_>, _>>()?;
    descriptors::lower()?;
    let spawned = posix_spawn(program, &actions, &attributes, &args, &env);
    descriptors::raise()?;
    let pid = spawned?;
    // Nobody can have reaped it: the reaper has not run since.
    sys::pidfd_open(pid.as_raw())
}

async fn attend(
    pidfd: AsyncFd<OwnedFd>,
    stopped: oneshot::Receiver<watch::Receiver<()>>,
    ended: watch::Receiver<()>,
) {
    let end = async || pidfd.readable().await.is_ok();
    tokio::select! {
        _ = end() => {}
        _stopping = stopped => {
            // ESRCH is what is wanted.
            sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGTERM).ok();
            if timeout(GRACE, end()).await.is_err() {
                sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).ok();
                end().await;
            }
        }
    }
    // ECHILD: the shim's reaper was first.
    sys::wait(sys::Children::Pidfd(pidfd.as_fd()), 0).ok();
    drop(ended);
}
