//! Processes: clone3, execve, exit, prctl, process file descriptors, scheduling attributes, keyrings.

use super::{Errno, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What clone3(2) is asked for. Flags are `CLONE_*`; CLONE_PIDFD is added by [`clone3`] itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloneArgs<'a> {
    pub(crate) flags: u64,
    /// The cgroup directory in which the child starts (CLONE_INTO_CGROUP, kernel 5.7).
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Where clone3(2) returned.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the caller: the child's pid in the caller's pid namespace, and its pidfd.
    Parent { pid: i32, pidfd: OwnedFd },
    /// In the child: a copy of the caller's memory and file descriptors.
    Child,
}

/// linux/sched.h. libc's constant of this name has 32 bits and thus is 0.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// struct clone_args of linux/sched.h, version 2 (kernel 5.7).
#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) without shared memory: fork with namespaces. The caller must have one thread; the child inherits its locks.
pub(crate) fn clone3(args: CloneArgs<'_>) -> Result<Cloned> {
    let mut pidfd: c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd).addr() as u64,
        ..Default::default()
    };
    // A child that is given to our parent has no exit signal of its own: it takes the caller's.
    if args.flags & libc::CLONE_PARENT as u64 == 0 {
        raw.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `raw` and its size describe a clone_args; `pidfd` lives across the call; without CLONE_VM the child runs on its own
    // copy of this stack, so returning twice is sound.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    match Errno::result(ret)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// _exit(2): ends the process without running the parent's exit handlers or flushing its buffers a second time.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// The longest home directory that fits into the slot of [`CStringArray::with_home_slot`].
pub(crate) const MAX_HOME: usize = 1024;

/// A NULL-terminated array of C strings, made before clone so that execve allocates nothing.
#[derive(Debug)]
pub(crate) struct CStringArray {
    strings: Vec<CString>,
    /// Points into `strings` (whose heap buffers do not move) and `home`.
    pointers: Vec<*const c_char>,
    /// `HOME=…`, to be filled in by init.
    home: Vec<u8>,
}

impl CStringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        CStringArray {
            strings,
            pointers,
            home: Vec::new(),
        }
    }

    /// An environment to which [`set_home`](Self::set_home) can add HOME without allocation.
    pub(crate) fn with_home_slot(strings: Vec<CString>) -> Self {
        let mut array = CStringArray::new(strings);
        array.home = b"HOME=".to_vec();
        array.home.resize(b"HOME=".len() + MAX_HOME + 1, 0);
        array.pointers.push(std::ptr::null());
        array
    }

    /// Sets HOME, which the array must have room for and not contain.
    pub(crate) fn set_home(&mut self, home: &[u8]) {
        let start = b"HOME=".len();
        let Some(room) = self.home.get_mut(start..start + home.len() + 1) else {
            return;
        };
        room[..home.len()].copy_from_slice(home);
        room[home.len()] = 0;
        let at = self.strings.len();
        self.pointers[at] = self.home.as_ptr().cast();
    }

    pub(crate) fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// execve(2). Returns only on failure.
pub(crate) fn execve(path: &CStr, argv: &CStringArray, envp: &CStringArray) -> Errno {
    // SAFETY: `path` is NUL-terminated; both arrays are NULL-terminated and point to strings that `argv` and `envp` own.
    unsafe {
        libc::execve(
            path.as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// execveat(2) of an open file. Returns only on failure.
pub(crate) fn fexecve(file: BorrowedFd<'_>, argv: &CStringArray, envp: &CStringArray) -> Errno {
    // SAFETY: the path is an empty NUL-terminated string; both arrays are NULL-terminated and point to strings they own.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// close_range(2): closes every descriptor from `first` to `last`. For a process that owns none of them and never returns: after clone.
pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// close(2) by number: in a child, which has copies of descriptors and of the values that own them, and never drops those.
pub(crate) fn close(fd: i32) -> Result<()> {
    // SAFETY: takes no pointers; the owner in this process is leaked, as init ends in execve or _exit.
    Errno::result(unsafe { libc::close(fd) }).map(drop)
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC (kernel 5.11): marks every descriptor from `first` on. EINVAL or ENOSYS before.
pub(crate) fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    // SAFETY: takes no pointers.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Sets FD_CLOEXEC on one descriptor, by number because the caller walks a list of numbers.
pub(crate) fn set_cloexec(fd: i32) -> Result<()> {
    // SAFETY: F_SETFD takes an integer.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Clears FD_CLOEXEC on one descriptor, by number; EBADF if it is not open.
pub(crate) fn clear_cloexec(fd: i32) -> Result<()> {
    // SAFETY: F_SETFD takes an integer.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Whether a descriptor of this number is open.
pub(crate) fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD takes no argument.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()
}

/// prctl(2) for the options that take one integer.
fn prctl(option: c_int, arg: c_ulong) -> Result<c_int> {
    // SAFETY: every caller passes an option whose arguments are integers.
    Errno::result(unsafe { libc::prctl(option, arg, 0, 0, 0) })
}

/// PR_SET_PDEATHSIG: the signal this process gets when its parent dies; 0 for none.
pub(crate) fn set_parent_death_signal(signal: c_int) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as c_ulong).map(drop)
}

/// PR_GET_PDEATHSIG; 0 if there is none.
pub(crate) fn parent_death_signal() -> Result<c_int> {
    let mut signal: c_int = 0;
    // SAFETY: the pointer is to an integer that the kernel writes.
    Errno::result(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) })?;
    Ok(signal)
}

/// PR_SET_DUMPABLE: a process that is not dumpable cannot be traced, nor its /proc entries opened, without CAP_SYS_PTRACE over it.
pub(crate) fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, c_ulong::from(dumpable)).map(drop)
}

