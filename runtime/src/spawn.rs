//! The parent's side of a container process: clones it, serves its requests, and turns its failures into errors.
//!
//! Runs in the runtime command. What init does meanwhile is [`crate::init`]'s; how the two talk is drawn in [`crate::sync`].

mod open;
mod reach;

use crate::cgroup::Cgroup;
use crate::foreground::Terminal;
use crate::host::Host;
use crate::init::{self, Files};
use crate::listener::Agent;
use crate::network::{self, Moved};
use crate::plan::namespaces::{IdMap, IdMaps, map_text};
use crate::plan::net_devices::NetDevice;
use crate::plan::{Exec, HookCall, Op, Plan, Request, Rlimit, Step, process};
use crate::report::{Context, Error, Kind, Result};
use crate::resctrl::Group;
use crate::sync::{self, Failure, Message, STAGE};
use crate::sys::mount::fs_magic;
use crate::sys::process::{
    CloneArgs, Cloned, clone3, pidfd_open, set_affinity, set_dumpable, set_rlimit, setns,
};
use crate::sys::signal::{Exit, wait_pidfd};
use crate::sys::{Errno, fs, socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
    pub(crate) signal_mask: SigSet,
    /// The lock on the container's directory: the child must not hold it on.
    pub(crate) lock: Option<BorrowedFd<'a>>,
}

/// A container process that was cloned, from the outside.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The pty's master, if the process has a terminal and no console socket was given.
    pub(crate) terminal: Option<Terminal>,
    sync: OwnedFd,
    /// The same plan that the child has, for messages.
    steps: Vec<Step>,
    program: String,
    rlimits: Vec<Rlimit>,
    net_devices: Vec<NetDevice>,
    /// Those that are in the container's network namespace by now.
    moved: Option<Moved>,
    id_maps: Option<IdMaps>,
    agent: Option<Agent>,
    /// It is the stage still: `pid` becomes init's when that is born.
    is_stage: bool,
    executing: bool,
}

/// Clones the process that carries the plan out. It waits for [`Child::until_created`] or [`Child::until_executed`].
pub(crate) fn spawn(mut plan: Plan, mut around: Surroundings<'_>) -> Result<Child> {
    let (parent_sync, child_sync) = socket::pair().context(|| "create a socket pair")?;
    let files = files(&mut plan, &mut around, child_sync)?;
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
    let cloned = clone(flags, &home).map_err(|errno| clone_error(flags, errno))?;
    let (pid, pidfd) = match cloned.process {
        Cloned::Child => {
            // First of all: while init holds the parent's end, the parent's death is no end of file.
            drop(parent_sync);
            if let Some(lock) = around.lock {
                fs::close(lock);
            }
            if files.fifo.is_some() {
                init::close_others(&plan, &files);
            }
            match plan.birth.stage.take() {
                None => init::run(&mut plan, files),
                Some(stage) => init::run_stage(&mut plan, files, &stage),
            }
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    if plan.birth.pid_namespace.is_some() {
        leave_pid_namespace(&files.proc)?;
    }
    drop(files);
    let child = Child {
        pid,
        pidfd,
        terminal: None,
        sync: parent_sync,
        steps: plan.steps,
        program: program(&plan.exec),
        rlimits: plan.rlimits,
        net_devices: plan.net_devices,
        moved: None,
        id_maps: plan.birth.id_maps,
        agent: around.agent,
        is_stage: plan.birth.stage.is_some(),
        executing: false,
    };
    let join = Some(&home).filter(|_| !cloned.in_cgroup);
    let grouped = around.resctrl.map_or(Ok(()), |group| group.add(child.pid));
    grouped
        .and_then(|()| begin(&child, plan.birth.oom_score_adj, join, cpus, around.host))
        .inspect_err(|_| child.kill())?;
    Ok(child)
}

/// What init gets: opened, and taken from `around`.
fn files(plan: &mut Plan, around: &mut Surroundings<'_>, sync: OwnedFd) -> Result<Files> {
    let lent = reach::unreachable(plan, around.host);
    let lending = match (lent.is_empty(), around.lock) {
        (false, Some(directory)) => {
            plan.birth.stage.get_or_insert_default().lent = lent;
            Some(lending_directory(directory)?)
        }
        _ => None,
    };
    Ok(Files {
        proc: open_proc()?,
        sync,
        slots: open::all(&plan.opens, around.process.as_ref(), around.host)?,
        fifo: around.fifo.take(),
        console_socket: around.console_socket.take(),
        hook_outputs: std::mem::take(&mut around.hook_outputs),
        signal_mask: around.signal_mask,
        lending,
        kept: Vec::with_capacity(plan.steps.len()),
        layers: Vec::with_capacity(plan.steps.len()),
    })
}

/// Removed with the container's directory.
fn lending_directory(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    fs::mkdir(directory, c"lent", 0o700)
        .and_then(|()| fs::open(directory, c"lent", libc::O_PATH | libc::O_DIRECTORY))
        .context(|| "make a directory for mount sources in the container's directory")
}

/// Where clone3 returned, and whether the new process is in the cgroup already.
struct Birth {
    process: Cloned,
    in_cgroup: bool,
}

/// Where a process is to be.
struct Home<'a> {
    cgroup: Option<&'a Cgroup>,
    beside: Option<i32>,
}

impl Home<'_> {
    /// Moves a process there.
    fn take(&self, pid: i32) -> Result<()> {
        /// How often init may move on while it is followed.
        const TRIES: usize = 10;
        let Some(cgroup) = self.cgroup else {
            return Ok(());
        };
        let pid = nix::unistd::Pid::from_raw(pid);
        let mut added = cgroup.add(pid, &[]);
        for _ in 0..TRIES {
            let (Some(init), Err(error)) = (self.beside, &added) else {
                break;
            };
            let refused = matches!(
                error.errno(),
                Some(Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENODEV)
            );
            if !refused {
                break;
            }
            added = cgroup.of(init).and_then(|group| group.add(pid, &[]));
        }
        added
    }
}

