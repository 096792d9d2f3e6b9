//! Init: the process between clone and exec, which interprets the plan.
//!
//! Runs in the child, a copy of the runtime command with one thread. It does not allocate, log, read the config or touch the container's
//! directory: all it needs was prepared before the clone. It reports one record and exits if a step fails; what the
//! record means is the parent's business ([`crate::spawn`]). Below the root descriptor it uses no path string: see [`root`].

mod console;
mod copy_up;
mod devices;
mod exec;
mod hook;
mod identity;
mod landlock;
mod lend;
mod mount;
mod overlay;
mod restrict;
mod root;
mod rootfs;

use crate::plan::{Exec, Op, Plan, Request, Slot, Stage, Step};
use crate::sync::{self, Failure, Message, STAGE, TEXT};
use crate::sys::clock::monotonic_us;
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{Errno, cred};
use root::Root;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The descriptors that the parent opened for init.
#[derive(Debug)]
pub(crate) struct Files {
    /// The host's procfs, verified. Attributes and sysctls are written through it, never through the container's /proc (CVE-2025-52881).
    pub(crate) proc: OwnedFd,
    /// Init's end of the socket pair.
    pub(crate) sync: OwnedFd,
    /// What [`Plan::opens`] names.
    pub(crate) slots: Vec<OwnedFd>,
    /// The slots of mount sources that the stage lends.
    pub(crate) lent: Vec<Slot>,
    /// The start fifo, O_PATH.
    pub(crate) fifo: Option<OwnedFd>,
    /// The group that the stage clones init into.
    pub(crate) cgroup: Option<OwnedFd>,
    /// Where the pty's master goes; without, it goes to the parent.
    pub(crate) console_socket: Option<OwnedFd>,
    /// An empty directory to lend mount sources in.
    pub(crate) lending: Option<OwnedFd>,
    /// Where hooks' standard output and error go, if not into a failure.
    pub(crate) hook_outputs: [Option<OwnedFd>; 2],
    /// How many mounts and masks init will keep open at most: room is reserved before the clone.
    pub(crate) kept: Vec<OwnedFd>,
    /// The ids of mounts whose file system is the container's alone, if one of them is remounted: room is reserved for these, too.
    pub(crate) own_mounts: Vec<u64>,
    /// Where the time goes at which each step begins, if the command traces.
    pub(crate) times: Option<&'static [AtomicU64]>,
    /// The directories of an overlay root. Room is reserved as well.
    pub(crate) layers: Vec<OwnedFd>,
}

impl Files {
    /// A mount source that the stage has lent; None if it had no need to.
    fn lent(&self, slot: Option<Slot>) -> Option<Result<OwnedFd, Errno>> {
        let slot = slot.filter(|slot| self.lent.contains(slot))?;
        let copy = self.slots[slot.0].try_clone();
        Some(copy.map_err(|_| Errno::EMFILE))
    }
}

/// Why a step failed.
#[derive(Debug)]
pub(crate) struct Fail {
    op: Op,
    errno: Errno,
    detail: i32,
    text_len: usize,
    text: [u8; TEXT],
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Fail {
            op: Op::Whole,
            errno,
            detail: 0,
            text_len: 0,
            text: [0; TEXT],
        }
    }
}

/// What the steps return.
type Done<T = ()> = Result<T, Fail>;

/// Names the part of the step that failed.
trait At<T> {
    fn at(self, op: Op) -> Done<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, op: Op) -> Done<T> {
        self.map_err(|errno| Fail {
            op,
            ..Fail::from(errno)
        })
    }
}

/// Init's state while it walks the plan.
#[derive(Debug)]
struct Init {
    files: Files,
    root: Option<Root>,
    masks: rootfs::Masks,
    /// The working directory, opened before the identity changes.
    cwd: Option<OwnedFd>,
    /// Where failures go: the socket, later the start fifo.
    fifo: Option<OwnedFd>,
    /// Those of the host are still open.
    has_files: bool,
    /// The caller's, for hooks that run before the container's own is set.
    umask: u32,
    /// The place of the program among the candidates.
    program: usize,
}

