//! The system calls that `nix` lacks; the only unsafe code. One function per call, which decides nothing.

pub(crate) mod mount;
pub(crate) mod tty;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed; the others are integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    })
    .map(drop)
}

/// Whom to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Children<'a> {
    All,
    Pid(i32),
    Pidfd(BorrowedFd<'a>),
}

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    /// Its exit code, or 128 and the number of the signal.
    pub(crate) status: u32,
}

/// waitid(2) with WEXITED and WNOHANG: None if none has ended. What `nix` has refuses what a real-time signal has killed.
pub(crate) fn wait(children: Children<'_>, flags: libc::c_int) -> io::Result<Option<Ended>> {
    let (kind, id) = match children {
        Children::All => (libc::P_ALL, 0),
        Children::Pid(pid) => (libc::P_PID, pid.cast_unsigned()),
        Children::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd().cast_unsigned()),
    };
    let flags = flags | libc::WEXITED | libc::WNOHANG;
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel stores a siginfo through the pointer.
    check(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) }.into())?;
    // SAFETY: all zeroes is a siginfo, and so is what the kernel stored.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of a SIGCHLD, or leaves the zeroes.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() }.cast_unsigned();
    let status = match info.si_code {
        libc::CLD_EXITED => status,
        _ => 128 + status,
    };
    Ok((pid != 0).then_some(Ended { pid, status }))
}

/// FIONREAD: how many bytes wait in a pipe.
pub(crate) fn waiting(pipe: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut size = 0;
    // SAFETY: the kernel writes one integer, which lives until the call returns.
    check(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut size) }.into())?;
    Ok(size)
}

/// A descriptor whose readiness tokio tells. It must be one that epoll(7) takes: no regular file.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it exists.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Has what the command becomes die with this process, and be allowed the huge pages that this process does without. In the child, `besides` is
/// done, too, which must neither allocate nor lock.
pub(crate) fn dies_with_us(command: &mut Command, besides: fn() -> nix::Result<()>) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // Had we died before that call, no signal would come any more.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        nix::sys::prctl::set_thp_disable(false)?;
        Ok(besides()?)
    };
    // SAFETY: between fork and exec it does a few system calls and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// PR_SCHED_CORE_CREATE for the process group, whose only member is the caller (prctl(2)).
pub(crate) fn sched_core() -> io::Result<()> {
    let process_group: libc::c_ulong = 2;
    let nothing: libc::c_ulong = 0;
    // SAFETY: the call takes integers; no cookie is written where the last one is 0.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SCHED_CORE,
                libc::PR_SCHED_CORE_CREATE,
                nothing,
                process_group,
                nothing,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Takes the program's own code out of what this process has mapped (MADV_DONTNEED). It stays in the page cache, and what is executed again
/// comes back by itself; but most of it was for what has just been done. The kernel maps 16 pages for each that is needed, so
/// that all of the program would count as ours otherwise.
pub(crate) fn unmap_code() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (first, last) = (&raw const __executable_start, &raw const etext);
    let length = last.addr() - first.addr();
    // SAFETY: from the beginning of the program to the end of its code there are private mappings of its file which nobody has written
    // to, so that what comes back is what was there. Constants are among it: reads of them find the same bytes.
    unsafe { libc::madvise(first.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

/// malloc_trim(3): gives back all pages in which the allocator has nothing in use. By itself it gives back only those at its end.
pub(crate) fn trim_memory() {
    // SAFETY: the call takes an integer, and touches nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// F_DUPFD_CLOEXEC: the lowest free number from `lowest` on.
pub(crate) fn duplicate_from(lowest: i32, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers.
    let fd = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_long) -> io::Result<i32> {
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
