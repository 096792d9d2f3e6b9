//! A container whose processes CRIU makes: what is made around them, and taken back on failure, is as for any other.
//!
//! CRIU is born in the container's cgroup, whose limits are in force by then, and makes the first process as a child of this command.

use super::prepare::{Prepared, prepare};
use super::{Made, Mode, initial_state, own_namespaces, reserve, run_hooks, take_back};
use crate::cgroup::Cgroup;
use crate::cli;
use crate::commands::criu::{self, DESCRIPTORS, Directories, Place, Program};
use crate::commands::{Context, pid_file};
use crate::criu::Criu;
use crate::criu::wire::{Message, Notify, Type, opts};
use crate::foreground::{Signals, Terminal};
use crate::host::Host;
use crate::network;
use crate::plan::Plan;
use crate::plan::criu::{Foreign, check, externals, foreign};
use crate::plan::mounts::Outside;
use crate::plan::namespaces::CLONE_NEWTIME;
use crate::report::{Context as _, Error, Kind, Result};
use crate::spawn::{self, Child, Surroundings};
use crate::state::{Init, Locked, State};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::sys::socket::send_master;
use crate::trace::Trace;
use oci_spec::runtime::Spec;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

const LOG: &str = "restore.log";

/// A container that runs again.
#[derive(Debug)]
pub(in crate::commands) struct Restored {
    pub(in crate::commands) state: State,
    pub(in crate::commands) spec: Spec,
    pub(in crate::commands) pid: i32,
    pub(in crate::commands) pidfd: OwnedFd,
    /// The pty's master, if the process has a terminal and no console socket was given.
    pub(in crate::commands) terminal: Option<Terminal>,
    /// In the foreground.
    pub(in crate::commands) signals: Option<Signals>,
}

/// Restores a container. What fails leaves nothing behind.
pub(in crate::commands) fn restore(
    context: &Context<'_>,
    request: &cli::Restore,
    mode: Mode,
) -> Result<Restored> {
    let story = || format!("restore container '{}'", request.create.id);
    let mut prepared = prepare(context, &request.create, mode).context(story)?;
    criu::warn_if_rootless(context, &prepared.host);
    let program = Program::find().context(story)?;
    let directories = Directories::open(&request.images, LOG).context(story)?;
    let signals = mode.take_signals()?;
    let directory = context.root.create(&request.create.id)?;
    let mut state = initial_state(&prepared);
    let mut made = Made {
        cgroup: None,
        resctrl: None,
        child: None,
    };
    let mut job = Job {
        context,
        request,
        program,
        directories,
        pidfd: None,
        terminal: None,
    };
    let done = job.carry_out(&mut prepared, &directory, &mut made, &mut state);
    match done {
        Ok((pid, pidfd)) => Ok(Restored {
            state,
            spec: prepared.spec,
            pid,
            pidfd,
            terminal: job.terminal,
            signals,
        }),
        Err(error) => {
            // Of a container without a cgroup nobody else would: CRIU may have let its processes go.
            job.pidfd.iter().for_each(|pidfd| {
                pidfd_send_signal(pidfd, libc::SIGKILL).ok(); // dead already
            });
            take_back(context, made, directory, &prepared.spec, &state);
            Err(error.context(story()))
        }
    }
}

struct Job<'a> {
    context: &'a Context<'a>,
    request: &'a cli::Restore,
    program: Program,
    directories: Directories,
    /// Of the first process, once it is there.
    pidfd: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