/// Runs the plan in the new process. Never returns: it ends in execve or in exit.
pub(crate) fn run(plan: &mut Plan, files: Files) -> ! {
    // The first thing, so that nobody is left behind; the parent's death before is seen as end of file below.
    let guarded = process::set_parent_death_signal(libc::SIGKILL);
    process::set_name(c"caisson:[INIT]").ok(); // only for ps
    let umask = process::umask(0);
    let begun = guarded.and_then(|()| sync::await_go(&files.sync));
    if let Err(errno) = begun {
        fail(
            &files.sync,
            None,
            0,
            &Fail {
                op: Op::Protocol,
                ..Fail::from(errno)
            },
        );
    }
    let Plan { steps, exec, .. } = plan;
    let mut init = Init {
        files,
        root: None,
        masks: rootfs::Masks::default(),
        cwd: None,
        fifo: None,
        has_files: true,
        umask,
        program: 0,
    };
    for (number, step) in steps.iter().enumerate() {
        if let Some(time) = init.files.times.and_then(|times| times.get(number)) {
            time.store(monotonic_us(), Relaxed);
        }
        if let Err(cause) = init.apply(step, exec) {
            // Who reads the fifo does not know the plan, but how it ends.
            let step = if init.fifo.is_some() {
                steps.len() - number
            } else {
                number
            };
            fail(&init.files.sync, init.fifo.as_ref(), step as u32, &cause);
        }
    }
    process::exit(0)
}

/// Runs the stage: joins or makes what init must be born into, then clones init as the parent's child and ends.
pub(crate) fn run_stage(plan: &mut Plan, mut files: Files, stage: &Stage) -> ! {
    let guarded = process::set_parent_death_signal(libc::SIGKILL);
    process::set_name(c"caisson:[STAGE]").ok(); // only for ps
    let done = guarded
        .and_then(|()| sync::await_go(&files.sync))
        .at(Op::Protocol)
        .and_then(|()| prepare_birth(stage, &mut files))
        .and_then(|()| hide_from_birth(plan, stage))
        .and_then(|()| give_birth(plan.birth.flags, files.cgroup.as_ref()).at(Op::Clone));
    match done {
        Ok((Cloned::Child, _)) => {
            files.cgroup = None;
            match lend::take(&mut files) {
                Ok(()) => run(plan, files),
                Err(cause) => fail(&files.sync, None, STAGE, &cause),
            }
        }
        Ok((Cloned::Parent { pid, .. }, in_cgroup)) => {
            // The parent sees the end of file if this cannot be told.
            sync::tell(&files.sync, &Message::Born { pid, in_cgroup }).ok();
            process::exit(0)
        }
        Err(cause) => fail(&files.sync, None, STAGE, &cause),
    }
}

/// Clones init as the parent's child, and into the cgroup if root of the namespaces that the stage is in may do that. Says whether it is there.
fn give_birth(flags: u64, cgroup: Option<&OwnedFd>) -> Result<(Cloned, bool), Errno> {
    let clone = |cgroup: Option<&OwnedFd>| {
        process::clone3(CloneArgs {
            flags: flags | libc::CLONE_PARENT as u64,
            cgroup: cgroup.map(AsFd::as_fd),
        })
    };
    match clone(cgroup) {
        // As in the command, which then moves it; or the stage is in a user namespace whose root may not, or in a cgroup namespace that
        // it was not born in (ENOENT).
        Err(Errno::EOPNOTSUPP | Errno::EBUSY | Errno::E2BIG | Errno::EACCES | Errno::ENOENT)
            if cgroup.is_some() =>
        {
            Ok((clone(None)?, false))
        }
        cloned => Ok((cloned?, cgroup.is_some())),
    }
}

