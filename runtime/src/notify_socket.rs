//! sd_notify(3) through a container: its process says READY=1 to a socket of ours, and we say it to the supervisor that started us.
//!
//! Runs in the runtime command, of `run` and `start`, if NOTIFY_SOCKET is in its environment. The socket lies in a directory of the container's
//! own, which is bound into it by `create`; it is made by whoever starts the container, and stands for that command's lifetime only.
//! After READY=1 the supervisor is told which process is the main one, and with BARRIER=1 it gets a descriptor whose
//! closing says that it has read all: a sender that ends before that could not be attributed to its unit.

use crate::report::{Context, Result};
use crate::sys::{Errno, socket::send_with_fd};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Mount, Spec};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the socket in its directory, and where that is in the container: runc's.
const NAME: &str = "notify.sock";
const INSIDE: &str = "/run/notify";

/// How long the supervisor may take to read what it was told; after that it does not know barriers.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);

/// The supervisor's socket, if there is one.
pub(crate) fn supervisor() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Adds the mount of the socket's directory and the environment variable to a config.
pub(crate) fn extend(spec: &mut Spec, directory: &Path) {
    let words = ["bind", "nosuid", "noexec", "nodev", "ro"];
    let mut mount = Mount::default();
    mount
        .set_destination(INSIDE.into())
        .set_typ(None)
        .set_source(Some(directory.to_owned()))
        .set_options(Some(words.map(str::to_owned).to_vec()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        env.push(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"));
    }
}

/// The container's socket and the supervisor's.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    inside: UnixDatagram,
    outside: UnixDatagram,
}

impl NotifySocket {
    /// Makes the socket in this directory and connects to the supervisor's. A leading `@` means an abstract name.
    pub(crate) fn open(directory: &OwnedFd, supervisor: &OsString) -> Result<Self> {
        // By descriptor: a path may be longer than an address holds.
        let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
        let bind = || -> std::io::Result<UnixDatagram> {
            match std::fs::remove_file(&path) {
                // What a start that was killed left behind.
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let socket = UnixDatagram::bind(&path)?;
            socket.set_nonblocking(true)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            Ok(socket)
        };
        let connect = || -> std::io::Result<UnixDatagram> {
            let address = match supervisor.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(supervisor)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            Ok(socket)
        };
        Ok(NotifySocket {
            outside: connect()
                .context(|| format!("connect to NOTIFY_SOCKET '{}'", supervisor.display()))?,
            inside: bind().context(|| "make the notify socket of the container")?,
        })
    }

    /// Passes on what the container has said, once that is READY: Some then, which closes when the supervisor has read it all.
    pub(crate) fn relay(&self, main_pid: i32) -> Result<Option<Barrier>> {
        let mut message = [0; 4096];
        loop {
            let length = match self.inside.recv(&mut message) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| "read from the notify socket"),
            };
            let mut lines = message[..length].split(|byte| *byte == b'\n');
            if let Some(ready) = lines.find(|line| line.starts_with(b"READY=")) {
                return self.tell(ready, main_pid).map(Some);
            }
        }
    }

    fn tell(&self, ready: &[u8], main_pid: i32) -> Result<Barrier> {
        let story = || "tell NOTIFY_SOCKET";
        self.outside.send(&[ready, b"\n"].concat()).context(story)?;
        let main = format!("MAINPID={main_pid}\n");
        self.outside.send(main.as_bytes()).context(story)?;
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
        send_with_fd(&self.outside, b"BARRIER=1", Some(write.as_fd())).context(story)?;
        Ok(Barrier(read))
    }

    /// Waits until the container is ready and the supervisor knows it, or until the process has ended. False if the supervisor does not
    /// close the barrier.
    pub(crate) fn wait(self, main_pid: i32, pidfd: &OwnedFd) -> Result<bool> {
        let barrier = loop {
            let mut fds = [self.fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context(|| "wait for READY=1 of the container")?,
            };
            let ended = fds[1].any().unwrap_or(false);
            // What it said before it ended counts.
            match self.relay(main_pid)? {
                Some(barrier) => break barrier,
                None if ended => return Ok(true),
                None => {}
            }
        };
        barrier.wait()
    }

    /// Readable when the container has said something.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

/// The end of a pipe whose other end the supervisor closes when it has read what was sent before.
#[derive(Debug)]
pub(crate) struct Barrier(OwnedFd);

impl Barrier {
    fn wait(self) -> Result<bool> {
        let end = Instant::now() + BARRIER_TIMEOUT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                other => return other.map(|n| n > 0).context(|| "wait for NOTIFY_SOCKET"),
            }
        }
    }
}