impl Job<'_> {
    fn carry_out(
        &mut self,
        prepared: &mut Prepared<'_>,
        directory: &Locked,
        made: &mut Made,
        state: &mut State,
    ) -> Result<(i32, OwnedFd)> {
        reserve(self.context, prepared, directory, made, state)?;
        state.namespaces = own_namespaces(&prepared.spec);
        directory.save_config(&prepared.config)?;
        if let Some(filter) = &prepared.seccomp {
            directory.save_seccomp(&filter.to_saved())?;
        }
        let path = made.cgroup.as_ref().map(Cgroup::host_path);
        let root = made.cgroup.as_ref().map(Cgroup::mountpoint);
        let (bundle, rootfs) = (&prepared.bundle, &prepared.rootfs);
        let options = Outside {
            bundle,
            rootfs,
            host: &prepared.host,
            cgroup_root: root,
            cgroup_path: path.as_deref(),
        };
        check(&prepared.spec, &options)?;
        let namespaces = open_namespaces(&prepared.spec)?;
        let passed: Vec<i32> = namespaces.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let place = Place {
            host: &prepared.host,
            cgroup: made.cgroup.as_ref(),
            resctrl: made.resctrl.as_ref(),
            directory,
        };
        let spec = &prepared.spec;
        let plan = |program: crate::plan::criu::Program<'_>| {
            crate::plan::criu::restore(spec, &options, program)
        };
        let (context, child) = (self.context, &mut made.child);
        let (program, directories) = (&self.program, &self.directories);
        let criu = criu::start(context, program, &passed, directories, place, child, plan)?;
        let mut message = self.message(&criu, spec, &options, state)?;
        for (key, fd) in &namespaces {
            message.named(opts::INHERIT_FD, key, fd.as_raw_fd().into());
        }
        if let Some(child) = &made.child {
            add_cgroup(child, &mut message)?;
        }
        let mut around = Around {
            spec,
            host: &prepared.host,
            directory,
            console_socket: prepared.console_socket.as_ref(),
            plan: crate::plan::criu::restrict(spec, &options)?,
        };
        let mut told = |notify: &Notify, fd| self.notified(notify, fd, &mut around, state);
        let worked = criu.work(Type::Restore, &message, &mut told);
        worked.map_err(|error| self.directories.explain(context, error))?;
        if let Some(child) = made.child.as_ref() {
            criu::finish(criu, child, true)?;
        }
        self.settle(made, state)
    }

    /// The container is there. CRIU is not any more.
    fn settle(&mut self, made: &mut Made, state: &State) -> Result<(i32, OwnedFd)> {
        if let Some(cgroup) = &mut made.cgroup {
            cgroup.release()?;
        }
        let untold = || Error::new(Kind::System, "criu has not told of a process");
        let pid = state.pid().ok_or_else(untold)?;
        if let Some(path) = &self.request.create.pid_file {
            pid_file::write(path, pid)?;
        }
        Ok((pid, self.pidfd.take().ok_or_else(untold)?))
    }

    fn message(
        &self,
        criu: &Criu,
        spec: &Spec,
        options: &Outside<'_>,
        state: &State,
    ) -> Result<Message> {
        let request = self.request;
        let mut message = criu::options(&request.images, &self.directories, state);
        message.text(opts::ROOT, options.rootfs.as_os_str().as_bytes());
        message.switch(opts::EVASIVE_DEVICES, true);
        message.switch(opts::RST_SIBLING, true);
        message.switch(opts::TCP_CLOSE, request.tcp_close);
        // Otherwise the terminal was the caller's, of whose file system CRIU knows nothing: this command's takes its place.
        let process = spec.process().as_ref();
        let own_terminal = process.and_then(|process| process.terminal()) == Some(true);
        let orphan = own_terminal || !request.images.shell_job;
        message.switch(opts::ORPHAN_PTS_MASTER, orphan);
        let labels = [
            ("lsm-profile", opts::LSM_PROFILE, &request.lsm_profile),
            (
                "lsm-mount-context",
                opts::LSM_MOUNT_CONTEXT,
                &request.lsm_mount_context,
            ),
        ];
        for (flag, field, value) in labels {
            let Some(value) = value else { continue };
            if !criu.is_at_least(31600) {
                let text = format!("--{flag} requires at least CRIU 3.16");
                return Err(Error::new(Kind::Unsupported, text));
            }
            message.text(field, value);
        }
        for namespace in foreign(spec)? {
            match namespace {
                Foreign::External { kind, .. } => criu.require_external(kind, "the restoration")?,
                Foreign::Joined { kind, path } => {
                    message.pair(opts::JOIN_NS, kind, path.as_os_str().as_bytes());
                }
            }
        }
        for external in externals(spec, options)? {
            let [target, source] = [&external.target, &external.source];
            let (name, source) = (target.as_os_str().as_bytes(), source.as_os_str().as_bytes());
            message.pair(opts::EXT_MNT, name, source);
        }
        // All masks of files.
        message.pair(opts::EXT_MNT, "/dev/null", "/dev/null");
        self.add_streams(&mut message)?;
        Ok(message)
    }

    /// Pipes that the process had as standard streams are replaced by those of this command.
    fn add_streams(&self, message: &mut Message) -> Result<()> {
        let path = self.directories.image(DESCRIPTORS);
        let text = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
        let targets: Vec<String> = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(format!("parse {}: {error}", path.display())))?;
        let targets = (0..).zip(&targets);
        for (number, target) in targets.filter(|(_, target)| target.contains("pipe:")) {
            message.named(opts::INHERIT_FD, target, number);
        }
        Ok(())
    }

    /// CRIU waits meanwhile, with the processes stopped.
    fn notified(
        &mut self,
        notify: &Notify,
        fd: Option<OwnedFd>,
        around: &mut Around<'_>,
        state: &mut State,
    ) -> Result<()> {
        let Around {
            spec,
            host,
            directory,
            console_socket,
            plan,
        } = around;
        let (context, script) = (self.context, notify.script.as_str());
        context.log.debug(|| format!("notify: {script}"));
        match (script, fd) {
            ("setup-namespaces", _) => {
                // CRIU makes an empty one (EMPTY_NS), but connections within the container may be among what it restores.
                if has_new_network(spec)? {
                    network::bring_loopback_up(notify.pid)?;
                }
                let warn = |text| context.log.alert(text);
                run_hooks(spec, state, notify.pid, &warn)
            }
            ("post-restore", _) => {
                let pid = notify.pid;
                // It waits for CRIU, and is our child: the number is its own.
                let pidfd = pidfd_open(pid).context(|| format!("open process {pid}"))?;
                restrict(plan.take(), &pidfd, host, directory)?;
                self.pidfd = Some(pidfd);
                state.init = Some(Init::of(pid)?);
                if has_time_namespace(notify.pid)? {
                    state.namespaces |= CLONE_NEWTIME as u64;
                }
                directory.save(state)
            }
            ("orphan-pts-master", Some(master)) => match console_socket {
                Some(socket) => send_master(socket, master.as_fd(), c"orphan-pts-master")
                    .context(|| "send the terminal to the console socket"),
                None => {
                    self.terminal = Some(Terminal::new(master)?);
                    Ok(())
                }
            },
            _ => Ok(()),
        }
    }
}

