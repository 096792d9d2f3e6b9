//! The hooks that belong into the container's namespaces: createContainer and startContainer.
//!
//! Runs in init, which becomes the hook's parent. Output is kept in a fixed buffer of its last bytes, for the message. Hooks of the runtime namespace are
//! [`crate::hooks`]'s.

use super::{At, Digits, Done, Fail, Files, TEXT};
use crate::plan::{HookCall, Op};
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::signal::{self, Exit};
use crate::sys::{Errno, Result, fs};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, OwnedFd};

/// Runs a hook to its end.
pub(crate) fn run(call: &HookCall, files: &Files) -> Done {
    let (input_read, input_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Op::Spawn)?;
    let (output_read, output_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Op::Spawn)?;
    let (error_read, error_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Op::Spawn)?;
    let pidfd = match process::clone3(CloneArgs {
        flags: 0,
        cgroup: None,
    })
    .at(Op::Spawn)?
    {
        Cloned::Child => execute(call, files, &input_read, &output_write, &error_write),
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop((input_read, output_write, error_write));
    let mut code = [0; 4];
    if fs::read(&error_read, &mut code).at(Op::Spawn)? == code.len() {
        reap(&pidfd)?;
        return Err(Errno::from_raw(i32::from_ne_bytes(code))).at(Op::Spawn);
    }
    let mut tail = Tail {
        bytes: [0; TEXT],
        length: 0,
    };
    supervise(call, &pidfd, input_write, &output_read, &mut tail)
}

/// In the hook's process: standard streams and execve.
fn execute(
    call: &HookCall,
    files: &Files,
    input: &OwnedFd,
    output: &OwnedFd,
    error: &OwnedFd,
) -> ! {
    let attempt = || -> Result<()> {
        fs::dup_onto(input, 0)?;
        fs::dup_onto(output, 1)?;
        fs::dup_onto(output, 2)?;
        super::exec::mark_from(&files.proc, 3)?;
        crate::sys::signal::set_default(libc::SIGPIPE)?;
        files.signal_mask.thread_set_mask()?;
        Err(process::execve(&call.path, &call.argv, &call.envp))
    };
    let errno = attempt().err().unwrap_or(Errno::UnknownErrno) as i32;
    fs::write(error, &errno.to_ne_bytes()).ok(); // nobody else to tell
    process::exit(127)
}

/// The last bytes of the output.
struct Tail {
    bytes: [u8; TEXT],
    length: usize,
}

impl Tail {
    fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(TEXT)..];
        let keep = self.length.min(TEXT - data.len());
        self.bytes.copy_within(self.length - keep..self.length, 0);
        self.bytes[keep..keep + data.len()].copy_from_slice(data);
        self.length = keep + data.len();
    }
}

/// Feeds the state in, drains the output and waits for the end or the deadline. A descendant that holds the pipe open does not count.
fn supervise(
    call: &HookCall,
    pidfd: &OwnedFd,
    input: OwnedFd,
    output: &OwnedFd,
    tail: &mut Tail,
) -> Done {
    let deadline = call
        .timeout_ms
        .map(|ms| now_ms().saturating_add(i64::from(ms)));
    let pid = Digits::new("", nix::unistd::getpid().as_raw().cast_unsigned(), 10);
    let mut feed = Feed {
        pipe: Some(input),
        parts: [&call.state[0], pid.as_c_str().to_bytes(), &call.state[1]],
    };
    for pipe in feed.pipe.iter().chain([output]) {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at(Op::Spawn)?;
    }
    let mut drained = false;
    loop {
        feed.write();
        let timeout = match deadline.map(|at| (at - now_ms()).clamp(0, i64::from(i32::MAX)) as i32)
        {
            Some(0) => {
                process::pidfd_send_signal(pidfd, libc::SIGKILL).ok(); // dead already
                reap(pidfd)?;
                return Err(with_tail(Op::HookTimeout, 0, tail));
            }
            Some(ms) => PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        // What is not waited for stands as the pidfd again, without events.
        let idle = || PollFd::new(pidfd.as_fd(), PollFlags::empty());
        let mut fds = [
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            if drained {
                idle()
            } else {
                PollFd::new(output.as_fd(), PollFlags::POLLIN)
            },
            feed.pipe
                .as_ref()
                .map_or_else(idle, |pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fail::from(errno)),
        }
        let ended = fds[0].any().unwrap_or(false);
        drained |= drain(output, tail);
        if ended {
            return judge(reap(pidfd)?, tail);
        }
    }
}

/// The state on its way into the hook's standard input.
struct Feed<'a> {
    /// Closed when all is written, or when the hook does not want to read it: its right.
    pipe: Option<OwnedFd>,
    parts: [&'a [u8]; 3],
}

impl Feed<'_> {
    /// Writes as much as the pipe takes.
    fn write(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        for part in &mut self.parts {
            while !part.is_empty() {
                match nix::unistd::write(pipe, part) {
                    Ok(n) => *part = &part[n..],
                    Err(Errno::EAGAIN) => return,
                    Err(_) => *part = &[],
                }
            }
        }
        self.pipe = None;
    }
}

/// Reads what is there; true at the end of file.
fn drain(output: &OwnedFd, tail: &mut Tail) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match fs::read(output, &mut buffer) {
            Ok(0) => return true,
            Ok(n) => tail.push(&buffer[..n]),
            Err(_) => return false,
        }
    }
}

fn reap(pidfd: &OwnedFd) -> Result<Exit> {
    signal::wait_pidfd(pidfd).map(|exited| exited.exit)
}

fn judge(exit: Exit, tail: &Tail) -> Done {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(with_tail(Op::HookExit, code, tail)),
        Exit::Signal { number, .. } => Err(with_tail(Op::HookSignal, number, tail)),
    }
}

fn with_tail(op: Op, detail: i32, tail: &Tail) -> Fail {
    Fail {
        op,
        detail,
        text: tail.bytes,
        text_len: tail.length,
        ..Fail::from(Errno::UnknownErrno)
    }
}

fn now_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_milliseconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_bytes() {
        let mut tail = Tail {
            bytes: [0; TEXT],
            length: 0,
        };
        tail.push(&[b'a'; TEXT]);
        tail.push(b"end");
        assert_eq!(tail.length, TEXT);
        assert!(tail.bytes.ends_with(b"aend"));
        tail.push(&[b'x'; 3 * TEXT]);
        assert!(tail.bytes.iter().all(|b| *b == b'x'));
    }
}