/// Directly into the cgroup where the kernel can; else the caller moves the process before it begins.
fn clone(flags: u64, home: &Home<'_>) -> std::result::Result<Birth, Errno> {
    let clone_into = |cgroup: Option<&Cgroup>| {
        clone3(CloneArgs {
            flags,
            cgroup: cgroup.map(Cgroup::fd),
        })
    };
    let born = |process, in_cgroup| Birth { process, in_cgroup };
    match clone_into(home.cgroup) {
        // The group's children have the controllers, so it takes no process itself: whoever gave them these has moved init below.
        Err(Errno::EBUSY) if home.beside.is_some() => {
            let group = home.cgroup.zip(home.beside);
            let group = group.and_then(|(cgroup, init)| cgroup.of(init).ok());
            match group.map(|group| clone_into(Some(&group))) {
                // It has moved on: it is followed once the process exists.
                None
                | Some(Err(Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::ENODEV)) => {
                    Ok(born(clone_into(None)?, false))
                }
                // Not after EAGAIN: pids.max holds for processes that are born in a group, not for those that are moved there.
                Some(process) => Ok(born(process?, true)),
            }
        }
        // A threaded group, a group as above, a kernel before 5.7, or one where we may only migrate.
        Err(Errno::EOPNOTSUPP | Errno::EBUSY | Errno::E2BIG | Errno::EACCES)
            if home.cgroup.is_some() =>
        {
            Ok(born(clone_into(None)?, false))
        }
        process => Ok(born(process?, home.cgroup.is_some())),
    }
}

/// Goes on with these CPUs only, which the child inherits. False where this process may use none of them: exclusive to the container's
/// cgroup, they are there only for who is in it.
fn start_on(cpus: &[u64]) -> bool {
    set_affinity(0, cpus).is_ok()
}

