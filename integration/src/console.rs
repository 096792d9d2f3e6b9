//! The engine's side of a terminal: the socket that receives one from a runtime, and a terminal to run a command on.

use crate::children::{self, Since};
use crate::runtime::{self, Lines};
use crate::socket::FdSocket;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

/// A listening console socket.
#[derive(Debug)]
pub struct ConsoleSocket {
    /// What to pass as `--console-socket`.
    pub path: PathBuf,
    socket: FdSocket,
}

/// A terminal's master.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// What comes out of the terminal; its lines end in CR LF, which are taken off.
    pub output: Lines,
}

/// A command that runs on a terminal.
#[derive(Debug)]
pub struct OnTerminal {
    /// The terminal.
    pub terminal: Terminal,
    pid: i32,
    since: Since,
    command: String,
}

impl OnTerminal {
    /// Starts a command with a terminal of this size as its three standard streams.
    #[track_caller]
    pub fn start(mut command: Command, rows: u16, columns: u16) -> OnTerminal {
        let (terminal, slave) = Terminal::open(rows, columns);
        let slave = File::from(slave);
        command
            .stdin(runtime::share(&slave))
            .stdout(runtime::share(&slave))
            .stderr(slave);
        let line = runtime::describe(&command);
        let (pid, since) = children::spawn(&mut command);
        // What stays open here of the slave would keep the terminal from ending.
        drop(command);
        OnTerminal {
            terminal,
            pid,
            since,
            command: line,
        }
    }

    /// Sends the command a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let sent = kill(Pid::from_raw(self.pid), signal);
        sent.unwrap_or_else(|errno| panic!("{signal} to {}: {errno}", self.command));
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait(self) -> ExitStatus {
        self.leave().0
    }

    /// The same, and gives back its terminal.
    #[track_caller]
    pub fn leave(self) -> (ExitStatus, Terminal) {
        let status = runtime::wait_for(self.pid, self.since, &self.command);
        (status, self.terminal)
    }
}

impl ConsoleSocket {
    /// Listens on a socket of this path, which should be short: 107 bytes is the most that the kernel takes.
    #[track_caller]
    pub fn listen(path: PathBuf) -> ConsoleSocket {
        ConsoleSocket {
            path: path.clone(),
            socket: FdSocket::listen(path),
        }
    }

    /// Takes one connection and what it sends: a name, and exactly one descriptor that must be a terminal's master.
    #[track_caller]
    pub fn receive(&self) -> (String, Terminal) {
        let (name, master) = self.socket.receive();
        (name, Terminal::new(master))
    }
}

impl Terminal {
    /// A new terminal: its master as a value, and its slave to give to a command.
    #[track_caller]
    pub fn open(rows: u16, columns: u16) -> (Terminal, OwnedFd) {
        // Never without close-on-exec: other tests start commands at any time.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let open = || {
            let master = posix_openpt(flags)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            let slave = nix::fcntl::open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
            let master = master
                .as_fd()
                .try_clone_to_owned()
                .map_err(|_| Errno::EMFILE)?;
            Ok::<_, Errno>((master, slave))
        };
        let (master, slave) = open().unwrap_or_else(|errno| panic!("open a terminal: {errno}"));
        let terminal = Terminal::new(master);
        terminal.resize(rows, columns);
        (terminal, slave)
    }

    /// Types something.
    #[track_caller]
    pub fn write(&self, text: &str) {
        let mut master = &self.master;
        master
            .write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("write to the terminal: {error}"));
    }

    /// Whether what is typed comes through as it is, and is not shown.
    #[track_caller]
    pub fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.master);
        let settings = settings.unwrap_or_else(|errno| panic!("look at the terminal: {errno}"));
        let flags = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        !settings.local_flags.intersects(flags)
    }

    /// Changes the size.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        sys::set_window_size(self.master.as_fd(), rows, columns)
            .unwrap_or_else(|error| panic!("resize the terminal: {error}"));
    }

    #[track_caller]
    fn new(master: OwnedFd) -> Terminal {
        let master = File::from(master);
        let reading = master
            .try_clone()
            .unwrap_or_else(|error| panic!("duplicate a descriptor: {error}"));
        Terminal {
            master,
            output: Lines::new(reading.into()),
        }
    }
}
