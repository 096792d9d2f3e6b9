//! Shuts a process that unpacks or copies in, before it reads a byte: it dies with the daemon's thread, has no network, sees the layer's directory (or what
//! `copy` has made its root) and nothing else, keeps those capabilities that making files takes, and may make only the system calls below.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getppid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::blob::TOTAL;

/// zstd's window and the directories of a large layer take a part of it.
const MEMORY: u64 = 2 << 30;

/// SYS_ADMIN is for attributes of overlayfs (`trusted.`); what else it allows, the filter does not.
const CAPABILITIES: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SYS_ADMIN,
];

pub(super) fn confine(directory: &Path, parent: i32) -> Result<()> {
    apart(parent)?;
    enter(directory).context("make the layer's directory the root")?;
    setrlimit(Resource::RLIMIT_FSIZE, TOTAL, TOTAL).context("limit the size of files")?;
    shut_in(&[])
}

/// It dies with its parent, cannot be traced, and has namespaces of its own.
pub(crate) fn apart(parent: i32) -> Result<()> {
    guard(parent)?;
    umask(Mode::empty());
    let apart = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    nix::sched::unshare(apart).context("unshare")
}

/// What a change of identity undoes.
pub(crate) fn guard(parent: i32) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("die with the daemon")?;
    // Had it died before that call, no signal would come any more.
    ensure!(getppid() == Pid::from_raw(parent), "the daemon is gone");
    nix::sys::prctl::set_dumpable(false).context("refuse to be traced")
}

/// Nothing but making files, and what these calls do besides.
pub(crate) fn shut_in(more: &[i64]) -> Result<()> {
    for (resource, most) in [(Resource::RLIMIT_CORE, 0), (Resource::RLIMIT_AS, MEMORY)] {
        setrlimit(resource, most, most).with_context(|| format!("limit {resource:?}"))?;
    }
    drop_capabilities().context("drop capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    let filter = filter(more).context("make the system call filter")?;
    seccompiler::apply_filter(&filter).context("set the system call filter")
}

/// pivot_root(2) into the directory. By its path, as a descriptor from outside of this mount namespace cannot be mounted.
fn enter(directory: &Path) -> Result<()> {
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    nix::mount::mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?;
    nix::unistd::chdir(directory)?;
    let restricted = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    nix::mount::mount(none, ".", none, restricted, none)?;
    pivot(Path::new("."))?;
    Ok(())
}

/// pivot_root(2) to a mount.
pub(crate) fn pivot(directory: &Path) -> nix::Result<()> {
    nix::unistd::chdir(directory)?;
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

fn drop_capabilities() -> Result<()> {
    let kept: caps::CapsHashSet = CAPABILITIES.into_iter().collect();
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &caps::CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(())
}

/// What else is called ends the process.
fn filter(more: &[i64]) -> Result<BpfProgram> {
    let calls = CALLS.iter().chain(more);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.map(|call| (*call, Vec::new())).collect();
    // Memory that is not executable.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let condition = SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64),
            0,
        )?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

const CALLS: &[i64] = &[
    // The blob, the report, and the files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_ftruncate,
    libc::SYS_fchdir,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_lsetxattr,
    // Memory, and the end.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
