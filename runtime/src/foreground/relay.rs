//! Copies between the user's standard streams and the container's terminal.
//!
//! Runs in the runtime's own process, driven by the loop of [`super::wait`]. Nothing here may block: signals would wait behind it.
//! The standard streams are shared with other processes, so they are not made non-blocking; where that matters they are opened anew.

use super::{Interest, Signals, ready};
use crate::console::{self, RawMode};
use crate::report::{Context, Result};
use crate::sys::{self, Errno, tty};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{isatty, read, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The container's terminal, seen from its master.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    /// A slave of our own. A container may close all it has and open one again later, as systemd does; without this, the
    /// master would report a hang-up in between.
    slave: OwnedFd,
}

impl Terminal {
    /// To be called before the container's program runs, since it may look at the size at once.
    pub(crate) fn new(master: OwnedFd) -> Result<Self> {
        console::prepare(&master)?;
        // Init's descriptor shares this mode, but is not used any more.
        fcntl(
            &master,
            FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK),
        )
        .context(|| "make the container's terminal non-blocking")?;
        let slave = tty::peer(&master).context(|| "open the container's terminal")?;
        Ok(Terminal { master, slave })
    }
}

/// A copy in progress in both directions.
pub(super) struct Relay {
    /// None once the user's side is gone: closing the master is the hang-up that tells the container.
    terminal: Option<Terminal>,
    /// None at its end. The container is not told, as with runc: its terminal has no end of file.
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    input: Buffer,
    output: Buffer,
    raw_mode: Option<RawMode>,
}

impl Relay {
    pub(super) fn begin(terminal: Terminal) -> Result<Self> {
        // In the background, the kernel shall stop us when we use the terminal; blocked, these two would let us use it.
        let mut job_control = SigSet::empty();
        job_control.add(Signal::SIGTTIN);
        job_control.add(Signal::SIGTTOU);
        job_control.thread_unblock().context(|| "unblock signals")?;

        let stdin = own_description(std::io::stdin().as_fd(), OFlag::O_RDONLY)
            .context(|| "open standard input")?;
        let stdout = own_description(std::io::stdout().as_fd(), OFlag::O_WRONLY)
            .context(|| "open standard output")?;
        let raw_mode = RawMode::enter()?;
        let (input, output) = (Buffer::new(), Buffer::new());
        Ok(Relay {
            terminal: Some(terminal),
            stdin: Some(stdin),
            stdout,
            input,
            output,
            raw_mode,
        })
    }

    /// What stdin, stdout and the master are to be ready for.
    pub(super) fn wants(&self) -> [Interest<'_>; 3] {
        let Some(terminal) = &self.terminal else {
            return [None; 3];
        };
        let stdin = self.stdin.as_ref().filter(|_| self.input.is_empty());
        let stdout = Some(&self.stdout).filter(|_| !self.output.is_empty());
        let mut master = PollFlags::empty();
        master.set(PollFlags::POLLIN, self.output.is_empty());
        master.set(PollFlags::POLLOUT, !self.input.is_empty());
        [
            stdin.map(|fd| (fd.as_fd(), PollFlags::POLLIN)),
            stdout.map(|fd| (fd.as_fd(), PollFlags::POLLOUT)),
            // Not asked for anything, it would still be ready when hung up.
            (!master.is_empty()).then_some((terminal.master.as_fd(), master)),
        ]
    }

