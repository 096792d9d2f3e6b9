//! The few kernel calls for which nix has no safe wrapper.
//!
//! Used by the harness and by the two programs beside it. One thin function per call; nothing is decided here.
//! This is the only module of the crate that may contain `unsafe`.

pub mod launch;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What `sched_getattr(2)` says of the calling thread; field for field the kernel's `struct sched_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedAttr {
    /// Size of the structure that the kernel filled.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// The nice value.
    pub nice: i32,
    /// The real-time priority.
    pub priority: u32,
    /// Deadline scheduling, in nanoseconds.
    pub runtime: u64,
    /// Deadline scheduling, in nanoseconds.
    pub deadline: u64,
    /// Deadline scheduling, in nanoseconds.
    pub period: u64,
}

/// One instruction of a seccomp program: (code, jump if true, jump if false, operand).
pub type Instruction = (u16, u8, u8, u32);

/// Opens a process as a file descriptor that polls readable when the process ends.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the arguments are two integers and no memory is passed.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The scheduling attributes of the calling thread.
pub fn sched_getattr() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: `attr` is a writable structure of `size` bytes, laid out as the kernel's first version of it.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) })?;
    Ok(attr)
}

/// The I/O priority of the calling thread: class in the bits from 13 up, level below.
pub fn ioprio_get() -> io::Result<u32> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: the arguments are two integers and no memory is passed.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }).map(|n| n as u32)
}

/// Describes the session keyring without creating one: `type;uid;gid;permissions;name`.
pub fn session_keyring() -> io::Result<String> {
    const KEYCTL_DESCRIBE: i32 = 6;
    const KEY_SPEC_SESSION_KEYRING: i32 = -3;
    let mut text = [0u8; 512];
    // SAFETY: the pointer and the length describe `text`.
    let length = checked(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            KEY_SPEC_SESSION_KEYRING,
            text.as_mut_ptr(),
            text.len(),
        )
    })?;
    // The length counts the terminating NUL.
    let length = (length as usize).saturating_sub(1).min(text.len());
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The execution domain of the calling process.
pub fn personality() -> io::Result<u32> {
    // SAFETY: the argument is an integer that asks for the present value and changes nothing.
    checked(i64::from(unsafe { libc::personality(0xffff_ffff) })).map(|n| n as u32)
}

/// Rows and columns of a terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, to which the pointer points.
    checked(i64::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)
    }))?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets rows and columns of a terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, to which the pointer points.
    checked(i64::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))
    .map(drop)
}

/// Makes the calling process adopt the orphans among its descendants, so that it can wait for them.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl with this option takes an integer and touches no memory.
    checked(i64::from(unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    }))
    .map(drop)
}

/// Waits until some child ends, which reaps it, or one that is traced stops: its pid and raw wait status; ECHILD without children.
pub fn reap_any() -> io::Result<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a writable integer; `__WALL` also accepts children made without SIGCHLD.
        match checked(i64::from(unsafe {
            libc::waitpid(-1, &raw mut status, libc::__WALL)
        })) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|pid| (pid as i32, status)),
        }
    }
}

/// Forks. The pid, in the parent; the caller has one thread.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with one thread no lock of this process is held for ever in the child, which has its own copy of everything.
    let pid = checked(i64::from(unsafe { libc::fork() }))?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Waits until some child has ended, and leaves it a zombie; ECHILD without children.
pub fn await_any() -> io::Result<()> {
    loop {
        match look_at_any(0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether the calling process has a child, ended or not.
pub fn has_children() -> bool {
    look_at_any(libc::WNOHANG).is_ok()
}

fn look_at_any(flags: i32) -> io::Result<()> {
    let flags = flags | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: the pointer is to a writable structure of the type that waitid fills, which nobody reads.
    let waited = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) };
    checked(i64::from(waited)).map(drop)
}

/// Takes ownership of a descriptor that `recvmsg` has just put into this process.
pub fn received(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the caller has it from a control message, which the kernel fills with new descriptors that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The version of Landlock's interface.
pub fn landlock_abi() -> io::Result<i64> {
    const VERSION: u64 = 1;
    call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0])
}

