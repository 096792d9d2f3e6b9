//! The parent's side of a container process: clones it, serves its requests, and turns its failures into errors.
//!
//! Runs in the runtime command. What precedes the clone is opened by `open` and `reach`; `birth` clones, into the cgroup; `child` talks with
//! init from then on, `failure` turns what that reports into errors, and `id_maps` writes the maps of its user namespace. What init does
//! meanwhile is [`crate::init`]'s; how the two talk is drawn in [`crate::sync`].

mod birth;
mod child;
mod failure;
mod id_maps;
mod open;
mod reach;

pub(crate) use child::Child;
pub(crate) use failure::{hook_error, hook_runs};

use crate::cgroup::Cgroup;
use crate::host::Host;
use crate::init::{self, Files};
use crate::listener::Agent;
use crate::plan::{Plan, Step};
use crate::report::{Context, Error, Kind, Result};
use crate::resctrl::Group;
use crate::sys::mount::fs_magic;
use crate::sys::process::{Cloned, close, set_affinity, set_dumpable, setns};
use crate::sys::{Errno, fs, socket};
use crate::trace::Trace;
use birth::{Home, clone, clone_error};
use id_maps::write_host_file;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// What a process is cloned with, apart from its plan.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) host: &'a Host,
    /// The group it is born in.
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// The process in whose group it is born if `cgroup` takes none: the container's init, which may have moved to a group below.
    pub(crate) beside: Option<i32>,
    /// Its groups in the resctrl file system.
    pub(crate) resctrl: Option<&'a Group>,
    /// The start fifo, O_PATH.
    pub(crate) fifo: Option<OwnedFd>,
    pub(crate) console_socket: Option<OwnedFd>,
    /// Where hooks in the container write to, if not into an error.
    pub(crate) hook_outputs: [Option<OwnedFd>; 2],
    /// Who gets the listener of a seccomp filter that notifies.
    pub(crate) agent: Option<Agent>,
    /// For [`crate::plan::Open::Process`].
    pub(crate) process: Option<OwnedFd>,
    pub(crate) trace: &'a Trace,
    /// The lock on the container's directory: the child must not hold it on.
    pub(crate) lock: Option<BorrowedFd<'a>>,
}

impl<'a> Surroundings<'a> {
    /// Of a process for which there is nothing of this.
    pub(crate) fn none(host: &'a Host, trace: &'a Trace) -> Self {
        Surroundings {
            host,
            cgroup: None,
            beside: None,
            resctrl: None,
            fifo: None,
            console_socket: None,
            hook_outputs: [None, None],
            agent: None,
            process: None,
            trace,
            lock: None,
        }
    }
}

