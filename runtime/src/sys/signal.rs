//! Signals by number, and the exits of children that SIGCHLD announces.
//!
//! `nix` refuses signals it has no name for, and all real-time ones are such: a child that SIGRTMIN+3 kills would be reaped
//! there and its status be lost. So numbers are kept as the kernel has them.

use super::{Errno, Result};
use nix::sys::signal::SigSet;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal { number: i32, core_dumped: bool },
}

/// A child that ended and has been reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exited {
    pub(crate) pid: i32,
    pub(crate) exit: Exit,
}

/// Sets the disposition of a signal to SIG_DFL. SIG_IGN survives execve(2), and the start-up code of Rust ignores SIGPIPE.
pub(crate) fn set_default(number: i32) -> Result<()> {
    dispose(number, libc::SIG_DFL)
}

/// Sets the disposition of a signal to SIG_IGN.
pub(crate) fn ignore(number: i32) -> Result<()> {
    dispose(number, libc::SIG_IGN)
}

/// `disposition`: SIG_DFL, SIG_IGN or the handler of [`end_when_asked`].
fn dispose(number: i32, disposition: libc::sighandler_t) -> Result<()> {
    // SAFETY: the first two install no handler; the third is a function of the type that signals call, and makes one system call.
    let ret = unsafe { libc::signal(number, disposition) };
    if ret == libc::SIG_ERR {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Sets the disposition of every signal to SIG_DFL but that of SIGPIPE, and blocks none.
pub(crate) fn reset() -> Result<()> {
    // A kernel_sigaction(9) of zeroes: SIG_DFL, without flags and mask. The C library's own function refuses two real-time signals, which a
    // caller may ignore all the same.
    let default = [0_u64; 4];
    for number in 1..=64 {
        if [libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE].contains(&number) {
            continue;
        }
        // SAFETY: the kernel reads a sigaction, which is not longer than `default`, and writes nothing.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            )
        })?;
    }
    SigSet::empty().thread_set_mask()
}

/// Has the signals that end what runc waits with end this process, as they would without a handler: the first process of a pid namespace is
/// spared otherwise.
pub(crate) fn end_when_asked() -> Result<()> {
    extern "C" fn end(number: c_int) {
        super::process::exit(128 + number)
    }
    let handler = end as extern "C" fn(c_int);
    let asking = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
    asking
        .into_iter()
        .try_for_each(|number| dispose(number, handler as libc::sighandler_t))
}

/// What a signal means, as strsignal(3) says it, in lower case as runc's errors have it: `bad system call`.
pub(crate) fn meaning(number: i32) -> String {
    // SAFETY: takes any number; the command has one thread, so nobody else overwrites the text of an unknown one.
    let text = unsafe { libc::strsignal(number) };
    // SAFETY: a string of the C library's, which stays until the next call.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    text.to_string_lossy().to_lowercase()
}

/// Makes the process that `command` starts end with us.
pub(crate) fn end_child_with_us(command: &mut Command) {
    let us = std::process::id();
    let follow = move || {
        super::process::set_parent_death_signal(libc::SIGKILL)?;
        match std::os::unix::process::parent_id() == us {
            true => Ok(()),
            // Ended before that was said.
            false => Err(std::io::Error::from(Errno::ESRCH)),
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(follow) };
}

/// Makes the process that `command` starts begin with no signal blocked; it would inherit our mask. Not for init: this allocates.
pub(crate) fn unblock_in_child(command: &mut Command) {
    let unblock = || {
        SigSet::empty()
            .thread_set_mask()
            .map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec the closure makes one system call; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(unblock) };
}

/// waitid(P_PIDFD): waits until this child has ended, and reaps it.
pub(crate) fn wait_pidfd(pidfd: impl AsFd) -> Result<Exited> {
    let fd = pidfd.as_fd().as_raw_fd();
    loop {
        match waitid(libc::P_PIDFD, fd as libc::id_t, libc::WEXITED) {
            Err(Errno::EINTR) => (),
            other => return other?.ok_or(Errno::EAGAIN),
        }
    }
}

/// waitid(P_ALL, WNOHANG): reaps one child that has ended; None if none has, ECHILD if there are no children.
pub(crate) fn reap_any() -> Result<Option<Exited>> {
    waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)
}

fn waitid(kind: libc::idtype_t, id: libc::id_t, options: c_int) -> Result<Option<Exited>> {
    // Zeroed, since with WNOHANG the kernel writes no pid if no child has ended.
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel stores a siginfo through the pointer.
    Errno::result(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) })?;
    // SAFETY: all zeroes is a siginfo, and so is what the kernel stored.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of a SIGCHLD, or leaves the zeroes.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let exit = match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal {
            number: status,
            core_dumped: code == libc::CLD_DUMPED,
        },
    };
    Ok((pid != 0).then_some(Exited { pid, exit }))
}
