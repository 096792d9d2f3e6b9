//! A container process from the outside, from its clone until its program runs.
//!
//! Runs in the runtime command: hears what init asks for, does it, and lets init go on.

use super::birth::Home;
use super::failure::{failed, hook_runs};
use super::id_maps::write_id_maps;
use super::open;
use crate::foreground::Terminal;
use crate::host::Host;
use crate::listener::Agent;
use crate::network::{self, Moved};
use crate::plan::namespaces::IdMaps;
use crate::plan::net_devices::NetDevice;
use crate::plan::{Exec, HookCall, Plan, Request, Rlimit, Step, mounts};
use crate::report::{Context, Error, Kind, Result};
use crate::sync::{self, Message};
use crate::sys::Errno;
use crate::sys::process::{pidfd_open, pidfd_send_signal, set_rlimit};
use crate::sys::signal::{Exit, wait_pidfd};
use crate::trace::{Times, Trace};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A container process that was cloned, from the outside.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The pty's master, if the process has a terminal and no console socket was given.
    pub(crate) terminal: Option<Terminal>,
    pub(super) sync: OwnedFd,
    /// The same plan that the child has, for messages.
    pub(super) steps: Vec<Step>,
    pub(super) program: String,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) net_devices: Vec<NetDevice>,
    /// Those that are in the container's network namespace by now.
    pub(super) moved: Option<Moved>,
    pub(super) id_maps: Option<IdMaps>,
    pub(super) agent: Option<Agent>,
    pub(super) trace: Trace,
    pub(super) times: Option<Times>,
    /// What the process does without, and why.
    pub(crate) not_given: Option<String>,
    pub(super) executing: bool,
}

impl Child {
    /// A process that has just been cloned for this plan.
    pub(super) fn new(pid: i32, pidfd: OwnedFd, sync: OwnedFd, plan: Plan, trace: &Trace) -> Child {
        Child {
            pid,
            pidfd,
            terminal: None,
            sync,
            program: program(&plan.exec),
            steps: plan.steps,
            rlimits: plan.rlimits,
            net_devices: plan.net_devices,
            moved: None,
            id_maps: plan.birth.id_maps,
            agent: None,
            trace: trace.clone(),
            times: None,
            not_given: None,
            executing: false,
        }
    }

    /// Serves init until the container is created and init waits for the word to start. `serve` does what is not this module's for the
    /// process with this pid: hooks of the runtime namespace, groups. `warn` is told of hooks in the container that take long.
    pub(crate) fn until_created(
        &mut self,
        host: &Host,
        mut serve: impl FnMut(Request, i32) -> Result<()>,
        warn: &dyn Fn(String),
    ) -> Result<()> {
        let created = self.serve_until_created(host, &mut serve, warn);
        self.trace.steps(self.pid, &self.steps, self.times.as_ref());
        created
    }

