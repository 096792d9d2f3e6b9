//! The hooks that belong into the container's namespaces: createContainer and startContainer.
//!
//! Runs in init, which becomes the hook's parent. Of its outputs the last bytes are kept, for the message, unless
//! they go to files. Hooks of the runtime namespace are
//! [`crate::hooks`]'s.

use super::{At, Digits, Done, Fail, Files, TEXT};
use crate::plan::{HookCall, Op};
use crate::sync::{self, Message};
use crate::sys::process::{self, CStringArray, CloneArgs, Cloned};
use crate::sys::signal::{self, Exit};
use crate::sys::{Errno, Result, fs};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, OwnedFd};

/// Runs a hook to its end. `environment` is the process's; `umask` the hook's, if it is not the current one. `fifo`: where to tell, behind the start fifo, that it takes long.
pub(crate) fn run(
    call: &HookCall,
    environment: &CStringArray,
    umask: Option<u32>,
    files: &Files,
    fifo: Option<&OwnedFd>,
) -> Done {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Op::Spawn);
    let (input_read, input_write) = pipe()?;
    let outputs = [pipe()?, pipe()?];
    let (error_read, error_write) = pipe()?;
    let pidfd = match process::clone3(CloneArgs {
        flags: 0,
        cgroup: None,
    })
    .at(Op::Spawn)?
    {
        Cloned::Child => {
            let ends = [&outputs[0].1, &outputs[1].1];
            let environment = call.envp.as_ref().unwrap_or(environment);
            if let Some(umask) = umask {
                process::umask(umask);
            }
            execute(call, environment, files, &input_read, ends, &error_write)
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    let outputs = outputs.map(|(read, _)| Output::new(read));
    drop((input_read, error_write));
    let mut code = [0; 4];
    if fs::read(&error_read, &mut code).at(Op::Spawn)? == code.len() {
        reap(&pidfd)?;
        return Err(Errno::from_raw(i32::from_ne_bytes(code))).at(Op::Spawn);
    }
    let tell = || {
        let message = Message::HookRuns {
            start: call.kind == "startContainer",
            index: call.index as u32,
        };
        match fifo {
            Some(fifo) => fs::write(fifo, &sync::encode(&message)),
            None => sync::tell(&files.sync, &message),
        }
    };
    supervise(call, &pidfd, input_write, outputs, &tell)
}

/// In the hook's process: standard streams and execve.
fn execute(
    call: &HookCall,
    environment: &CStringArray,
    files: &Files,
    input: &OwnedFd,
    outputs: [&OwnedFd; 2],
    error: &OwnedFd,
) -> ! {
    let attempt = || -> Result<()> {
        fs::dup_onto(input, 0)?;
        for ((pipe, file), number) in outputs.into_iter().zip(&files.hook_outputs).zip(1..) {
            fs::dup_onto(file.as_ref().unwrap_or(pipe), number)?;
        }
        // What the container's paths could lead to is not there any more when the hook's is walked (see `close_from`).
        super::exec::close_but(&files.proc, 3, &[error.as_fd()])?;
        signal::set_default(libc::SIGPIPE)?;
        SigSet::empty().thread_set_mask()?;
        Err(process::execve(&call.path, &call.argv, environment))
    };
    let errno = attempt().err().unwrap_or(Errno::UnknownErrno) as i32;
    fs::write(error, &errno.to_ne_bytes()).ok(); // nobody else to tell
    process::exit(127)
}

/// One output of a hook.
struct Output {
    pipe: OwnedFd,
    drained: bool,
    tail: Tail,
}

impl Output {
    fn new(pipe: OwnedFd) -> Self {
        Output {
            pipe,
            drained: false,
            tail: Tail::NONE,
        }
    }
}

/// Half of the text that a failure carries, less what else is in it: see [`with_tails`].
const HALF: usize = (TEXT - 9) / 2;

/// The last bytes of an output.
struct Tail {
    bytes: [u8; HALF],
    length: usize,
    /// How many came before these.
    dropped: u32,
}

impl Tail {
    const NONE: Self = Tail {
        bytes: [0; HALF],
        length: 0,
        dropped: 0,
    };

    fn push(&mut self, data: &[u8]) {
        let excess = (self.length + data.len()).saturating_sub(HALF);
        self.dropped = self.dropped.saturating_add(excess as u32);
        let data = &data[data.len().saturating_sub(HALF)..];
        let keep = self.length.min(HALF - data.len());
        self.bytes.copy_within(self.length - keep..self.length, 0);
        self.bytes[keep..keep + data.len()].copy_from_slice(data);
        self.length = keep + data.len();
    }
}

/// Feeds the state in, drains the outputs and waits for the end or the deadline. A descendant that holds a pipe open does not count.
fn supervise(
    call: &HookCall,
    pidfd: &OwnedFd,
    input: OwnedFd,
    mut outputs: [Output; 2],
    tell: &dyn Fn() -> Result<()>,
) -> Done {
    let after = |ms: Option<i32>| ms.map(|ms| now_ms().saturating_add(i64::from(ms)));
    let (deadline, mut alarm) = (after(call.timeout_ms), after(call.warn_after_ms));
    let pid = Digits::new("", nix::unistd::getpid().as_raw().cast_unsigned(), 10);
    let mut feed = Feed {
        pipe: Some(input),
        parts: [&call.state[0], pid.as_c_str().to_bytes(), &call.state[1]],
    };
    for pipe in feed.pipe.iter().chain(outputs.iter().map(|o| &o.pipe)) {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at(Op::Spawn)?;
    }
    loop {
        feed.write();
        if alarm.take_if(|at| now_ms() >= *at).is_some() {
            tell().ok(); // who was to be warned may be gone; the hook goes on
        }
        if deadline.is_some_and(|at| now_ms() >= at) {
            process::pidfd_send_signal(pidfd, libc::SIGKILL).ok(); // dead already
            reap(pidfd)?;
            return Err(with_tails(Op::HookTimeout, 0, &outputs));
        }
        let timeout = deadline.or(alarm).map_or(PollTimeout::NONE, |at| {
            let ms = (at - now_ms()).clamp(0, i64::from(i32::MAX));
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        if wait(pidfd, &outputs, feed.pipe.as_ref(), timeout)? {
            outputs.iter_mut().for_each(drain);
            return judge(reap(pidfd)?, &outputs);
        }
        outputs.iter_mut().for_each(drain);
    }
}

/// Waits until something can be done. True once the hook is dead.
fn wait(
    pidfd: &OwnedFd,
    [stdout, stderr]: &[Output; 2],
    input: Option<&OwnedFd>,
    timeout: PollTimeout,
) -> Done<bool> {
    let open = |output: &Output| !output.drained;
    let wanted = [
        (Some(pidfd), PollFlags::POLLIN),
        (open(stdout).then_some(&stdout.pipe), PollFlags::POLLIN),
        (open(stderr).then_some(&stderr.pipe), PollFlags::POLLIN),
        (input, PollFlags::POLLOUT),
    ];
    // What is not waited for stands as the pidfd again, without events.
    let fds = wanted.map(|(fd, events)| match fd {
        Some(fd) => (fd, events),
        None => (pidfd, PollFlags::empty()),
    });
    let mut fds = fds.map(|(fd, events)| PollFd::new(fd.as_fd(), events));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
        Err(errno) => Err(Fail::from(errno)),
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

/// Reads what is there.
fn drain(output: &mut Output) {
    let mut buffer = [0; 4096];
    loop {
        match fs::read(&output.pipe, &mut buffer) {
            Ok(0) => {
                output.drained = true;
                return;
            }
            Ok(n) => output.tail.push(&buffer[..n]),
            Err(_) => return,
        }
    }
}

fn reap(pidfd: &OwnedFd) -> Result<Exit> {
    signal::wait_pidfd(pidfd).map(|exited| exited.exit)
}

fn judge(exit: Exit, outputs: &[Output; 2]) -> Done {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(with_tails(Op::HookExit, code, outputs)),
        Exit::Signal { number, .. } => Err(with_tails(Op::HookSignal, number, outputs)),
    }
}

/// How much is missing of each output, and their ends with a NUL between them.
fn with_tails(op: Op, detail: i32, [stdout, stderr]: &[Output; 2]) -> Fail {
    let mut fail = Fail {
        op,
        detail,
        ..Fail::from(Errno::UnknownErrno)
    };
    let (out, err) = (&stdout.tail, &stderr.tail);
    let mut add = |part: &[u8]| {
        fail.text[fail.text_len..][..part.len()].copy_from_slice(part);
        fail.text_len += part.len();
    };
    add(&out.dropped.to_ne_bytes());
    add(&err.dropped.to_ne_bytes());
    add(&out.bytes[..out.length]);
    add(&[0]);
    add(&err.bytes[..err.length]);
    fail
}

fn now_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_milliseconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_bytes() {
        let mut tail = Tail::NONE;
        tail.push(&[b'a'; HALF]);
        assert_eq!((tail.length, tail.dropped), (HALF, 0));
        tail.push(b"end");
        assert_eq!((tail.length, tail.dropped), (HALF, 3));
        assert!(tail.bytes.ends_with(b"aend"));
        tail.push(&[b'x'; 3 * HALF]);
        assert!(tail.bytes.iter().all(|b| *b == b'x'));
        assert_eq!(tail.dropped as usize, 3 + 3 * HALF);
    }
}