/// Calls the kernel by number. Only for calls that cannot corrupt the caller's memory with the arguments given.
pub fn call(number: i64, arguments: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the probe passes integers and null pointers from its command line, on which the kernel either fails or acts
    // on the process as a whole; a call that would unmap or overwrite the probe's memory ends the probe, which is its
    // user's wish.
    checked(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// Makes a detached copy of the mount at a path and id-maps it with a user namespace's maps.
pub fn id_map(path: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated.
    let tree = checked(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as i32) };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is empty and NUL-terminated; `attributes` is of the size that is passed, and only read.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Puts the calling process under a seccomp filter, without `no_new_privs` where the process is privileged enough.
pub fn filter_system_calls(program: &[Instruction]) -> io::Result<()> {
    let program: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    const SECCOMP_SET_MODE_FILTER: i32 = 1;
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel only reads them.
    match checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    }) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
        other => return other.map(drop),
    }
    // SAFETY: prctl with this option takes integers and touches no memory.
    checked(i64::from(unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    }))?;
    // SAFETY: as above.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
    .map(drop)
}

/// A system call that waits for an answer: struct seccomp_notif of linux/seccomp.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub number: i32,
    pub arch: u32,
    pub instruction: u64,
    pub arguments: [u64; 6],
}

/// SECCOMP_IOCTL_NOTIF_RECV.
pub fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    const RECEIVE: u64 = 0xc050_2100;
    let mut notification = Notification::default();
    // SAFETY: the request's number states the size of the structure that the pointer is to, and which the kernel fills.
    checked(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut notification)
    }))?;
    Ok(notification)
}

/// SECCOMP_IOCTL_NOTIF_SEND: lets the call happen, or makes it fail with this errno.
pub fn answer_notification(
    listener: BorrowedFd<'_>,
    id: u64,
    errno: Option<i32>,
) -> io::Result<()> {
    const SEND: u64 = 0xc018_2101;
    #[repr(C)]
    struct Answer {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    let answer = Answer {
        id,
        value: 0,
        error: -errno.unwrap_or(0),
        flags: u32::from(errno.is_none()),
    };
    // SAFETY: the request's number states the size of the structure that the pointer is to, and which the kernel reads.
    checked(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer)
    }))
    .map(drop)
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Bytes of the kernel's `struct dm_ioctl`, which begins with a version of three numbers and its own size with what follows it.
pub const DM_IOCTL: usize = 312;

/// A command of the device mapper (`linux/dm-ioctl.h`), with its structure and what belongs to it.
pub fn device_mapper(control: BorrowedFd<'_>, command: u8, request: &mut [u8]) -> io::Result<()> {
    let size = request.get(12..16).and_then(|size| size.try_into().ok());
    let size = size.map_or(0, u32::from_ne_bytes) as usize;
    if request.len() < DM_IOCTL || size != request.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let number = 3 << 30 | DM_IOCTL << 16 | 0xfd << 8 | usize::from(command);
    // SAFETY: the kernel reads and writes as many bytes as the structure says, and these are `request`.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), number as u64, request.as_mut_ptr()) };
    checked(done.into()).map(drop)
}

/// Whether a file stays as and where it is, whoever wants to change or to remove it (`FS_IOC_SETFLAGS`). Not every file system has this.
pub fn set_immutable(file: BorrowedFd<'_>, immutable: bool) -> io::Result<()> {
    const FS_IMMUTABLE_FL: libc::c_int = 0x10;
    let flags = if immutable { FS_IMMUTABLE_FL } else { 0 };
    // SAFETY: the kernel reads an int, which is what it is given.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    checked(set.into()).map(drop)
}
