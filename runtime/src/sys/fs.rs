//! Files and directories by descriptor: openat2, and the calls that take a directory descriptor and one name.
//!
//! `open` follows no link and sets CLOEXEC; following needs the longer name.

use super::{Errno, Result};
use std::ffi::{CStr, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The working directory, where a call wants a directory descriptor.
pub(crate) const CWD: BorrowedFd<'static> = {
    // SAFETY: AT_FDCWD is always valid and owned by nobody.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
};

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2), kernel 5.6. Adds O_CLOEXEC. EAGAIN (a rename during the walk of `..`) is retried.
pub(crate) fn openat2(
    dir: impl AsFd,
    path: &CStr,
    flags: c_int,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: u64::from(mode),
        resolve,
    };
    let mut tries = 0;
    loop {
        // SAFETY: the path is NUL-terminated; `how` has the layout and the size of struct open_how.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_fd().as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match Errno::result(ret) {
            // SAFETY: a new descriptor, which nobody else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if tries < 128 => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// openat(2) that does not follow a link in the last component. Adds O_CLOEXEC and O_NOCTTY.
pub(crate) fn open(dir: impl AsFd, path: &CStr, flags: c_int) -> Result<OwnedFd> {
    open_follow(dir, path, flags | libc::O_NOFOLLOW)
}

/// openat(2) that follows links: for host paths only.
pub(crate) fn open_follow(dir: impl AsFd, path: &CStr, flags: c_int) -> Result<OwnedFd> {
    open_mode(dir, path, flags, 0)
}

/// openat(2) with O_CREAT|O_EXCL: a new file, never an existing one nor through a link.
pub(crate) fn create(dir: impl AsFd, path: &CStr, flags: c_int, mode: u32) -> Result<OwnedFd> {
    open_mode(
        dir,
        path,
        flags | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW,
        mode,
    )
}

fn open_mode(dir: impl AsFd, path: &CStr, flags: c_int, mode: u32) -> Result<OwnedFd> {
    let fd = dir.as_fd().as_raw_fd();
    loop {
        // SAFETY: the path is NUL-terminated.
        let ret = unsafe {
            libc::openat(
                fd,
                path.as_ptr(),
                flags | libc::O_CLOEXEC | libc::O_NOCTTY,
                mode,
            )
        };
        match Errno::result(ret) {
            // SAFETY: a new descriptor, which nobody else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// mkdirat(2).
pub(crate) fn mkdir(dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is NUL-terminated.
    Errno::result(unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// mknodat(2): `mode` holds type and permissions.
pub(crate) fn mknod(dir: impl AsFd, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: the name is NUL-terminated.
    Errno::result(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode, device) })
        .map(drop)
}

/// symlinkat(2).
pub(crate) fn symlink(target: &CStr, dir: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: both strings are NUL-terminated.
    Errno::result(unsafe {
        libc::symlinkat(target.as_ptr(), dir.as_fd().as_raw_fd(), name.as_ptr())
    })
    .map(drop)
}

/// unlinkat(2) of a file.
pub(crate) fn unlink(dir: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: the name is NUL-terminated.
    Errno::result(unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// readlinkat(2) into `buf`; returns the length. A target that fills the buffer counts as ENAMETOOLONG.
pub(crate) fn readlink(dir: impl AsFd, name: &CStr, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: the name is NUL-terminated; pointer and length describe `buf`.
    let ret = unsafe {
        libc::readlinkat(
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    };
    match Errno::result(ret)? as usize {
        len if len == buf.len() => Err(Errno::ENAMETOOLONG),
        len => Ok(len),
    }
}

/// fchownat(2) with AT_EMPTY_PATH: also of an O_PATH descriptor.
pub(crate) fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the path is an empty NUL-terminated string.
    Errno::result(unsafe {
        libc::fchownat(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            uid,
            gid,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// fchmodat(2) of one name in a directory. It follows a link: use it on a name just created in a directory nobody else writes.
pub(crate) fn chmod(dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is NUL-terminated.
    Errno::result(unsafe { libc::fchmodat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode, 0) })
        .map(drop)
}

/// fstat(2).
pub(crate) fn stat(fd: impl AsFd) -> Result<libc::stat> {
    stat_at(fd, c"", libc::AT_EMPTY_PATH)
}

/// fstatat(2).
pub(crate) fn stat_at(dir: impl AsFd, path: &CStr, flags: c_int) -> Result<libc::stat> {
    let mut buf = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the path is NUL-terminated; `buf` has room for a stat.
    Errno::result(unsafe {
        libc::fstatat(
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            buf.as_mut_ptr(),
            flags,
        )
    })?;
    // SAFETY: the kernel filled it, and every bit pattern of it is valid.
    Ok(unsafe { buf.assume_init() })
}

/// faccessat2(2) with AT_EACCESS (kernel 5.8): what execve will say. By the real ids, access(2) leaves the capabilities of a user that is not
/// root aside.
pub(crate) fn access(path: &CStr, mode: c_int) -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            mode,
            libc::AT_EACCESS,
        )
    };
    match Errno::result(ret) {
        // A filter that is older than the call answers so.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            // SAFETY: the path is NUL-terminated.
            Errno::result(unsafe { libc::access(path.as_ptr(), mode) }).map(drop)
        }
        other => other.map(drop),
    }
}

/// write(2), all of `data` in one call: a partial write counts as EIO, since cgroup and proc files take a value whole.
pub(crate) fn write(fd: impl AsFd, data: &[u8]) -> Result<()> {
    loop {
        // SAFETY: pointer and length describe `data`.
        let ret = unsafe { libc::write(fd.as_fd().as_raw_fd(), data.as_ptr().cast(), data.len()) };
        match Errno::result(ret) {
            Ok(n) if n as usize == data.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// read(2).
pub(crate) fn read(fd: impl AsFd, buf: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: pointer and length describe `buf`.
        let ret = unsafe { libc::read(fd.as_fd().as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        match Errno::result(ret) {
            Ok(n) => return Ok(n as usize),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// fchdir(2).
pub(crate) fn chdir(dir: impl AsFd) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::fchdir(dir.as_fd().as_raw_fd()) }).map(drop)
}

/// chroot(2) to the working directory.
pub(crate) fn chroot_here() -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    Errno::result(unsafe { libc::chroot(c".".as_ptr()) }).map(drop)
}

/// getcwd(2): whether the working directory is reachable from the root. The kernel prefixes the path with `(unreachable)` if not.
pub(crate) fn cwd_is_reachable() -> Result<bool> {
    let mut buf = [0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length describe `buf`. The raw call, since glibc's turns `(unreachable)` into ENOENT or walks up.
    Errno::result(unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) })?;
    Ok(buf[0] == b'/')
}

/// dup3(2) onto a fixed number, which is not CLOEXEC: for standard input, output and error.
pub(crate) fn dup_onto(fd: impl AsFd, number: i32) -> Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }).map(drop)
}

/// memfd_create(2), sealable.
pub(crate) fn memfd(name: &CStr) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fd = Errno::result(unsafe {
        libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fcntl(F_ADD_SEALS).
pub(crate) fn add_seals(fd: impl AsFd, seals: c_int) -> Result<()> {
    // SAFETY: takes an integer.
    Errno::result(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_ADD_SEALS, seals) })
        .map(drop)
}

/// fcntl(F_GET_SEALS).
pub(crate) fn seals(fd: impl AsFd) -> Result<c_int> {
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GET_SEALS) })
}

/// Standard input, output and error. They may be closed: calls on them then say EBADF.
pub(crate) const STDIO: [BorrowedFd<'static>; 3] = [standard(0), standard(1), standard(2)];

const fn standard(number: c_int) -> BorrowedFd<'static> {
    // SAFETY: the number is used as an argument of system calls only, which check it; nobody closes it through this.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// fstat(2) by number, which need not be open.
pub(crate) fn stat_fd(number: c_int) -> Result<libc::stat> {
    let mut buf = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `buf` has room for a stat.
    Errno::result(unsafe { libc::fstat(number, buf.as_mut_ptr()) })?;
    // SAFETY: the kernel filled it, and every bit pattern of it is valid.
    Ok(unsafe { buf.assume_init() })
}

/// getdents64(2) over a whole directory, with the caller's buffer.
pub(crate) fn for_each_entry(
    dir: impl AsFd,
    buffer: &mut [u8],
    mut visit: impl FnMut(&CStr) -> Result<()>,
) -> Result<()> {
    /// Offsets in struct linux_dirent64: the record's length (16 bits), and the NUL-terminated name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    loop {
        // SAFETY: pointer and length describe `buffer`.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                dir.as_fd().as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let filled = Errno::result(ret)? as usize;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..filled];
        while rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            let (entry, next) = rest.split_at_checked(length).ok_or(Errno::EIO)?;
            visit(CStr::from_bytes_until_nul(&entry[NAME..]).map_err(|_| Errno::EIO)?)?;
            rest = next;
        }
    }
}

/// Every open descriptor of this process by its number, but for the one by which they are listed: `directory`, which is self/fd of a procfs.
/// Allocates nothing.
pub(crate) fn for_each_descriptor(
    directory: &OwnedFd,
    mut visit: impl FnMut(c_int) -> Result<()>,
) -> Result<()> {
    let own = directory.as_raw_fd();
    for_each_entry(directory, &mut [0; 4096], |name| {
        let number = name.to_str().ok().and_then(|name| name.parse().ok());
        number
            .filter(|number| *number != own)
            .map_or(Ok(()), &mut visit)
    })
}

/// fcntl(F_DUPFD_CLOEXEC) of a descriptor that is known by its number only, because the caller of this program has left it open.
pub(crate) fn duplicate(number: c_int) -> Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// close(2) of such a descriptor.
pub(crate) fn close_number(number: c_int) {
    // SAFETY: takes no pointers; no value of this program owns what its caller has opened.
    unsafe { libc::close(number) };
}
