//! Makes sure that no container can reach a writable file of this program.
//!
//! Runs first of all in the commands that put a process into a container. A program in the container may have `/proc/self/exe` as its interpreter:
//! execve then runs this very file, and a process that holds it open can write to it once nobody executes it
//! (CVE-2019-5736). So the program executes itself once more from a read-only mount of its own file, which nobody sees and nobody
//! can make writable; an unprivileged user, who cannot mount, from a sealed copy in memory.

use crate::report::{Context, Error, Kind, Result};
use crate::sys::mount::{
    MountAttr, attach, clone_tree, mount as mount2, mount_flags, mount_setattr,
};
use crate::sys::process::{CStringArray, CloneArgs, Cloned, clone3, exit, fexecve};
use crate::sys::signal::{Exit, wait_pidfd};
use crate::sys::{Errno, fs};
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Returns if the program is sealed; otherwise executes it sealed, which returns only on failure.
pub(crate) fn seal() -> Result<()> {
    let story = || "open /proc/self/exe";
    let exe = fs::open_follow(fs::CWD, c"/proc/self/exe", libc::O_RDONLY).context(story)?;
    if mount_flags(&exe).context(story)? & libc::ST_RDONLY != 0
        || fs::seals(&exe).is_ok_and(|seals| seals & SEALS == SEALS)
    {
        return Ok(());
    }
    let sealed = match read_only_mount(&exe) {
        // Not our mount namespace.
        Err(Errno::EPERM | Errno::EINVAL) => {
            // Neither this user nor anybody in a container of his may write to the file.
            if fs::access(c"/proc/self/exe", libc::W_OK).is_err() {
                return Ok(());
            }
            copy(exe)?
        }
        other => other.context(|| "mount this program read-only")?,
    };
    let strings = |list: &mut dyn Iterator<Item = OsString>| {
        list.map(|s| CString::new(s.into_vec()))
            .collect::<std::result::Result<_, _>>()
    };
    let argv = strings(&mut std::env::args_os());
    let envp = strings(&mut std::env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variable
    }));
    let (Ok(argv), Ok(envp)) = (argv, envp) else {
        return Err(Error::new(
            Kind::System,
            "the arguments of this program contain a NUL byte",
        ));
    };
    let errno = fexecve(
        std::os::fd::AsFd::as_fd(&sealed),
        &CStringArray::new(argv),
        &CStringArray::new(envp),
    );
    Err(Error::os(
        "execute this program from its read-only mount",
        errno,
    ))
}

fn read_only_mount(exe: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
    let mount = clone_tree(exe, c"", false)?;
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
        ..MountAttr::default()
    };
    match mount_setattr(&mount, false, &attr) {
        // KERNEL(5.12): drop this.
        Err(Errno::ENOSYS) => remount_elsewhere(&mount)?,
        other => other?,
    }
    // Executing it would otherwise begin anew for ever.
    match mount_flags(&mount)? & libc::ST_RDONLY {
        0 => Err(Errno::EINVAL),
        _ => Ok(mount),
    }
}

/// Makes a detached mount read-only with mount(2), which wants it attached: in a mount namespace that ends with the process that does it. The
/// mount stays what it has become.
fn remount_elsewhere(mount: &OwnedFd) -> std::result::Result<(), Errno> {
    /// Any file will do that is there and can be mounted on.
    const TARGET: &CStr = c"/proc/version";
    let attach_and_remount = || {
        mount2(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None)?;
        attach(mount, fs::open(fs::CWD, TARGET, libc::O_PATH)?)?;
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID;
        mount2(None, TARGET, None, flags, None)
    };
    let cloned = clone3(CloneArgs {
        flags: libc::CLONE_NEWNS as u64,
        cgroup: None,
    })?;
    match cloned {
        Cloned::Child => exit(attach_and_remount().map_or_else(|errno| errno as i32, |()| 0)),
        Cloned::Parent { pidfd, .. } => match wait_pidfd(&pidfd)?.exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(errno) => Err(Errno::from_raw(errno)),
            Exit::Signal { .. } => Err(Errno::ECHILD),
        },
    }
}

fn copy(exe: OwnedFd) -> Result<OwnedFd> {
    let story = || "copy this program into memory";
    let memfd = fs::memfd(c"caisson").context(story)?;
    let mut target = File::from(memfd);
    std::io::copy(&mut File::from(exe), &mut target).context(story)?;
    fs::add_seals(&target, SEALS).context(story)?;
    // Executing needs a descriptor that is not open for writing.
    let path = CString::new(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&target)
    ))
    .map_err(|_| Error::new(Kind::System, story()))?;
    fs::open_follow(fs::CWD, &path, libc::O_RDONLY).context(story)
}
