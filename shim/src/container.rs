//! One container: what Create made, what can be done with it, and the supervision of its processes.
//!
//! The order of events is decided here. A process' end is published under its `operation` lock, which its start holds until it has published
//! itself; init's end is published when every exec's has been.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protobuf::MessageField;
use tokio::sync::watch;

use crate::bundle::{self, Config, ExitRecord};
use crate::cgroup;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Spool};
use crate::execs::Execs;
use crate::io::{Owner, Stdio, Streams};
use crate::lock::lock;
use crate::log;
use crate::mounts;
use crate::oom::Watch;
use crate::options::Options;
use crate::process::{Ended, Phase, Process, State};
use crate::protos::events::{
    TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use crate::protos::task::CreateTaskRequest;
use crate::reaper::{Child, Exit, Reaper};
use crate::runtime::Runtime;

/// How long Delete waits for output that a process left behind may still hold open.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// What all containers of a shim share.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    pub(crate) namespace: String,
    pub(crate) reaper: Reaper,
    pub(crate) spool: Spool,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) shim: Shim,
    pub(crate) runtime: Runtime,
    pub(crate) owner: Owner,
    pub(crate) init: Process,
    pub(crate) execs: Execs,
    /// The directory of its group, if there is a v2 hierarchy.
    pub(crate) group: Option<PathBuf>,
    oom: Mutex<Option<Watch>>,
    has_own_pid_namespace: bool,
    /// Init has ended: no exec starts any more.
    pub(crate) closing: AtomicBool,
    /// Execs whose end has not been published, or that are being started.
    pub(crate) busy: watch::Sender<usize>,
    deleted: AtomicBool,
}

impl Container {
    /// Everything up to the event. What fails leaves nothing behind.
    pub(crate) async fn create(shim: &Shim, request: CreateTaskRequest) -> Result<Arc<Self>> {
        if !request.checkpoint.is_empty() {
            return Err(Error::new(Kind::Unimplemented, "restoring a checkpoint"));
        }
        let bundle = PathBuf::from(&request.bundle);
        let options = Options::from_any(request.options.as_ref())?;
        bundle::write_options(&bundle, &options)
            .map_err(|error| Error::os("write options.json", error))?;
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            make_directory(&rootfs)?;
            mounts::attach(&request.rootfs, &rootfs)?;
        }
        match Self::make(shim, &request, bundle, options).await {
            Ok(container) => Ok(container),
            Err(error) => {
                if !request.rootfs.is_empty()
                    && let Err(error) = mounts::detach(&rootfs)
                {
                    log::warn(&format!("{error}, ignoring"));
                }
                Err(error)
            }
        }
    }

    async fn make(
        shim: &Shim,
        request: &CreateTaskRequest,
        bundle: PathBuf,
        options: Options,
    ) -> Result<Arc<Self>> {
        let config = Config::read(&bundle).map_err(|error| Error::os("read config.json", error))?;
        let owner = Owner {
            namespace: shim.namespace.clone(),
            container: request.id.clone(),
            uid: options.io_uid,
            gid: options.io_gid,
        };
        let streams = Streams {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let stdio = Stdio::open(&streams, &owner)
            .await
            .map_err(|error| Error::os("open the streams", error))?;
        let runtime = Runtime::new(options, &shim.namespace, shim.reaper.clone());
        let child = match born(shim, &runtime, &request.id, &bundle, &stdio).await {
            Ok(child) => Arc::new(child),
            Err(error) => {
                // What the runtime refused to make it has cleaned up, and it may be another's; what it did not finish is ours.
                if error.kind != Kind::Unknown
                    && let Err(error) = runtime.delete(&request.id, true).await
                {
                    log::warn(&format!("{error}, ignoring"));
                }
                return Err(error);
            }
        };
        let group = cgroup::of(child.pid)
            .inspect_err(|error| log::warn(&format!("{error}: no statistics, ignoring")))
            .ok();
        let container = Arc::new(Self {
            id: request.id.clone(),
            oom: Mutex::new(
                group
                    .as_deref()
                    .and_then(|group| watch_for_oom(shim, &request.id, group)),
            ),
            shim: shim.clone(),
            runtime,
            owner,
            init: Process::new(streams, State::Alive(Phase::Created, child.clone())),
            execs: Execs::default(),
            group,
            has_own_pid_namespace: config.has_own_pid_namespace(),
            closing: AtomicBool::new(false),
            busy: watch::Sender::new(0),
            deleted: AtomicBool::new(false),
            bundle,
        });
        container.init.set_stdio(Arc::new(stdio));
        shim.spool.publish(Event::Create(TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..TaskIO::default()
            }),
            pid: child.pid.cast_unsigned(),
            ..TaskCreate::default()
        }));
        tokio::spawn(container.clone().supervise(child));
        Ok(container)
    }

    pub(crate) async fn start(&self) -> Result<i32> {
        let _operation = self.init.operation.lock().await;
        let child = match self.init.state() {
            State::Alive(Phase::Created, child) => child,
            State::Stopped(_) => return Err(Error::unknown("cannot start a stopped process")),
            _ => return Err(Error::unknown("cannot start a running process")),
        };
        self.runtime.start(&self.id).await?;
        self.init.set_phase(Phase::Running, child.clone());
        self.shim.spool.publish(Event::Start(TaskStart {
            container_id: self.id.clone(),
            pid: child.pid.cast_unsigned(),
            ..TaskStart::default()
        }));
        Ok(child.pid)
    }

    /// Waits for init's end, then for everything that has to be told before it, and tells.
    async fn supervise(self: Arc<Self>, child: Arc<Child>) {
        let exit = ended(&child).await;
        // A start that is under way publishes itself first.
        let _operation = self.init.operation.lock().await;
        self.closing.store(true, Ordering::Relaxed);
        if !self.has_own_pid_namespace
            && let Err(error) = self
                .runtime
                .kill(&self.id, libc::SIGKILL.cast_unsigned(), true)
                .await
        {
            log::warn(&format!(
                "kill what is left of {}: {error}, ignoring",
                self.id
            ));
        }
        // The sender is here.
        self.busy.subscribe().wait_for(|busy| *busy == 0).await.ok();
        let watch = lock(&self.oom).take();
        let oom = watch.is_some_and(Watch::finish);
        if let Err(error) = ExitRecord::new(child.pid, exit, oom).write(&self.bundle) {
            log::warn(&format!(
                "write exit.json of {}: {error}, ignoring",
                self.id
            ));
        }
        self.init.set_ended(Ended {
            pid: child.pid,
            exit,
        });
        self.publish_exit(&self.id, child.pid, exit);
    }

    /// `id` is the container's own or that of an exec.
    pub(crate) fn publish_exit(&self, id: &str, pid: i32, exit: Exit) {
        self.shim.spool.publish(Event::Exit(TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..TaskExit::default()
        }));
    }

    pub(crate) async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let State::Alive(_, child) = self.init.state() else {
            return Err(Error::not_found("process already finished"));
        };
        match self.runtime.kill(&self.id, signal, all).await {
            Err(_) if child.has_ended() => Err(Error::not_found("process already finished")),
            other => other,
        }
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        let _operation = self.init.operation.lock().await;
        let State::Alive(Phase::Running, child) = self.init.state() else {
            return Err(Error::unknown(format!(
                "cannot pause a container that is {:?}",
                self.init.status()
            )));
        };
        self.init.set_phase(Phase::Pausing, child.clone());
        if let Err(error) = self.runtime.pause(&self.id).await {
            self.init.set_phase(Phase::Running, child);
            return Err(error);
        }
        self.init.set_phase(Phase::Paused, child);
        self.shim.spool.publish(Event::Paused(TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        }));
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let _operation = self.init.operation.lock().await;
        let State::Alive(Phase::Paused, child) = self.init.state() else {
            return Err(Error::unknown(format!(
                "cannot resume a container that is {:?}",
                self.init.status()
            )));
        };
        self.runtime.resume(&self.id).await?;
        self.init.set_phase(Phase::Running, child);
        self.shim.spool.publish(Event::Resumed(TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        }));
        Ok(())
    }

    /// Removes a container that has ended, or that was never started.
    pub(crate) async fn delete(&self) -> Result<Ended> {
        {
            let _operation = self.init.operation.lock().await;
            match self.init.state() {
                State::Stopped(_) => {}
                State::Alive(Phase::Created, _) => self.runtime.delete(&self.id, false).await?,
                _ => return Err(Error::precondition("cannot delete a running process")),
            }
        }
        // Published under the lock.
        let ended = self.init.ended().await;
        let _operation = self.init.operation.lock().await;
        if self.deleted.load(Ordering::Relaxed) {
            return Ok(ended);
        }
        drain(&self.init, &self.id).await;
        self.runtime.delete(&self.id, false).await?;
        self.init.close_stdio();
        mounts::detach(&self.bundle.join("rootfs"))?;
        self.deleted.store(true, Ordering::Relaxed);
        self.shim.spool.publish(Event::Delete(TaskDelete {
            container_id: self.id.clone(),
            pid: ended.pid.cast_unsigned(),
            exit_status: ended.exit.status,
            exited_at: MessageField::some(ended.exit.at.into()),
            ..TaskDelete::default()
        }));
        Ok(ended)
    }
}

