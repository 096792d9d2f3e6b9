//! Stays with a container's process until it ends: what `run` and `exec` do in the foreground.
//!
//! Runs in the runtime's own process, which has one thread: one loop waits for signals, the process's end and the terminal.
//!
//! ```text
//!                     ┌─ signalfd ── forwarded by pidfd; SIGWINCH: the size; SIGCHLD: reap
//!   user's terminal   │
//!     stdin  ────▶ input  ────▶ master ═══ slave   container
//!     stdout ◀──── output ◀────    │
//!                     ├─ what the caller waits for besides
//!                     └─ pidfd ─── ended: pass on what is left of the output, and return
//! ```
//!
//! Without a terminal the container has our standard streams themselves, and nothing is copied. Removing the container afterwards is
//! the caller's business; signals stay blocked meanwhile, so that it is not left half-done.

mod relay;

use crate::report::{Context, Result};
use crate::sys::Errno;
use crate::sys::process::pidfd_send_signal;
use crate::sys::signal::{Exit, reap_any, wait_pidfd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use relay::Relay;
pub(crate) use relay::Terminal;
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that will be forwarded: blocked, and read from a descriptor.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// To be called before the container's process is cloned: what arrives earlier than [`wait`] is forwarded then, and none is lost.
    /// They stay blocked when this is dropped: one that is still pending would end us with the container not yet removed.
    pub(crate) fn block() -> Result<Self> {
        let mut all = SigSet::all();
        // runc does not forward it, and ignoring it is the default.
        all.remove(Signal::SIGURG);
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context(|| "open a signalfd")?;
        all.thread_block().context(|| "block signals")?;
        Ok(Signals(fd))
    }

    fn next(&self) -> Result<Option<siginfo>> {
        self.0.read_signal().context(|| "read a signal")
    }
}

/// Makes orphans of the container our children, as `run` does unless told not to: without a pid namespace they would go to init.
pub(crate) fn become_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
        .context(|| "become the reaper of the container's orphans")
}

/// The container's process: a child of ours that nobody else reaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child<'a> {
    pub(crate) pid: i32,
    pub(crate) pidfd: BorrowedFd<'a>,
}

/// Something else to look after meanwhile.
pub(crate) struct Besides<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// Called when it is readable, and when the process has ended; false: that was all.
    pub(crate) ready: &'a mut dyn FnMut() -> bool,
}

/// Forwards signals and copies the terminal until the process has ended. Returns its exit code, or 128 + the signal that killed it.
/// The modes of the user's terminal are as before when this returns, be it with an error.
pub(crate) fn wait(
    signals: &Signals,
    child: Child<'_>,
    terminal: Option<Terminal>,
    mut besides: Option<Besides<'_>>,
) -> Result<u8> {
    let mut relay = terminal.map(Relay::begin).transpose()?;
    let exit = loop {
        let [stdin, stdout, master] = relay.as_ref().map(Relay::wants).unwrap_or_default();
        let on_signal = Some((signals.0.as_fd(), PollFlags::POLLIN));
        let on_end = Some((child.pidfd, PollFlags::POLLIN));
        let other = besides.as_ref().map(|other| (other.fd, PollFlags::POLLIN));
        let all = [on_signal, on_end, other, stdin, stdout, master];
        let [signal, ended, other, streams @ ..] = ready(all)?;
        if !other.is_empty() || !ended.is_empty() {
            besides.take_if(|other| !(other.ready)());
        }
        let orphans = !signal.is_empty() && forward(signals, child, relay.as_ref())?;
        if orphans || !ended.is_empty() {
            match reap(child.pid)? {
                Some(exit) => break exit,
                // Traced by a process in its container, it is that one's before it is ours.
                None if !ended.is_empty() => {
                    let waited = wait_pidfd(child.pidfd);
                    break waited.context(|| "wait for the container's process")?.exit;
                }
                None => (),
            }
        }
        if let Some(relay) = &mut relay {
            relay.turn(streams);
        }
    };
    if let Some(relay) = relay {
        relay.finish(signals);
    }
    Ok(code(exit))
}

/// The exit code of a command that stands for a process that ended like this, as shells have it.
fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => (code & 0xff) as u8,
        Exit::Signal { number, .. } => (128 + number) as u8,
    }
}

/// Passes on the signals that have arrived. True if a child has ended.
fn forward(signals: &Signals, child: Child<'_>, relay: Option<&Relay>) -> Result<bool> {
    let mut child_ended = false;
    while let Some(info) = signals.next()? {
        match info.ssi_signo.cast_signed() {
            libc::SIGCHLD => child_ended = true,
            // It is about our terminal; the container's process gets one from its own if the size has changed there.
            libc::SIGWINCH => relay.into_iter().for_each(Relay::resize),
            // What we brought upon ourselves: SIGPIPE by writing to a standard output that is gone.
            _ if info.ssi_pid == std::process::id() => (),
            // It fails only if the process has ended, which is what we wait for.
            number => pidfd_send_signal(child.pidfd, number)
                .ok()
                .unwrap_or_default(),
        }
    }
    Ok(child_ended)
}

/// Reaps all children that have ended. Some if `pid` is one of them.
fn reap(pid: i32) -> Result<Option<Exit>> {
    let mut exit = None;
    loop {
        match reap_any() {
            Ok(Some(child)) if child.pid == pid => exit = Some(child.exit),
            Ok(Some(_)) => (),
            Ok(None) | Err(Errno::ECHILD) => return Ok(exit),
            Err(errno) => return Err(errno).context(|| "wait for the container's process"),
        }
    }
}

/// What a descriptor is to be ready for; None: it is not waited for.
type Interest<'a> = Option<(BorrowedFd<'a>, PollFlags)>;

/// Waits until one of these is ready, and tells for each what it is ready for.
fn ready<const N: usize>(interests: [Interest<'_>; N]) -> Result<[PollFlags; N]> {
    let mut fds: Vec<PollFd<'_>> = interests
        .iter()
        .flatten()
        .map(|(fd, events)| PollFd::new(*fd, *events))
        .collect();
    while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(errno).context(|| "wait for the container's process");
        }
    }
    let mut events = fds
        .iter()
        .map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
    Ok(interests.map(|interest| {
        interest
            .and_then(|_| events.next())
            .unwrap_or(PollFlags::empty())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_the_codes_low_byte_or_128_and_the_signal() {
        assert_eq!(code(Exit::Code(0)), 0);
        assert_eq!(code(Exit::Code(255)), 255);
        assert_eq!(
            code(Exit::Signal {
                number: libc::SIGKILL,
                core_dumped: false
            }),
            137
        );
        assert_eq!(
            code(Exit::Signal {
                number: 64,
                core_dumped: true
            }),
            192
        );
    }

    #[test]
    fn only_what_is_ready_and_waited_for_is_told() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        nix::unistd::write(&a, b"x").unwrap();
        let input = PollFlags::POLLIN;
        let [first, second, third] =
            ready([Some((a.as_fd(), input)), None, Some((b.as_fd(), input))]).unwrap();
        assert_eq!(
            (first, second, third),
            (PollFlags::empty(), PollFlags::empty(), input)
        );
    }
}
