//! ptrace(2) of a child, as far as seeing one of its system calls return needs it, and pidfd_getfd(2).
//!
//! Stops are awaited with waitid(2): they are events like an end is. The pid is that of a child which nobody else reaps, so it is its own.

use super::{Errno, Result};
use std::ffi::{c_int, c_long, c_uint};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Kills the child if we end while we trace it, and tells stops at system calls from others.
pub(crate) const KILL_WITH_TRACER: c_int = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;

/// Suspends the child's seccomp filters while it is traced. Needs CAP_SYS_ADMIN on the host, no filter on the tracer, and
/// CONFIG_CHECKPOINT_RESTORE. libc lacks the constant.
pub(crate) const SUSPEND_SECCOMP: c_int = 1 << 21;

/// What a traced child stopped at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It is about to make the system call with this number.
    Entry(u64),
    /// Its system call returned this.
    Exit(Result<i64>),
    /// A signal, which it gets unless it is kept back.
    Signal(c_int),
    /// Because it was told to.
    Asked,
}

/// ptrace(2) for the requests whose fourth argument is an integer.
fn ptrace(request: c_uint, pid: i32, data: c_int) -> Result<()> {
    // SAFETY: every caller passes a request that ignores the address, and whose data is an integer.
    let ret = unsafe { libc::ptrace(request, pid, 0 as c_long, c_long::from(data)) };
    Errno::result(ret).map(drop)
}

/// PTRACE_SEIZE with these `PTRACE_O_*`: the child runs on.
pub(crate) fn seize(pid: i32, options: c_int) -> Result<()> {
    ptrace(libc::PTRACE_SEIZE, pid, options)
}

/// PTRACE_INTERRUPT: the child stops; a system call it waits in is begun again when it goes on.
pub(crate) fn interrupt(pid: i32) -> Result<()> {
    ptrace(libc::PTRACE_INTERRUPT, pid, 0)
}

/// PTRACE_SYSCALL: the stopped child goes on to the next beginning or end of a system call. `signal`: 0, or what it stopped at.
pub(crate) fn go_to_call(pid: i32, signal: c_int) -> Result<()> {
    ptrace(libc::PTRACE_SYSCALL, pid, signal)
}

/// PTRACE_DETACH: the stopped child goes on untraced.
pub(crate) fn detach(pid: i32) -> Result<()> {
    ptrace(libc::PTRACE_DETACH, pid, 0)
}

/// Waits until the traced child stops; None if it ended, which is left to be reaped.
pub(crate) fn wait_stop(pid: i32, pidfd: impl AsFd) -> Result<Option<Stop>> {
    const EVENT_STOP: c_int = 128;
    let fd = pidfd.as_fd().as_raw_fd() as libc::id_t;
    let status = loop {
        // Only looked at: a stop is taken below, an end is not.
        let options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        match waitid(fd, options) {
            Err(Errno::EINTR) => continue,
            other => match other? {
                (libc::CLD_TRAPPED | libc::CLD_STOPPED, status) => break status,
                _ => return Ok(None),
            },
        }
    };
    waitid(fd, libc::WSTOPPED | libc::WNOHANG)?;
    Ok(Some(match status {
        _ if status >> 8 == EVENT_STOP => Stop::Asked,
        _ if status == libc::SIGTRAP | 0x80 => system_call(pid)?,
        signal => Stop::Signal(signal & 0x7f),
    }))
}

/// The code and the status of a siginfo.
fn waitid(pidfd: libc::id_t, options: c_int) -> Result<(c_int, c_int)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel stores a siginfo through the pointer.
    Errno::result(unsafe { libc::waitid(libc::P_PIDFD, pidfd, info.as_mut_ptr(), options) })?;
    // SAFETY: all zeroes is a siginfo, and so is what the kernel stored.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of a SIGCHLD, or leaves the zeroes.
    let status = unsafe { info.si_status() };
    Ok((info.si_code, status))
}

/// PTRACE_GET_SYSCALL_INFO (kernel 5.3).
fn system_call(pid: i32) -> Result<Stop> {
    const ENTRY: u8 = 1;
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the address argument is the size of the structure that the data argument points to, and which the kernel fills.
    let ret = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr()) };
    Errno::result(ret)?;
    // SAFETY: all zeroes is such a structure, and so is what the kernel stored.
    let info = unsafe { info.assume_init() };
    if info.op == ENTRY {
        // SAFETY: at an entry the kernel fills this member.
        let entry = unsafe { info.u.entry };
        return Ok(Stop::Entry(entry.nr));
    }
    // SAFETY: at an exit the kernel fills this member.
    let exit = unsafe { info.u.exit };
    Ok(Stop::Exit(match exit.is_error {
        0 => Ok(exit.sval),
        _ => Err(Errno::from_raw(-exit.sval as i32)),
    }))
}

/// pidfd_getfd(2), kernel 5.6: a copy of another process's descriptor, close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: impl AsFd, number: i32) -> Result<OwnedFd> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