fn prepare_birth(stage: &Stage, files: &mut Files) -> Done {
    if !files.lent.is_empty() {
        lend::place(files)?;
    }
    // Root of another user namespace may not open what belongs to a process that is not dumpable, but the kernel asks for the rights of who opened.
    let offsets = match &stage.time_offsets {
        Some(text) => Some((
            restrict::open_proc(&files.proc, c"self/timens_offsets")?,
            text,
        )),
        None => None,
    };
    for join in &stage.join {
        process::setns(&files.slots[join.slot.0], join.flags).map_err(|errno| Fail {
            op: Op::Join,
            detail: join.flags as i32,
            ..Fail::from(errno)
        })?;
    }
    if stage.new_user {
        process::unshare(libc::CLONE_NEWUSER as u64)?;
        ask(&files.sync, Request::IdMaps)?;
    }
    if stage.new_user || stage.become_root {
        identity::take_root(stage.otherwise)?;
    }
    if let Some((file, text)) = offsets {
        process::unshare(crate::plan::namespaces::CLONE_NEWTIME as u64)?;
        crate::sys::fs::write(file, text.to_bytes()).at(Op::Write)?;
    }
    Ok(())
}

/// Whoever is in the pid namespace already sees init from its first moment on. Unless an unprivileged parent has to write its id maps, it
/// is born as what it will be: not dumpable.
fn hide_from_birth(plan: &Plan, stage: &Stage) -> Done {
    if plan.birth.id_maps.is_none() || stage.new_user {
        process::set_dumpable(false)?;
    }
    Ok(())
}

/// Reports the failure to whoever waits for init, and ends.
fn fail(socket: &OwnedFd, fifo: Option<&OwnedFd>, step: u32, cause: &Fail) -> ! {
    let failure = Failure {
        step,
        op: cause.op as u32,
        errno: cause.errno as i32,
        detail: cause.detail,
        text_len: cause.text_len as u32,
        text: cause.text,
    };
    let message = Message::Failed(failure);
    // Nobody is left to tell if this fails.
    match fifo {
        Some(fifo) => crate::sys::fs::write(fifo, &sync::encode(&message)).ok(),
        None => sync::tell(socket, &message).ok(),
    };
    process::exit(1)
}

fn ask(socket: &OwnedFd, request: Request) -> Done {
    sync::tell(socket, &Message::Ask(request)).at(Op::Protocol)?;
    sync::await_go(socket).at(Op::Protocol)
}

impl Init {
    fn root(&self) -> Done<&Root> {
        self.root.as_ref().ok_or(Errno::ENOENT).at(Op::Resolve)
    }

    fn apply(&mut self, step: &Step, exec: &mut Exec) -> Done {
        match step {
            Step::Ask(request) => ask(&self.files.sync, *request)?,
            Step::Join(join) => process::setns(&self.files.slots[join.slot.0], join.flags)?,
            Step::Unshare(flags) => process::unshare(*flags)?,
            Step::BecomeRoot { otherwise } => identity::become_root(*otherwise)?,
            Step::NotDumpable => process::set_dumpable(false)?,
            Step::Cpus(cpus) => run_on(cpus.as_deref())?,
            // A process that leads its group already has a session to keep only if it is a session leader: never after clone.
            Step::NewSession => nix::unistd::setsid().map(drop)?,
            Step::Keyring(name) => identity::join_keyring(name)?,
            Step::LoopbackUp => crate::sys::net::loopback_up()?,
            Step::Umask(mask) => drop(process::umask(*mask)),
            Step::CloseRoot => self.root = None,
            Step::AwaitStart => self.await_start()?,
            Step::Home { uid } => self.find_home(*uid, exec)?,
            Step::LookUp => self.look_up(exec)?,
            Step::CloseFrom { first, last } => self.close_from(*first, *last)?,
            Step::Pass(number) => process::clear_cloexec(*number)?,
            Step::Reopen { path, number } => exec::reopen(path, *number)?,
            Step::Converse(number) => exec::converse(*number)?,
            Step::ResetSignals => Init::reset_signals()?,
            Step::EndAtSignals => crate::sys::signal::end_when_asked()?,
            Step::Exec => self.execute(exec)?,
            Step::Hook(call) => {
                let umask = (call.kind == "createContainer").then_some(self.umask);
                hook::run(call, &exec.envp, umask, &self.files, self.fifo.as_ref())?;
            }
            Step::Landlock(ruleset) => landlock::apply(ruleset, self.root()?, &self.files)?,
            _ => return self.apply_to_files(step),
        }
        Ok(())
    }