/// What must precede init's first step.
fn begin(
    child: &Child,
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
            Err(error) if error.errno() == Some(Errno::EACCES) && !host.sys_admin => {}
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

/// Names the limit that is the likely reason, since the kernel's ENOSPC and EPERM name none.
fn clone_error(flags: u64, errno: Errno) -> Error {
    let names = crate::plan::names(flags);
    let story = match names.is_empty() {
        true => "clone the container's process".to_owned(),
        false => format!("clone the container's process into new namespaces ({names})"),
    };
    let hint = match errno {
        Errno::ENOSPC => {
            " (a limit in /proc/sys/user/max_*_namespaces is reached, or namespaces are nested too deeply)"
        }
        Errno::EPERM if flags & libc::CLONE_NEWUSER as u64 != 0 => {
            " (user namespaces may be forbidden: see kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        }
        Errno::EAGAIN => {
            " (a limit on the number of processes is reached: RLIMIT_NPROC, kernel.pid_max or pids.max)"
        }
        Errno::EINVAL => " (a kind of namespace may be missing in this kernel)",
        _ => "",
    };
    Error::os(story + hint, errno)
}

fn program(exec: &Exec) -> String {
    exec.argv
        .strings()
        .first()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn write_host_file(path: &str, value: &str) -> Result<()> {
    let open = || -> std::io::Result<()> {
        use std::io::Write;
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(value.as_bytes())
    };
    open().context(|| format!("write {value:?} to {path}"))
}

impl Child {
    /// Serves init until the container is created and init waits for the word to start. `hooks` runs the hooks of the runtime namespace;
    /// `warn` is told of those in the container that take long.
    pub(crate) fn until_created(
        &mut self,
        host: &Host,
        mut hooks: impl FnMut(i32) -> Result<()>,
        warn: &dyn Fn(String),
    ) -> Result<()> {
        loop {
            match self.next(warn)? {
                Some(Message::Ask(Request::Start)) => return Ok(()),
                Some(Message::Ask(Request::Hooks)) => hooks(self.pid)?,
                Some(Message::Ask(Request::NetDevices)) => {
                    self.moved = Some(network::move_devices(&self.net_devices, self.pid)?);
                }
                Some(Message::Ask(request)) => self.serve(request, host)?,
                _ => return Err(self.unexpected()),
            }
            self.go()?;
        }
    }

    /// Lets a created container's init go on to the start fifo.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.go()
    }

    /// Lets init go on, and waits until the program runs.
    pub(crate) fn start(&mut self, host: &Host, warn: &dyn Fn(String)) -> Result<()> {
        self.go()?;
        self.until_executed(host, warn)?;
        // They would keep the container's network namespace for as long as a foreground command lives.
        self.moved = None;
        Ok(())
    }

    /// Serves init until the program runs.
    pub(crate) fn until_executed(&mut self, host: &Host, warn: &dyn Fn(String)) -> Result<()> {
        loop {
            match self.next(warn)? {
                None => return Ok(()),
                Some(Message::Ask(request @ (Request::Rlimits | Request::IdMaps))) => {
                    self.serve(request, host)?;
                    self.go()?;
                }
                Some(_) => return Err(self.unexpected()),
            }
        }
    }

    /// Kills init and reaps it, and takes its network devices back. For a container that failed to be created.
    pub(crate) fn kill(&self) {
        // Before its namespace ends, which would take virtual devices with it.
        self.moved.iter().for_each(Moved::undo);
        crate::sys::process::pidfd_send_signal(&self.pidfd, libc::SIGKILL).ok(); // dead already
        wait_pidfd(&self.pidfd).ok(); // reaped already
    }

    fn go(&self) -> Result<()> {
        match sync::go(&self.sync) {
            Err(Errno::EPIPE) => Ok(()), // the next message or its absence tells why
            other => other.context(|| "talk to the container's process"),
        }
    }

    /// The next message that is the caller's business. None: the program runs.
    fn next(&mut self, warn: &dyn Fn(String)) -> Result<Option<Message>> {
        let story = || "hear from the container's process";
        loop {
            if self.is_stage && !self.stage_speaks().context(story)? {
                return Err(self.died());
            }
            let (message, fd) = match sync::next(&self.sync).context(story)? {
                Some(message) => message,
                None if self.executing => return Ok(None),
                None => return Err(self.died()),
            };
            match message {
                Message::Born { pid } => self.adopt(pid)?,
                Message::Terminal => {
                    self.terminal = fd.map(Terminal::new).transpose()?;
                    self.go()?;
                }
                Message::Ask(Request::Listener) => {
                    let agent = self.agent.take().ok_or_else(|| self.unexpected())?;
                    agent.serve(self.pid, &self.pidfd, || self.go())?;
                }
                Message::HookRuns { start, index } => {
                    let kind = if start {
                        "startContainer"
                    } else {
                        "createContainer"
                    };
                    let is = |call: &HookCall| call.kind == kind && call.index == index as usize;
                    let hook = self.steps.iter().find_map(|step| match step {
                        Step::Hook(call) if is(call) => Some(call),
                        _ => None,
                    });
                    let hook = hook.ok_or_else(|| self.unexpected())?;
                    warn(hook_runs(
                        kind,
                        index as usize,
                        &hook.path.to_string_lossy(),
                    ));
                }
                Message::Executing => self.executing = true,
                Message::Failed(failure) => return Err(self.failed(&failure)),
                Message::Ask(_) => return Ok(Some(message)),
            }
        }
    }

    /// Waits for a message of the stage's. False if it has died, which is no end of file once init, too, has its end of the socket.
    fn stage_speaks(&self) -> crate::sys::Result<bool> {
        let sync = || PollFd::new(self.sync.as_fd(), PollFlags::POLLIN);
        let end = || PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN);
        while let Err(errno) = poll(&mut [sync(), end()], PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        // Looked at after its end: all it had to say is there.
        if poll(&mut [sync()], PollTimeout::ZERO)? > 0 {
            return Ok(true);
        }
        // An init whose pid we were not told waits for Go. It sees the end of file instead and ends, which is one here.
        shutdown(self.sync.as_raw_fd(), Shutdown::Write)?;
        while sync::next(&self.sync)?.is_some() {}
        Ok(false)
    }

    /// The stage has given birth and ends.
    fn adopt(&mut self, pid: i32) -> Result<()> {
        if !std::mem::take(&mut self.is_stage) {
            return Err(self.unexpected());
        }
        // It is our child and nobody has reaped it, so the number is its own.
        let init = pidfd_open(pid).context(|| format!("open process {pid}"))?;
        let stage = std::mem::replace(&mut self.pidfd, init);
        self.pid = pid;
        wait_pidfd(&stage).context(|| "reap the process between")?;
        // What precedes its first step was done to the stage, and it has inherited that.
        self.go()
    }

    fn serve(&self, request: Request, host: &Host) -> Result<()> {
        match (request, &self.id_maps) {
            (Request::IdMaps, Some(maps)) => write_id_maps(self.pid, maps, host),
            (Request::Rlimits, _) => self.rlimits.iter().try_for_each(|limit| {
                set_rlimit(self.pid, limit.resource, limit.soft, limit.hard)
                    .context(|| Step::Rlimit(*limit).to_string())
            }),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> Error {
        Error::new(
            Kind::System,
            "the container's process sent what it should not",
        )
    }

    /// Init ended without a word: its status, and what the kernel counted, say why.
    fn died(&self) -> Error {
        let how = match wait_pidfd(&self.pidfd).map(|exited| exited.exit) {
            Ok(Exit::Code(code)) => format!("exited with status {code}"),
            Ok(Exit::Signal { number, .. }) => format!("was killed by signal {number}"),
            Err(errno) => format!("ended ({})", errno.desc()),
        };
        Error::new(
            Kind::System,
            format!("the container's process {how} during its set-up"),
        )
    }

    fn failed(&self, failure: &Failure) -> Error {
        let errno = Errno::from_raw(failure.errno);
        let op = Op::from_number(failure.op);
        let Some(step) = self.steps.get(failure.step as usize) else {
            let what = if failure.step == STAGE {
                "join the container's namespaces"
            } else {
                "set the container up"
            };
            return Error::os(with_op(what.to_owned(), op), errno);
        };
        match (step, op) {
            (Step::LookUp | Step::Exec, _) => process::exec_error(&self.program, op, errno),
            (Step::Hook(call), _) => {
                hook_error(call.kind, call.index, &call.path.to_string_lossy(), failure)
            }
            (_, Op::Unreachable) => Error::new(
                Kind::System,
                format!("{step}: {}", op.text().unwrap_or_default()),
            ),
            _ => {
                let text = failure.text();
                let story = with_op(step.to_string(), op);
                Error::os(
                    if text.is_empty() {
                        story
                    } else {
                        format!("{story} ({text})")
                    },
                    errno,
                )
            }
        }
    }
}

fn with_op(story: String, op: Op) -> String {
    match op.text() {
        Some(text) => format!("{story}: {text}"),
        None => story,
    }
}

/// In the form of runc: `error running startContainer hook #0: exit status 1, stdout: , stderr: `, and what else is known.
pub(crate) fn hook_error(kind: &str, index: usize, path: &str, failure: &Failure) -> Error {
    let story = format!("error running {kind} hook #{index}");
    let how = match Op::from_number(failure.op) {
        Op::HookExit => format!("exit status {}", failure.detail),
        Op::HookTimeout => "did not end in time and was killed".to_owned(),
        Op::HookSignal => match nix::sys::signal::Signal::try_from(failure.detail) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {}", failure.detail),
        },
        Op::Spawn => {
            return Error::os(
                format!("{story}: exec {path}"),
                Errno::from_raw(failure.errno),
            );
        }
        op => return Error::os(with_op(story, op), Errno::from_raw(failure.errno)),
    };
    let text = failure.text();
    let (stdout, stderr) = text.split_once('\0').unwrap_or((&text, ""));
    Error::new(
        Kind::System,
        format!(
            "{story}: {how}, stdout: {}, stderr: {}, path: {path}",
            stdout.trim_end(),
            stderr.trim_end()
        ),
    )
}

/// The warning of a hook that takes long.
pub(crate) fn hook_runs(kind: &str, index: usize, path: &str) -> String {
    format!("{kind} hook #{index} ({path}) is still running and has no timeout, waiting")
}

/// Writes the id maps of a new user namespace. An unprivileged user may map himself alone; for more there are newuidmap and newgidmap.
fn write_id_maps(pid: i32, maps: &IdMaps, host: &Host) -> Result<()> {
    if host.sys_admin {
        write_host_file(&format!("/proc/{pid}/uid_map"), &map_text(&maps.uids))?;
        return write_host_file(&format!("/proc/{pid}/gid_map"), &map_text(&maps.gids));
    }
    let own = |maps: &[IdMap], id: u32| matches!(maps, [map] if map.size == 1 && map.host == id);
    if own(&maps.gids, host.egid) {
        write_host_file(&format!("/proc/{pid}/setgroups"), "deny")?;
        write_host_file(&format!("/proc/{pid}/gid_map"), &map_text(&maps.gids))?;
    } else {
        run_map_helper("newgidmap", pid, &maps.gids)?;
    }
    if own(&maps.uids, host.euid) {
        return write_host_file(&format!("/proc/{pid}/uid_map"), &map_text(&maps.uids));
    }
    run_map_helper("newuidmap", pid, &maps.uids)
}

/// Runs newuidmap or newgidmap (shadow-utils), which check /etc/subuid and /etc/subgid.
fn run_map_helper(name: &str, pid: i32, maps: &[IdMap]) -> Result<()> {
    let found = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| std::path::Path::new(dir).join(name))
        .find(|path| path.exists());
    let Some(path) = found else {
        let text = format!(
            "{name} is needed to map more than one's own id, and it is not installed (package uidmap or shadow-utils)"
        );
        return Err(Error::new(Kind::Unsupported, text));
    };
    let numbers = maps
        .iter()
        .flat_map(|map| [map.container, map.host, map.size])
        .map(|n| n.to_string());
    let mut command = std::process::Command::new(&path);
    crate::sys::signal::unblock_in_child(&mut command);
    let output = command
        .arg(pid.to_string())
        .args(numbers)
        .env_clear()
        .stdin(std::process::Stdio::null())
        .output()
        .context(|| format!("execute {}", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(
        Kind::System,
        format!("{name} refused the id mappings ({}): {text}", output.status),
    ))
}