    /// Copies what can be copied.
    pub(super) fn turn(&mut self, [stdin, stdout, master]: [PollFlags; 3]) {
        if !stdin.is_empty() {
            self.read_input();
        }
        if master.contains(PollFlags::POLLOUT) {
            self.write_input();
        }
        if master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.read_output();
        }
        if !stdout.is_empty() && self.output.drain(&self.stdout).is_err() {
            self.hang_up();
        }
    }

    /// There is nobody to copy for any more. The user's terminal may be left though, where Ctrl-C is to be a signal again.
    fn hang_up(&mut self) {
        self.terminal = None;
        self.raw_mode = None;
    }

    /// Gives the container's terminal the size of the user's.
    pub(super) fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            // It fails if ours has been hung up.
            console::copy_size(&terminal.master).ok();
        }
    }

    /// After the container's process has ended: passes on what it had written.
    pub(super) fn finish(mut self, signals: &Signals) {
        let Some(Terminal { master, slave }) = self.terminal.take() else {
            return;
        };
        drop(slave);
        // More than a terminal holds (64 KiB, and a line): what comes later is from others who have it open still.
        let mut left = 128 * 1024;
        loop {
            while !self.output.is_empty() {
                // The reader may never read on, and there is no process any more that would answer a signal.
                if !self.may_write(signals).unwrap_or(false)
                    || self.output.drain(&self.stdout).is_err()
                {
                    return;
                }
            }
            match self.output.fill(&master) {
                Ok(length @ 1..) if left > 0 => left -= length.min(left),
                // EAGAIN: empty, which the kernel tells only after all that was written has arrived. EIO: and closed.
                _ => return,
            }
        }
    }

    /// Waits until standard output takes something. False if a signal tells us to end instead.
    fn may_write(&self, signals: &Signals) -> Result<bool> {
        loop {
            let on_signal = Some((signals.0.as_fd(), PollFlags::POLLIN));
            let [_, stdout] = ready([on_signal, Some((self.stdout.as_fd(), PollFlags::POLLOUT))])?;
            while let Some(info) = signals.next()? {
                if matches!(
                    info.ssi_signo.cast_signed(),
                    libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM
                ) {
                    return Ok(false);
                }
            }
            if !stdout.is_empty() {
                return Ok(true);
            }
        }
    }

    fn read_input(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        match self.input.fill(stdin) {
            Ok(1..) | Err(Errno::EAGAIN) => (),
            // EIO: our terminal has been hung up.
            Ok(0) | Err(_) => self.stdin = None,
        }
    }

    fn write_input(&mut self) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        if self.input.drain(&terminal.master).is_err() {
            self.input = Buffer::new();
        }
    }

    fn read_output(&mut self) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        match self.output.fill(&terminal.master) {
            Ok(1..) | Err(Errno::EAGAIN) => (),
            // All slaves are closed although we hold one: somebody called vhangup(2), as getty does. A new one ends that state.
            Ok(0) | Err(_) => match tty::peer(&terminal.master) {
                Ok(slave) => terminal.slave = slave,
                Err(_) => self.hang_up(),
            },
        }
    }
}

/// Bytes on their way. Filled only when empty, so that what goes out is never more than PIPE_BUF: a pipe that is ready takes
/// that much without blocking.
struct Buffer {
    bytes: [u8; libc::PIPE_BUF],
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Buffer {
            bytes: [0; libc::PIPE_BUF],
            start: 0,
            end: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads once. 0 at the end of the file.
    fn fill(&mut self, from: impl AsFd) -> sys::Result<usize> {
        (self.start, self.end) = (0, retry(|| read(&from, &mut self.bytes))?);
        Ok(self.end)
    }

    /// Writes once; what is not taken stays.
    fn drain(&mut self, to: impl AsFd) -> sys::Result<()> {
        match retry(|| write(&to, &self.bytes[self.start..self.end])) {
            Err(Errno::EAGAIN) => Ok(()),
            other => other.map(|length| self.start += length),
        }
    }
}

fn retry(mut call: impl FnMut() -> sys::Result<usize>) -> sys::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => (),
            other => return other,
        }
    }
}

/// The same terminal or pipe as this stream through an open file description of our own, in non-blocking mode: a terminal that is
/// ready may take less than one writes, or give its input to another reader first, and we would block.
/// Anything else is duplicated: files do not block, a socket that is ready takes enough, and neither can be opened again.
fn own_description(stream: BorrowedFd<'_>, access: OFlag) -> std::io::Result<OwnedFd> {
    let stat = fstat(stream)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    // Opening /dev/ptmx again makes another pseudo-terminal.
    let is_master = stat.st_rdev == libc::makedev(5, 2);
    if kind == SFlag::S_IFIFO
        || kind == SFlag::S_IFCHR && !is_master && isatty(stream).unwrap_or(false)
    {
        let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
        let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // It may belong to another user (after su), or have been hung up.
        if let Ok(fd) = open(path.as_str(), flags, Mode::empty()) {
            return Ok(fd);
        }
    }
    stream.try_clone_to_owned()
}