/// Waits for a process' end. That it cannot be waited for is told like an end that nobody saw.
pub(crate) async fn ended(child: &Child) -> Exit {
    match child.exited().await {
        Ok(exit) => exit,
        Err(error) => {
            log::warn(&format!("wait for pid {}: {error}, ignoring", child.pid));
            Exit::now(255)
        }
    }
}

/// Waits until the output of a process that has ended was copied.
pub(crate) async fn drain(process: &Process, name: &str) {
    if let Some(stdio) = process.stdio()
        && !stdio.drained(DRAIN).await
    {
        log::warn(&format!(
            "something still holds the output of {name}, ignoring"
        ));
    }
}

/// Has the runtime create the container. An error of kind Unknown is the runtime's own.
async fn born(
    shim: &Shim,
    runtime: &Runtime,
    id: &str,
    bundle: &Path,
    stdio: &Stdio,
) -> Result<Child> {
    let pid_file = bundle::pid_file(bundle, "");
    let expectation = shim.reaper.expect();
    runtime.create(id, bundle, &pid_file, stdio).await?;
    let claim = || expectation.claim(bundle::read_pid(&pid_file)?);
    let unfinished = |what: &str, error: io::Error| {
        Error::new(Kind::FailedPrecondition, format!("{what}: {error}"))
    };
    let child = claim().map_err(|error| unfinished("find the container's process", error))?;
    stdio
        .start()
        .await
        .map_err(|error| unfinished("start to copy the streams", error))?;
    Ok(child)
}

fn watch_for_oom(shim: &Shim, id: &str, group: &Path) -> Option<Watch> {
    let (spool, id) = (shim.spool.clone(), id.to_owned());
    let killed = move || {
        spool.publish(Event::Oom(TaskOOM {
            container_id: id.clone(),
            ..TaskOOM::default()
        }))
    };
    Watch::new(group, killed)
        .inspect_err(|error| {
            log::warn(&format!(
                "watch {} for OOM: {error}, ignoring",
                group.display()
            ))
        })
        .ok()
}

/// The mount point; containerd has usually made it.
fn make_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::os(format!("make {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