    /// The steps that concern the container's file system.
    fn apply_to_files(&mut self, step: &Step) -> Done {
        match step {
            Step::UseRoot => self.root = Some(Root::here()?),
            Step::Propagation(flags) => crate::sys::mount::mount(None, c"/", None, *flags, None)?,
            Step::RootParentPrivate(path) => rootfs::make_parent_private(path)?,
            Step::OpenLayer(path) => self.files.layers.push(overlay::open(path)?),
            Step::Root(root) => {
                self.root = Some(rootfs::mount_root(root, &self.files)?);
                self.files.layers.clear();
            }
            Step::LeaveRoot(path) => self.leave_root(path)?,
            Step::Mount(mount) => self.mount(mount)?,
            Step::Unmount(path) => self.unmount(path)?,
            Step::Device(device) => devices::create(self.root()?, device)?,
            Step::Symlink { target, path } => devices::link(self.root()?, target, path)?,
            Step::MaskSources => self.masks.open_null()?,
            Step::EnterRoot => crate::sys::fs::chdir(self.root()?)?,
            Step::PivotRoot => rootfs::pivot(self.root()?)?,
            Step::MoveRoot => rootfs::move_root(self.root()?)?,
            Step::Chroot => rootfs::chroot(self.root()?)?,
            Step::ChrootInto(slot) => rootfs::chroot(&self.files.slots[slot.0])?,
            Step::RootPropagation(flags) => {
                crate::sys::mount::mount(None, c"/", None, *flags, None)?
            }
            Step::ReopenNull => devices::reopen_null(self.root()?, &self.files)?,
            Step::MakeDirectory(path) => self.root()?.make_directory(path).map(drop)?,
            Step::Console(console) => console::set_up(self.root()?, console, &self.files)?,
            Step::LateReadonly => self.late_readonly()?,
            Step::RootReadonly => self.root_readonly()?,
            Step::Restrict { path, attributes } => {
                rootfs::restrict(self.root()?, path, *attributes, &self.files)?;
            }
            Step::ReadonlyPath(path) => rootfs::make_readonly(self.root()?, path, &self.files)?,
            Step::MaskedPath(path) => {
                let root = self.root.as_ref().ok_or(Errno::ENOENT)?;
                self.masks.cover(root, path, &self.files)?;
            }
            Step::MaskedAgain(path) => {
                let root = self.root.as_ref().ok_or(Errno::ENOENT)?;
                self.masks.cover_again(root, path, &self.files)?;
            }
            _ => return self.apply_to_process(step),
        }
        Ok(())
    }

