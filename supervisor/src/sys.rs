//! The system calls that `nix` and `rustix` lack; the only unsafe code. One function per call, which decides nothing.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// close_range(2): this descriptor and all above it, which nothing in this process may own.
pub(crate) fn close_from(lowest: u32) -> io::Result<()> {
    // SAFETY: the call takes three integers, and its caller says that nobody owns what it closes.
    match unsafe { libc::close_range(lowest, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that who started this program has left open for it, and that nothing in this process owns yet.
pub(crate) fn left_open(descriptor: i32) -> OwnedFd {
    // SAFETY: its caller says that nobody owns it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// sigaction(2): the signal does again what it does by itself.
pub(crate) fn catch_no_more(signal: nix::sys::signal::Signal) -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no function of ours is called from then on; one that runs on another thread goes on.
    unsafe { sigaction(signal, &default) }?;
    Ok(())
}

/// Gives what the command becomes these limits of descriptors, the soft and the hard one.
pub(crate) fn with_descriptors(command: &mut Command, (soft, hard): (u64, u64)) {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let prepare = move || Ok(nix::sys::resource::setrlimit(limit, soft, hard)?);
    // SAFETY: between fork and exec it does one system call and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Has what the command becomes die with this thread, which has to wait for it.
pub(crate) fn dies_with_us(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // Had we died before that call, no signal would come any more.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec it does two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// sigwaitinfo(2): the next of these signals, by its number; both libraries know those only that have names, which real-time ones have not.
pub(crate) fn next_signal(among: &nix::sys::signal::SigSet) -> io::Result<i32> {
    // SAFETY: the kernel reads the set, and there is no siginfo that it would write.
    match unsafe { libc::sigwaitinfo(among.as_ref(), std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

/// kill(2), with any signal.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// mktime(3): what is this in UTC, in seconds since the epoch, if a clock of our zone (`TZ`, or /etc/localtime) shows so many since then. One that
/// it never shows, as it was put forward, or shows twice, is one of the two that may be meant.
pub(crate) fn of_our_zone(clock: i64) -> i64 {
    // SAFETY: it is made of integers, and a pointer that may be null.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    let (days, seconds) = (clock.div_euclid(86400), clock.rem_euclid(86400));
    time.tm_year = 70;
    time.tm_mday = i32::try_from(days + 1).unwrap_or(i32::MAX);
    time.tm_sec = i32::try_from(seconds).unwrap_or_default();
    // Whether summer time is then, the zone says.
    time.tm_isdst = -1;
    // SAFETY: the structure is ours, and nothing in this process changes the environment, which the call reads.
    unsafe { libc::mktime(&raw mut time) }
}

/// What is forbidden on mounts, beside set-id programs, devices and all execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restriction {
    Writable,
    ReadOnly,
}

impl Restriction {
    fn attributes(self) -> u64 {
        let all = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        match self {
            Self::Writable => all,
            Self::ReadOnly => all | libc::MOUNT_ATTR_RDONLY,
        }
    }
}

/// mount_setattr(2): this on all mounts of our namespace, from the root on.
pub(crate) fn restrict_mounts(restriction: Restriction) -> io::Result<()> {
    let attributes = restriction.attributes();
    set_attributes(libc::AT_FDCWD, c"/", attributes, 0, libc::AT_RECURSIVE)
}

/// The same on a tree of mounts that is not attached yet.
pub(crate) fn restrict_tree(tree: BorrowedFd<'_>, restriction: Restriction) -> io::Result<()> {
    let flags = libc::AT_RECURSIVE | libc::AT_EMPTY_PATH;
    set_attributes(tree.as_raw_fd(), c"", restriction.attributes(), 0, flags)
}

/// mount_setattr(2): ids on a tree of mounts that is not attached yet are mapped as by the user namespace.
pub(crate) fn id_map(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::AT_RECURSIVE | libc::AT_EMPTY_PATH;
    let users = users.as_raw_fd().unsigned_abs().into();
    set_attributes(tree.as_raw_fd(), c"", libc::MOUNT_ATTR_IDMAP, users, flags)
}

/// NS_GET_USERNS of ioctl_ns(2): the user namespace that a namespace belongs to.
pub(crate) fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the call takes no argument.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made it, and nothing else knows it.
        owner => Ok(unsafe { OwnedFd::from_raw_fd(owner) }),
    }
}

/// mount_setattr(2) is there.
pub(crate) fn can_restrict_trees() -> bool {
    let flags = libc::AT_RECURSIVE | libc::AT_EMPTY_PATH;
    let tried = set_attributes(-1, c"", libc::MOUNT_ATTR_RDONLY, 0, flags);
    tried.is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS))
}

fn set_attributes(
    fd: libc::c_int,
    path: &std::ffi::CStr,
    set: u64,
    userns_fd: u64,
    flags: libc::c_int,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    // SAFETY: the path ends with a NUL, and the structure is as long as is said; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
