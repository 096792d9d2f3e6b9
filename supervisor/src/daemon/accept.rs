//! The daemon's socket, and who may connect to it: root, who runs the daemon, and the members of a group if one was named.

use std::fs;
use std::io::Result as IoResult;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, chown, geteuid};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::r#async::transport::Listener;

use crate::fault::{Fault, Kind, Result, Tried as _};

/// The descriptor that is the first, and the only one here, of those that a service manager passes (sd_listen_fds(3)).
const PASSED: i32 = 3;

/// The socket on which a service manager has listened for us, if it has. It remains the manager's, as does its file.
pub(super) fn passed(socket: &Path) -> Result<Option<StdListener>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Ok(None);
    }
    let what = || "take the service manager's socket".to_owned();
    let count = variable("LISTEN_FDS");
    if count != "1" {
        return Err(Fault::new(format!("{}: there are {count}", what())));
    }
    let listener = StdListener::from(crate::sys::left_open(PASSED));
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).tried(what)?;
    let address = listener.local_addr().tried(what)?;
    // Shims are told where we listen.
    if address.as_pathname() != Some(socket) {
        return Err(Fault::new(format!(
            "{}: it is {address:?}, not {}",
            what(),
            socket.display()
        )));
    }
    listener.set_nonblocking(true).tried(what)?;
    Ok(Some(listener))
}

/// Clients may connect at once; they are answered when the daemon is ready.
pub(super) fn bind(socket: &Path, group: Option<u32>) -> Result<StdListener> {
    let what = || format!("listen on {}", socket.display());
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory).tried(what)?;
    }
    if StdStream::connect(socket).is_ok() {
        return Err(Fault::of(
            Kind::AlreadyExists,
            format!("{}: somebody listens there already", socket.display()),
        ));
    }
    make_room(socket).tried(what)?;
    // Nobody connects before the permissions are set: the mode of a new socket is that of the mask.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = StdListener::bind(socket);
    nix::sys::stat::umask(mask);
    let listener = listener.tried(what)?;
    if let Some(group) = group {
        chown(socket, None, Some(Gid::from_raw(group))).tried(what)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).tried(what)?;
    }
    listener.set_nonblocking(true).tried(what)?;
    Ok(listener)
}

/// The socket of one that has ended goes, and nothing else that may be there.
fn make_room(socket: &Path) -> IoResult<()> {
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(socket),
        Ok(_) => Err(std::io::Error::other(
            "there is something else than a socket",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn listener(listener: StdListener, grouped: bool) -> IoResult<Listener> {
    let listener = UnixListener::from_std(listener)?;
    Ok(Listener::new(Accepted { listener, grouped }))
}

struct Accepted {
    listener: UnixListener,
    /// Who passed the socket's permissions is a member of the group.
    grouped: bool,
}

impl Stream for Accepted {
    type Item = IoResult<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (stream, _) = ready!(self.listener.poll_accept(context))?;
            let uid =
                getsockopt(&stream.as_fd(), PeerCredentials).map(|credentials| credentials.uid());
            match uid {
                Ok(uid) if self.grouped || uid == 0 || uid == geteuid().as_raw() => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Ok(uid) => super::warn(&Fault::unknown(format!(
                    "refused a connection of uid {uid}"
                ))),
                Err(errno) => {
                    super::warn(&Fault::unknown(format!("whose connection is it: {errno}")))
                }
            }
        }
    }
}