/// What a stage of CRIU's needs.
struct Around<'a> {
    spec: &'a Spec,
    host: &'a Host,
    directory: &'a Locked,
    console_socket: Option<&'a OwnedFd>,
    /// What CRIU has not restricted, as it was.
    plan: Option<Plan>,
}

/// In a process of its own, since it has to join the container's mount namespace.
fn restrict(plan: Option<Plan>, pidfd: &OwnedFd, host: &Host, directory: &Locked) -> Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    let trace = Trace::default();
    let around = Surroundings {
        process: Some(pidfd.try_clone().context(|| "duplicate a pidfd")?),
        lock: Some(directory.lock_fd()),
        ..Surroundings::none(host, &trace)
    };
    let child = spawn::spawn(plan, around)?;
    child.until_done().inspect_err(|_| child.kill())
}

/// The namespaces that CRIU gets from us, with their keys.
fn open_namespaces(spec: &Spec) -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut opened = Vec::new();
    for namespace in foreign(spec)? {
        if let Foreign::External { key, path, .. } = namespace {
            let file = File::open(path).context(|| {
                format!(
                    "Requested network namespace {} does not exist",
                    path.display()
                )
            })?;
            opened.push((key, file.into()));
        }
    }
    Ok(opened)
}

/// Where CRIU is, the container's processes are to be, instead of where they were.
fn add_cgroup(criu: &Child, message: &mut Message) -> Result<()> {
    let path = format!("/proc/{}/cgroup", criu.pid);
    let memberships = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            message.pair(opts::CG_ROOT, controllers, path);
        }
    }
    Ok(())
}

fn has_new_network(spec: &Spec) -> Result<bool> {
    let is_network =
        |namespace: &Foreign<'_>| matches!(namespace, Foreign::External { kind: "net", .. });
    Ok(own_namespaces(spec) & libc::CLONE_NEWNET as u64 != 0
        && !foreign(spec)?.iter().any(is_network))
}

/// CRIU restores clocks by way of a time namespace, which `exec` has to join then.
fn has_time_namespace(pid: i32) -> Result<bool> {
    let link = |path: String| match std::fs::read_link(&path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {path}")),
    };
    let theirs = link(format!("/proc/{pid}/ns/time"))?;
    Ok(theirs.is_some() && theirs != link("/proc/self/ns/time".to_owned())?)
}