    /// The steps that concern the process itself.
    fn apply_to_process(&mut self, step: &Step) -> Done {
        let proc = &self.files.proc;
        match step {
            Step::Hostname(name) => nix::unistd::sethostname(os(name))?,
            Step::Domainname(name) => restrict::set_domainname(name)?,
            Step::Apparmor(profile) => restrict::apparmor(proc, profile)?,
            Step::Selinux(label) => {
                restrict::write_proc(proc, c"self/attr/exec", label.to_bytes())?
            }
            Step::Sysctl { path, value, .. } => restrict::write_proc(proc, path, value.to_bytes())?,
            Step::NoNewPrivileges => process::set_no_new_privs()?,
            Step::Scheduler(attr) => process::set_sched_attr(attr)?,
            Step::IoPriority(value) => process::set_ioprio(*value)?,
            Step::Personality(value) => process::set_personality(*value)?,
            Step::MemoryPolicy { mode, nodes } => process::set_mempolicy(*mode, nodes)?,
            Step::Rlimit(limit) => process::set_rlimit(0, limit.resource, limit.soft, limit.hard)?,
            // The parent has a copy of a listener by now. Ours is closed: while we have one, calls wait for an agent that is gone.
            Step::Seccomp(filter) => {
                cred::load_seccomp(&filter.program, filter.flags).map(drop)?;
            }
            Step::Chdir { path, last } => self.change_directory(path, *last)?,
            Step::BoundingSet(keep) => identity::limit_bounding_set(*keep)?,
            Step::ChownStdio { uid, files } => identity::chown_stdio(*uid, *files)?,
            Step::Groups(groups) => identity::set_groups(proc, groups)?,
            Step::Ids { uid, gid } => identity::become_user(*uid, *gid)?,
            Step::Caps(sets) => cred::set_caps(sets)?,
            Step::Ambient(mask) => identity::raise_ambient(*mask)?,
            _ => return Err(Fail::from(Errno::ENOSYS)),
        }
        Ok(())
    }
}

/// The CPUs to run on. Without a list all that the cgroup has, whatever the caller was limited to: since Linux 6.2, a process that comes
/// into a cgroup keeps a limit of its own. Where that cannot be, the kernel has chosen already.
fn run_on(cpus: Option<&[u64]>) -> Done {
    /// As many as a kernel can have (CONFIG_NR_CPUS); it takes those that there are.
    const ALL: [u64; 128] = [u64::MAX; 128];
    match cpus {
        Some(cpus) => Ok(process::set_affinity(0, cpus)?),
        None => {
            process::set_affinity(0, &ALL).ok(); // see above
            Ok(())
        }
    }
}

/// The bytes of a C string as the operating system's string type.
fn os(text: &std::ffi::CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text.to_bytes())
}

/// A formatted number in a buffer on the stack, where init needs one in a path.
struct Digits {
    buffer: [u8; 32],
    length: usize,
}

impl Digits {
    /// `prefix` and the number, NUL-terminated. The prefix is a literal of at most 16 bytes.
    fn new(prefix: &str, number: u32, radix: u32) -> Self {
        let mut digits = Digits {
            buffer: [0; 32],
            length: prefix.len(),
        };
        digits.buffer[..prefix.len()].copy_from_slice(prefix.as_bytes());
        let mut place = 1u32;
        while number / place >= radix {
            place *= radix;
        }
        while place > 0 {
            digits.buffer[digits.length] = b'0' + (number / place % radix) as u8;
            digits.length += 1;
            place /= radix;
        }
        digits
    }

    /// The path of an open descriptor below a procfs.
    fn fd_path(fd: BorrowedFd<'_>) -> Self {
        use std::os::fd::AsRawFd;
        Digits::new("self/fd/", fd.as_raw_fd().cast_unsigned(), 10)
    }

    fn as_c_str(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.buffer).unwrap_or_default()
    }
}

/// Runs a call that takes a path on a descriptor instead: through the procfs descriptor as working directory, so that no path of the
/// container is walked. For the mount calls that have no form with descriptors.
fn with_fd_path<T>(
    files: &Files,
    fd: impl AsFd,
    call: impl FnOnce(&std::ffi::CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    crate::sys::fs::chdir(&files.proc)?;
    call(Digits::fd_path(fd.as_fd()).as_c_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_formatted_without_allocation() {
        assert_eq!(Digits::new("self/fd/", 0, 10).as_c_str(), c"self/fd/0");
        assert_eq!(
            Digits::new("self/fd/", 1_048_575, 10).as_c_str(),
            c"self/fd/1048575"
        );
        assert_eq!(Digits::new("0", 0o1777, 8).as_c_str(), c"01777");
        assert_eq!(Digits::new("", u32::MAX, 10).as_c_str(), c"4294967295");
    }
}