/// Clones the process that carries the plan out. It waits for [`Child::until_created`] or [`Child::until_executed`].
pub(crate) fn spawn(mut plan: Plan, mut around: Surroundings<'_>) -> Result<Child> {
    let (parent_sync, child_sync) = socket::pair().context(|| "create a socket pair")?;
    around.trace.begin("open what the process cannot");
    let mut files = files(&mut plan, &mut around, child_sync)?;
    let times = around.trace.times(&plan)?;
    files.times = times.map(|times| times.words);
    if let Some(slot) = plan.birth.pid_namespace {
        let entered = setns(&files.slots[slot.0], libc::CLONE_NEWPID as u64);
        entered.context(|| "enter the pid namespace for the container's process")?;
    }
    if around.host.sys_admin {
        // The child is, too, from its first moment on: those who share its pid namespace see it before its first step.
        set_dumpable(false).context(|| "hide this process")?;
    }
    let cpus = plan.birth.cpus.take().filter(|cpus| !start_on(cpus));
    let flags = if plan.birth.stage.is_some() {
        0
    } else {
        plan.birth.flags
    };
    let home = Home {
        cgroup: around.cgroup,
        beside: around.beside,
    };
    let has_stage = plan.birth.stage.is_some();
    let nowhere = Home::default();
    // The stage of a new container stays outside: limits may leave room for one process. That of `exec` goes ahead.
    let (first_home, later_home) = match has_stage && around.process.is_none() {
        true => (&nowhere, &home),
        false => (&home, &nowhere),
    };
    around.trace.begin("clone");
    let cloned = clone(flags, first_home).map_err(|errno| clone_error(flags, errno))?;
    let (pid, pidfd) = match cloned.process {
        Cloned::Child => {
            // First of all: while init holds the parent's end, the parent's death is no end of file.
            drop(parent_sync);
            if let Some(lock) = around.lock {
                close(lock.as_raw_fd()).ok(); // it is open
            }
            run_child(&mut plan, files)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    if plan.birth.pid_namespace.is_some() {
        leave_pid_namespace(&files.proc)?;
    }
    drop(files);
    let oom_score_adj = plan.birth.oom_score_adj;
    let mut child = Child {
        times,
        agent: around.agent,
        ..Child::new(pid, pidfd, parent_sync, plan, around.trace)
    };
    let join = Some(first_home).filter(|_| !cloned.in_cgroup);
    let grouped = around.resctrl.map_or(Ok(()), |group| group.add(child.pid));
    grouped
        .and_then(|()| begin(&mut child, oom_score_adj, join, cpus, around.host))
        .and_then(|()| match has_stage {
            true => child.until_born(around.host, later_home),
            false => Ok(()),
        })
        .inspect_err(|_| child.kill())?;
    Ok(child)
}

/// In the child.
fn run_child(plan: &mut Plan, files: Files) -> ! {
    match plan.birth.stage.take() {
        None => init::run(plan, files),
        Some(stage) => init::run_stage(plan, files, &stage),
    }
}

/// What init gets: opened, and taken from `around`.
fn files(plan: &mut Plan, around: &mut Surroundings<'_>, sync: OwnedFd) -> Result<Files> {
    let slots = open::all(&plan.opens, around.process.as_ref(), around.host)?;
    let lent = reach::lent(plan, &slots, around.host)?;
    let lending = match (lent.is_empty(), around.lock) {
        (false, Some(directory)) => {
            plan.birth.stage.get_or_insert_default();
            Some(lending_directory(directory)?)
        }
        _ => None,
    };
    let is_remount = |step: &Step| matches!(step, Step::Mount(mount) if mount.is_remount());
    let own_mounts = match plan.steps.iter().any(is_remount) {
        true => plan.steps.len(),
        false => 0,
    };
    let is_new = plan.birth.stage.is_some() && around.process.is_none();
    let cgroup = around.cgroup.filter(|_| is_new);
    let cgroup = cgroup.map(|cgroup| cgroup.fd().try_clone_to_owned());
    Ok(Files {
        proc: open_proc()?,
        sync,
        slots,
        lent,
        fifo: around.fifo.take(),
        console_socket: around.console_socket.take(),
        cgroup: cgroup
            .transpose()
            .context(|| "duplicate a cgroup's descriptor")?,
        hook_outputs: std::mem::take(&mut around.hook_outputs),
        lending,
        times: None,
        kept: Vec::with_capacity(plan.steps.len()),
        own_mounts: Vec::with_capacity(own_mounts),
        layers: Vec::with_capacity(plan.steps.len()),
    })
}

/// Removed with the container's directory.
fn lending_directory(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let made = match fs::mkdir(directory, c"lent", 0o700) {
        // Nothing stays in it.
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    };
    made.and_then(|()| fs::open(directory, c"lent", libc::O_PATH | libc::O_DIRECTORY))
        .context(|| "make a directory for mount sources in the container's directory")
}

/// Goes on with these CPUs only, which the child inherits. False where this process may use none of them: exclusive to the container's
/// cgroup, they are there only for who is in it.
fn start_on(cpus: &[u64]) -> bool {
    set_affinity(0, cpus).is_ok()
}

/// What must precede init's first step.
fn begin(
    child: &mut Child,
    oom_score_adj: Option<i32>,
    join: Option<&Home<'_>>,
    cpus: Option<Vec<u64>>,
    host: &Host,
) -> Result<()> {
    if let Some(home) = join {
        home.take(child.pid)?;
    }
    if let Some(cpus) = cpus {
        set_affinity(child.pid, &cpus)
            .context(|| "set the initial CPU affinity (execCPUAffinity.initial)")?;
    }
    if let Some(value) = oom_score_adj {
        let written = write_host_file(
            &format!("/proc/{}/oom_score_adj", child.pid),
            &value.to_string(),
        );
        match written {
            // Lowering it needs CAP_SYS_RESOURCE, which an unprivileged user lacks; his container runs without.
            Err(error) if error.errno() == Some(Errno::EACCES) && !host.sys_admin => {
                child.not_given = Some(format!("process.oomScoreAdj {value}: {error}"));
            }
            other => other?,
        }
    }
    child.go()
}

/// The host's procfs, checked to be one.
fn open_proc() -> Result<OwnedFd> {
    let proc = fs::open_follow(fs::CWD, c"/proc", libc::O_PATH | libc::O_DIRECTORY)
        .context(|| "open /proc")?;
    if fs_magic(&proc).context(|| "check /proc")? != libc::PROC_SUPER_MAGIC {
        return Err(Error::new(
            Kind::Unsupported,
            "/proc of the host is not a proc file system",
        ));
    }
    Ok(proc)
}

fn leave_pid_namespace(proc: &OwnedFd) -> Result<()> {
    let own = fs::open_follow(proc, c"self/ns/pid", libc::O_RDONLY)
        .context(|| "open our own pid namespace")?;
    setns(own, libc::CLONE_NEWPID as u64).context(|| "return to our own pid namespace")
}
