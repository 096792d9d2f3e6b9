//! The host's side of a container's terminal: the console socket to which init sends the master of the pseudo-terminal, and the
//! user's own terminal, when the container runs in the foreground.
//!
//! Runs in the runtime's own process. The pseudo-terminal itself is made in init, from the container's devpts.

use crate::report::{Context, Result};
use crate::sys::{self, tty};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::isatty;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

/// Connects to the stream socket at `path`; an error begins with `story`. A leading `@` means an abstract name, as it does to runc.
pub(crate) fn connect(story: &str, path: &Path) -> Result<OwnedFd> {
    let connected = match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixStream::connect_addr(&address)),
        name if name.len() < MAX_SOCKET_PATH => UnixStream::connect(path),
        _ => connect_by_descriptor(path),
    };
    connected
        .map(OwnedFd::from)
        .context(|| format!("{story} '{}'", path.display()))
}

/// The size of `sockaddr_un.sun_path`, terminating NUL included.
const MAX_SOCKET_PATH: usize = 108;

/// Connects through a descriptor of the socket's inode, since its path does not fit into a `sockaddr_un`.
fn connect_by_descriptor(path: &Path) -> std::io::Result<UnixStream> {
    let socket = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
}

/// Makes a new pseudo-terminal pass output on as it is, without a carriage return before each line feed: where that is wanted,
/// the user's terminal adds one, and a pipe or file in its place gets the bytes the container wrote. Also gives it the size of
/// the user's terminal. Both before the container's process runs, which may look at once.
pub(crate) fn prepare(master: impl AsFd) -> Result<()> {
    let mut modes = tcgetattr(&master).context(|| "read the modes of the container's terminal")?;
    modes.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(&master, SetArg::TCSANOW, &modes)
        .context(|| "set the modes of the container's terminal")?;
    // Without a terminal of ours, the size is what the container's configuration says.
    copy_size(&master).ok();
    Ok(())
}

/// Gives the container's terminal the size of the user's. ENOTTY, or another errno, if there is none.
pub(crate) fn copy_size(master: impl AsFd) -> sys::Result<()> {
    let size = user_size()?;
    // What has no size, such as a serial line, must not take away the one that the configuration states.
    if size.ws_row == 0 && size.ws_col == 0 {
        Ok(())
    } else {
        tty::set_size(master, &size)
    }
}

/// The size of the user's terminal. Any of the streams may be redirected, or all, and there still be one that controls us.
fn user_size() -> sys::Result<tty::WindowSize> {
    tty::size(std::io::stdout())
        .or_else(|_| tty::size(std::io::stdin()))
        .or_else(|_| tty::size(std::io::stderr()))
        .or_else(|_| {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            tty::size(open("/dev/tty", flags, Mode::empty())?)
        })
}

/// Raw mode of the terminal that is our standard input, until it is dropped.
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// None if standard input is no terminal: then there are no keys to pass on, and Ctrl-C shall remain a signal.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !isatty(&stdin).unwrap_or(false) {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin).context(|| "read the modes of the terminal")?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        // The container's terminal leaves line feeds to this one; see `prepare`.
        raw.output_flags |= saved.output_flags & OutputFlags::OPOST;
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context(|| "put the terminal into raw mode")?;
        Ok(Some(RawMode { saved }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If it cannot be restored, it has been hung up.
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.saved).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{recv_with_fd, send_master};
    use std::os::unix::net::UnixListener;

    /// A directory of its own for each test, removed at the end.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("caisson-console-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn receives_master(listener: &UnixListener, path: &Path) {
        let socket = connect("connect to the console socket", path).unwrap();
        let (_reader, writer) = UnixStream::pair().unwrap();
        send_master(&socket, writer.as_fd(), c"/dev/ptmx").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut name = [0; 4096];
        let (length, fd) = recv_with_fd(&accepted, &mut name).unwrap();
        assert_eq!(&name[..length], b"/dev/ptmx");
        assert!(fd.is_some());
    }

    #[test]
    fn a_path_longer_than_a_socket_address_is_reached() {
        let dir = Directory::new("long");
        let deep = dir.0.join("a".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let short = dir.0.join("s");
        let listener = UnixListener::bind(&short).unwrap();
        let long = deep.join("console.sock");
        std::fs::rename(&short, &long).unwrap();
        receives_master(&listener, &long);
    }

    #[test]
    fn the_longest_path_that_fits_and_the_first_that_does_not_are_reached() {
        for length in [106, 107, 108] {
            let dir = Directory::new("edge");
            let short = dir.0.join("s");
            let listener = UnixListener::bind(&short).unwrap();
            let name = "n".repeat(length - dir.0.as_os_str().len() - 1);
            let path = dir.0.join(name);
            assert_eq!(path.as_os_str().len(), length);
            std::fs::rename(&short, &path).unwrap();
            receives_master(&listener, &path);
        }
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("caisson-console-{}", std::process::id());
        let listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        receives_master(&listener, Path::new(&format!("@{name}")));
    }

    #[test]
    fn a_failure_names_the_path() {
        let text = connect(
            "connect to the console socket",
            Path::new("/no/such/socket"),
        )
        .unwrap_err()
        .to_string();
        assert_eq!(
            text,
            "connect to the console socket '/no/such/socket': no such file or directory"
        );
    }

    #[test]
    fn a_prepared_terminal_passes_line_feeds_on_as_they_are() {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = open("/dev/ptmx", flags, Mode::empty()).unwrap();
        tty::unlock(&master).unwrap();
        let slave = tty::peer(&master).unwrap();
        prepare(&master).unwrap();
        nix::unistd::write(&slave, b"a\n").unwrap();
        let mut text = [0; 8];
        let length = nix::unistd::read(&master, &mut text).unwrap();
        assert_eq!(&text[..length], b"a\n");
        assert!(prepare(open("/dev/null", flags, Mode::empty()).unwrap()).is_err());
    }
}