    fn serve_until_created(
        &mut self,
        host: &Host,
        serve: &mut impl FnMut(Request, i32) -> Result<()>,
        warn: &dyn Fn(String),
    ) -> Result<()> {
        loop {
            let message = self.next(host, warn)?;
            self.trace_request(message.as_ref());
            match message {
                Some(Message::Ask(Request::Start)) => return Ok(()),
                Some(Message::Ask(request @ (Request::Hooks | Request::Delegate))) => {
                    serve(request, self.pid).map_err(|error| self.explain(error))?;
                }
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
        let executed = self.serve_until_executed(host, warn);
        self.trace.steps(self.pid, &self.steps, self.times.as_ref());
        executed
    }

    fn serve_until_executed(&mut self, host: &Host, warn: &dyn Fn(String)) -> Result<()> {
        loop {
            let message = self.next(host, warn)?;
            self.trace_request(message.as_ref());
            match message {
                None => return Ok(()),
                Some(Message::Ask(request @ (Request::Rlimits | Request::IdMaps))) => {
                    self.serve(request, host)?;
                    self.go()?;
                }
                Some(_) => return Err(self.unexpected()),
            }
        }
    }

    fn trace_request(&self, message: Option<&Message>) {
        if let Some(Message::Ask(request)) = message {
            self.trace
                .begin(format_args!("serve: {}", Step::Ask(*request)));
        }
    }

    /// Waits for the end of a process whose plan has no program.
    pub(crate) fn until_done(&self) -> Result<()> {
        match sync::next(&self.sync).context(|| "hear from a process")? {
            Some((Message::Failed(failure), _)) => {
                Err(failed(&failure, &self.steps, &self.program))
            }
            Some(_) => Err(self.unexpected()),
            None => match wait_pidfd(&self.pidfd).map(|exited| exited.exit) {
                Ok(Exit::Code(0)) => Ok(()),
                _ => Err(self.died()),
            },
        }
    }

    /// Kills init and reaps it, and takes its network devices back. For a container that failed to be created.
    pub(crate) fn kill(&self) {
        // Before its namespace ends, which would take virtual devices with it.
        self.moved.iter().for_each(Moved::undo);
        pidfd_send_signal(&self.pidfd, libc::SIGKILL).ok(); // dead already
        wait_pidfd(&self.pidfd).ok(); // reaped already
    }

    pub(super) fn go(&self) -> Result<()> {
        match sync::go(&self.sync) {
            Err(Errno::EPIPE) => Ok(()), // the next message or its absence tells why
            other => other.context(|| "talk to the container's process"),
        }
    }

    /// The next message that is the caller's business. None: the program runs.
    fn next(&mut self, host: &Host, warn: &dyn Fn(String)) -> Result<Option<Message>> {
        let story = || "hear from the container's process";
        loop {
            let (message, fd) = match sync::next(&self.sync).context(story)? {
                Some(message) => message,
                None if self.executing => return Ok(None),
                None => return Err(self.died()),
            };
            match message {
                Message::Born { .. } => return Err(self.unexpected()),
                Message::Terminal => {
                    self.terminal = fd.map(Terminal::new).transpose()?;
                    self.go()?;
                }
                Message::IdMap { step } => {
                    let tree = fd.ok_or_else(|| self.unexpected())?;
                    self.map_ids(step, &tree, host)?;
                    self.go()?;
                }
                Message::Ask(Request::Listener) => {
                    self.trace_request(Some(&message));
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
                Message::Failed(failure) => {
                    return Err(failed(&failure, &self.steps, &self.program));
                }
                Message::Ask(_) => return Ok(Some(message)),
            }
        }
    }

    /// Gives a mount that init has made the id maps of its step.
    fn map_ids(&self, step: u32, tree: &OwnedFd, host: &Host) -> Result<()> {
        let Some(Step::Mount(mount)) = self.steps.get(step as usize) else {
            return Err(self.unexpected());
        };
        let mounts::Kind::Bind(bind) = &mount.kind else {
            return Err(self.unexpected());
        };
        let id_map = bind.id_map.as_ref().ok_or_else(|| self.unexpected())?;
        open::map_ids_late(tree, id_map, self.pid, host)
            .context(|| format!("id-map mount source {}", bind.source.to_string_lossy()))
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

    /// Serves the stage, which this is, until it has given birth and ends. This is init then, and at `home`.
    pub(super) fn until_born(&mut self, host: &Host, home: &Home<'_>) -> Result<()> {
        let story = || "hear from the container's process";
        loop {
            if !self.stage_speaks().context(story)? {
                return Err(self.died());
            }
            match sync::next(&self.sync).context(story)? {
                None => return Err(self.died()),
                Some((Message::Born { pid, in_cgroup }, _)) => {
                    return self.adopt(pid, Some(home).filter(|_| !in_cgroup));
                }
                Some((Message::Ask(request @ Request::IdMaps), _)) => {
                    self.serve(request, host)?;
                    self.go()?;
                }
                Some((Message::Failed(failure), _)) => {
                    return Err(failed(&failure, &self.steps, &self.program));
                }
                Some(_) => return Err(self.unexpected()),
            }
        }
    }

    /// `home`: where init has to be moved.
    fn adopt(&mut self, pid: i32, home: Option<&Home<'_>>) -> Result<()> {
        // It is our child and nobody has reaped it, so the number is its own.
        let init = pidfd_open(pid).context(|| format!("open process {pid}"))?;
        let stage = std::mem::replace(&mut self.pidfd, init);
        self.pid = pid;
        wait_pidfd(&stage).context(|| "reap the process between")?;
        home.map_or(Ok(()), |home| home.take(pid))?;
        // What else precedes its first step was done to the stage, and it has inherited that.
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

    /// What failed for want of init is said to be so.
    fn explain(&self, error: Error) -> Error {
        let mut end = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut end, PollTimeout::ZERO) {
            Ok(1..) => self.died().and(&error),
            _ => error,
        }
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
}

fn program(exec: &Exec) -> String {
    exec.argv
        .strings()
        .first()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