/// PR_SET_NO_NEW_PRIVS.
pub(crate) fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// PR_SET_KEEPCAPS: keeps the permitted capabilities over setresuid(2) to a non-root user.
pub(crate) fn set_keep_caps(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, c_ulong::from(keep)).map(drop)
}

/// PR_CAPBSET_DROP of the capability with this number.
pub(crate) fn drop_bounding(capability: u8) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability)).map(drop)
}

/// PR_CAP_AMBIENT_RAISE of the capability with this number.
pub(crate) fn raise_ambient(capability: u8) -> Result<()> {
    // SAFETY: the arguments are integers.
    let ret = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE,
            c_ulong::from(capability),
            0,
            0,
        )
    };
    Errno::result(ret).map(drop)
}

/// PR_CAP_AMBIENT_CLEAR_ALL.
pub(crate) fn clear_ambient() -> Result<()> {
    // SAFETY: the arguments are integers.
    let ret = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(ret).map(drop)
}

/// PR_SET_NAME: what ps shows of this process; cut at 15 bytes by the kernel.
pub(crate) fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: the argument is a NUL-terminated string that the kernel copies.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// pidfd_open(2), kernel 5.3. ESRCH and EINVAL both mean that there is no such process: the latter if others are still in the group or
/// the session that bears its number.
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_send_signal(2), kernel 5.1. Signal 0 asks whether the process is alive.
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: c_int) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is allowed; the others are integers.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// setns(2) with a mask: `fd` is a namespace file, or (kernel 5.8) a pidfd and `flags` names the namespaces to join at once.
pub(crate) fn setns(fd: impl AsFd, flags: u64) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags as c_int) }).map(drop)
}

/// unshare(2) with a mask of `CLONE_NEW*`.
pub(crate) fn unshare(flags: u64) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::unshare(flags as c_int) }).map(drop)
}

/// umask(2): returns the previous mask. It cannot fail.
pub(crate) fn umask(mask: u32) -> u32 {
    // SAFETY: takes no pointers and always succeeds.
    unsafe { libc::umask(mask) }
}

/// prlimit(2): sets one limit of a process (0: this one). `resource` is `RLIMIT_*`.
pub(crate) fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is a rlimit64 that the kernel reads; the old limit is not asked for.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// prlimit(2): a limit of this process, soft and hard.
pub(crate) fn rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: no new limit is given; `limit` is a rlimit64 that the kernel writes.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// NS_GET_NSTYPE (ioctl_ns(2)): the `CLONE_NEW*` of a namespace file; ENOTTY for what is none.
pub(crate) fn namespace_type(file: impl AsFd) -> Result<u64> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this request takes no argument.
    let flag = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    Errno::result(flag).map(|flag| flag as u64)
}

/// NS_GET_USERNS (ioctl_ns(2)): the user namespace that owns another namespace; EPERM if it is not below the caller's.
pub(crate) fn namespace_owner(file: impl AsFd) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: this request takes no argument.
    let fd = Errno::result(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_USERNS) })?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// ioprio_set(2) for the calling process's group.
pub(crate) fn set_ioprio(value: i32) -> Result<()> {
    const IOPRIO_WHO_PGRP: c_int = 2;
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, value) })
        .map(drop)
}

/// personality(2).
pub(crate) fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::personality(persona) }).map(drop)
}

/// sched_setaffinity(2) of a process (0: this one): `cpus` is a bit mask, least significant word first. The kernel leaves out what the
/// process's cpuset lacks; EINVAL if nothing remains.
pub(crate) fn set_affinity(pid: i32, cpus: &[u64]) -> Result<()> {
    // SAFETY: pointer and size describe `cpus`, which the kernel only reads.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            pid,
            size_of_val(cpus),
            cpus.as_ptr(),
        )
    })
    .map(drop)
}

/// struct sched_attr of linux/sched/types.h, version 1. Times are nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

/// sched_setattr(2) for this process. Sets `size` itself.
pub(crate) fn set_sched_attr(attr: &SchedAttr) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        ..*attr
    };
    // SAFETY: `attr` is a sched_attr of the size it states.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
        .map(drop)
}

/// set_mempolicy(2): `nodes` is a bit mask of NUMA nodes, least significant word first.
pub(crate) fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<()> {
    let bits = if nodes.is_empty() {
        0
    } else {
        nodes.len() * 64 + 1
    };
    let mask = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: `mask` holds `bits - 1` bits; the kernel reads one bit less than `maxnode`.
    Errno::result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// keyctl(KEYCTL_JOIN_SESSION_KEYRING): makes and joins a session keyring of this name; returns its serial number.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<i32> {
    // SAFETY: the name is NUL-terminated and copied by the kernel.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    };
    Errno::result(ret).map(|serial| serial as i32)
}

/// keyctl(KEYCTL_SETPERM).
pub(crate) fn set_key_permissions(serial: i32, permissions: u32) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, serial, permissions)
    })
    .map(drop)
}

/// setdomainname(2).
pub(crate) fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length describe `name`.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}
