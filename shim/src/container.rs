//! One container: what Create made, what can be done with it, and the supervision of its processes.
//!
//! The order of events is decided here. A process' end is published under its `operation` lock, which its start holds until it has published
//! itself; init's end is published when every exec's has been, but does not wait for them for ever.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use protobuf::MessageField;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::aside::aside;
use crate::bundle::{self, Config, ExitRecord};
use crate::cgroup;
use crate::error::{Error, Result};
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
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed,
    TaskStart,
};
use crate::protos::runc_options::CheckpointOptions;
use crate::protos::task::CreateTaskRequest;
use crate::reaper::{Child, Exit, Reaper};
use crate::runtime::{Closing, Newborn, Runtime};

/// How long Delete waits for output that a process left behind may still hold open.
const DRAIN: Duration = Duration::from_secs(10);

/// The same of an exec, whose background processes may well go on; but not of one whose client is slow.
pub(crate) const EXEC_DRAIN: Duration = Duration::from_secs(2);

/// How long Delete waits for a start that is under way.
const STARTING: Duration = Duration::from_secs(3);

/// How long init's end waits for those of execs, which were killed with it.
const LAST_EXECS: Duration = Duration::from_secs(5);

/// What all containers of a shim share.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    pub(crate) namespace: String,
    pub(crate) reaper: Reaper,
    pub(crate) spool: Spool,
    /// Told when a container has come, ended or gone, or a connection.
    pub(crate) changes: watch::Sender<()>,
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
    /// The directory of its group, if there is a v2 hierarchy; from when it has a process.
    group: OnceLock<PathBuf>,
    /// Of the saved container that Start brings back.
    images: Option<PathBuf>,
    oom: Mutex<Option<Watch>>,
    has_own_pid_namespace: bool,
    /// What its root file system is made of.
    has_mounts: bool,
    /// Init has ended, or is to end before it is there: no exec starts any more, and no command takes long.
    pub(crate) closing: watch::Sender<bool>,
    /// Execs whose end has not been published, or that are being started.
    pub(crate) busy: watch::Sender<usize>,
    deleted: AtomicBool,
}

impl Container {
    /// Everything up to the event. What fails leaves nothing behind.
    pub(crate) async fn create(
        shim: &Shim,
        request: CreateTaskRequest,
        closing: watch::Sender<bool>,
    ) -> Result<Arc<Self>> {
        let bundle = PathBuf::from(&request.bundle);
        let options = Options::from_any(request.options.as_ref())?;
        bundle::write_options(&bundle, &options)
            .map_err(|error| Error::os("write options.json", error))?;
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            make_directory(&rootfs)?;
            let (mounts, target) = (request.rootfs.clone(), rootfs.clone());
            aside(move || mounts::attach(&mounts, &target)).await?;
        }
        match Self::make(shim, &request, bundle, options, closing).await {
            Ok(container) => Ok(container),
            Err(error) => {
                if !request.rootfs.is_empty()
                    && let Err(error) = detach(rootfs).await
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
        closing: watch::Sender<bool>,
    ) -> Result<Arc<Self>> {
        let config = Config::read(&bundle).map_err(|error| Error::os("read config.json", error))?;
        let owner = Owner {
            namespace: shim.namespace.clone(),
            container: request.id.clone(),
            uid: options.io_uid,
            gid: options.io_gid,
            directory: bundle.clone(),
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
        let container = Arc::new(Self {
            id: request.id.clone(),
            oom: Mutex::default(),
            shim: shim.clone(),
            runtime: Runtime::new(options, &shim.namespace, shim.reaper.clone()),
            owner,
            init: Process::new(streams, State::Registered),
            execs: Execs::default(),
            group: OnceLock::new(),
            images: (!request.checkpoint.is_empty()).then(|| PathBuf::from(&request.checkpoint)),
            has_own_pid_namespace: config.has_own_pid_namespace(),
            has_mounts: !request.rootfs.is_empty(),
            closing,
            busy: watch::Sender::new(0),
            deleted: AtomicBool::new(false),
            bundle,
        });
        container.init.set_stdio(Arc::new(stdio));
        // One that was saved comes back in Start.
        let child = match container.images {
            None => Some(container.bear().await?),
            Some(_) => None,
        };
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
            checkpoint: request.checkpoint.clone(),
            pid: container.init.pid().cast_unsigned(),
            ..TaskCreate::default()
        }));
        if let Some(child) = child {
            tokio::spawn(container.clone().supervise(child));
        }
        Ok(container)
    }

    pub(crate) async fn start(self: &Arc<Self>) -> Result<i32> {
        let _operation = self.init.operation.lock().await;
        match self.init.state() {
            State::Alive(Phase::Created, child) => {
                let started = self.runtime.start(&self.id, self.closing()).await;
                match started {
                    // Init has ended, and of what the command did last nobody waits: a start, and then an end.
                    Err(error) if error.unfinished && child.has_ended() => Ok(self.runs(child)),
                    Err(error) => {
                        // What was cut short may have done what it was for.
                        if error.unfinished
                            && self.runtime.is_running(&self.id, self.closing()).await
                        {
                            self.runs(child);
                        }
                        Err(error)
                    }
                    Ok(()) => Ok(self.runs(child)),
                }
            }
            State::Registered => {
                let child = self.bear().await?;
                let pid = self.runs(child.clone());
                tokio::spawn(self.clone().supervise(child));
                Ok(pid)
            }
            State::Stopped(_) => Err(Error::unknown("cannot start a stopped process")),
            State::Alive(..) => Err(Error::unknown("cannot start a running process")),
        }
    }

    fn runs(&self, child: Arc<Child>) -> i32 {
        let pid = child.pid;
        self.init.set_phase(Phase::Running, child);
        self.shim.spool.publish(Event::Start(TaskStart {
            container_id: self.id.clone(),
            pid: pid.cast_unsigned(),
            ..TaskStart::default()
        }));
        pid
    }

    /// Has the runtime make the container, or make it again. What is then cut short leaves nothing.
    async fn bear(&self) -> Result<Arc<Child>> {
        let was_there = self.runtime.knows(&self.id);
        let child = match self.born().await {
            Ok(child) => Arc::new(child),
            Err(error) => {
                // What the runtime refused to make it has cleaned up, and it may be another's; what it did not finish is ours.
                if error.unfinished
                    && !was_there
                    && let Err(error) = self.runtime.delete(&self.id, true).await
                {
                    log::warn(&format!("{error}, ignoring"));
                }
                return Err(error);
            }
        };
        match cgroup::of(child.pid) {
            Ok(group) => {
                *lock(&self.oom) = watch_for_oom(&self.shim, &self.id, &group);
                // Nobody else sets it.
                self.group.set(group).ok();
            }
            Err(error) => log::warn(&format!("{error}: no statistics, ignoring")),
        }
        self.init.set_phase(Phase::Created, child.clone());
        Ok(child)
    }

    async fn born(&self) -> Result<Child> {
        let stdio = self
            .init
            .stdio()
            .ok_or_else(|| Error::precondition("the streams are closed"))?;
        let pid_file = bundle::pid_file(&self.bundle, "");
        let expectation = self.shim.reaper.expect();
        let newborn = Newborn {
            pid_file: &pid_file,
            streams: &stdio,
            expectation: &expectation,
        };
        let (id, bundle) = (&self.id, &self.bundle);
        match &self.images {
            None => {
                let created = self.runtime.create(id, bundle, newborn, self.closing());
                created.await?;
            }
            Some(images) => self.runtime.restore(id, bundle, images, newborn).await?,
        }
        let claim = || expectation.claim(bundle::read_pid(&pid_file)?);
        let child = claim()
            .map_err(|error| Error::os("find the container's process", error).unfinished())?;
        let copying = stdio.start().await;
        copying.map_err(|error| Error::os("start to copy the streams", error).unfinished())?;
        Ok(child)
    }

    /// The directory of its group.
    pub(crate) fn group(&self) -> Result<&Path> {
        let group = self.group.get().map(PathBuf::as_path);
        group.ok_or_else(|| Error::not_found("the container has no group of cgroup v2"))
    }

    /// Waits for init's end, then for everything that has to be told before it, and tells.
    async fn supervise(self: Arc<Self>, child: Arc<Child>) {
        let exit = child.ended().await.unwrap_or_else(|error| {
            log::warn(&format!("wait for pid {}: {error}, ignoring", child.pid));
            Exit::now(255)
        });
        // On disk before the kernel forgets it: if we are killed, the code is there, or the zombie is for who comes after us.
        self.record(child.pid, exit, false);
        child.reap();
        // Commands that are under way have not long any more; a start among them publishes itself first.
        self.closing.send_replace(true);
        let _operation = self.init.operation.lock().await;
        if timeout(LAST_EXECS, self.end_execs()).await.is_err() {
            log::warn(&format!("what is left of {} does not end", self.id));
        }
        for exec in self.execs.all() {
            exec.process.will_not_run();
        }
        let watch = lock(&self.oom).take();
        if watch.is_some_and(Watch::finish) {
            self.record(child.pid, exit, true);
        }
        self.init.set_ended(Ended {
            pid: child.pid,
            exit,
        });
        self.publish_exit(&self.id, child.pid, exit);
        self.shim.changes.send_replace(());
    }

    /// Comes back when nothing of the container runs, and its execs' ends have been told.
    async fn end_execs(&self) {
        let kill = libc::SIGKILL.cast_unsigned();
        if !self.has_own_pid_namespace
            && let Err(error) = self.kill_by_runtime(kill, true).await
        {
            let id = &self.id;
            log::warn(&format!("kill what is left of {id}: {error}, ignoring"));
        }
        for exec in self.execs.all() {
            // Those that have ended, or not begun, are as good.
            exec.process.signal(kill).ok();
        }
        // The sender is here.
        self.busy.subscribe().wait_for(|busy| *busy == 0).await.ok();
    }

    fn record(&self, pid: i32, exit: Exit, oom: bool) {
        if let Err(error) = ExitRecord::new(pid, exit, oom).write(&self.bundle) {
            let id = &self.id;
            log::warn(&format!("write exit.json of {id}: {error}, ignoring"));
        }
    }

    /// Adds to exit.json how much of the output is lost, if any is.
    fn record_loss(&self) {
        let dropped = self.init.stdio().map_or(0, |stdio| stdio.dropped());
        if dropped == 0 {
            return;
        }
        let Some(mut record) = ExitRecord::read(&self.bundle) else {
            return;
        };
        record.dropped = dropped;
        if let Err(error) = record.write(&self.bundle) {
            let id = &self.id;
            log::warn(&format!("write exit.json of {id}: {error}, ignoring"));
        }
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
        let child = match self.init.state() {
            State::Alive(_, child) => child,
            State::Registered => return Err(Error::precondition("process not created")),
            State::Stopped(_) => return Err(Error::not_found("process already finished")),
        };
        match self.kill_by_runtime(signal, all).await {
            Err(_) if child.has_ended() => {
                // Who is told so has Wait answer at once.
                self.init.ended().await;
                Err(Error::not_found("process already finished"))
            }
            other => other,
        }
    }

    async fn kill_by_runtime(&self, signal: u32, all: bool) -> Result<()> {
        let killed = self.runtime.kill(&self.id, signal, all, self.closing());
        killed.await
    }

    /// For commands: when they have become pointless.
    pub(crate) fn closing(&self) -> Closing {
        self.closing.subscribe()
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
        let paused = self.runtime.pause(&self.id, self.closing()).await;
        // A command that was cut short may have done so much of it that it must be undone.
        let is_paused = match &paused {
            Err(error) => error.unfinished && self.group().is_ok_and(cgroup::is_frozen),
            Ok(()) => true,
        };
        if !is_paused {
            self.init.set_phase(Phase::Running, child);
            return paused;
        }
        self.init.set_phase(Phase::Paused, child);
        self.shim.spool.publish(Event::Paused(TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        }));
        paused
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let _operation = self.init.operation.lock().await;
        let State::Alive(Phase::Paused, child) = self.init.state() else {
            return Err(Error::unknown(format!(
                "cannot resume a container that is {:?}",
                self.init.status()
            )));
        };
        let resumed = self.runtime.resume(&self.id, self.closing()).await;
        // As for a pause.
        let is_paused = match &resumed {
            Err(error) => !error.unfinished || self.group().map_or(true, cgroup::is_frozen),
            Ok(()) => false,
        };
        if is_paused {
            return resumed;
        }
        self.init.set_phase(Phase::Running, child);
        self.shim.spool.publish(Event::Resumed(TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        }));
        resumed
    }

    /// Saves the container into the directory `images`.
    pub(crate) async fn checkpoint(&self, images: &str, options: &CheckpointOptions) -> Result<()> {
        let operation = self.init.operation.lock().await;
        if !matches!(
            self.init.state(),
            State::Alive(Phase::Running | Phase::Paused, _)
        ) {
            return Err(Error::unknown(format!(
                "cannot checkpoint a container that is {:?}",
                self.init.status()
            )));
        }
        let own = self.bundle.join("criu-work");
        let work = match options.work_path.as_str() {
            "" => &own,
            path => Path::new(path),
        };
        let (images_path, mut closing) = (Path::new(images), self.closing());
        let mut saved =
            pin!(
                self.runtime
                    .checkpoint(&self.id, images_path, work, options, self.closing())
            );
        // Its sender is here.
        let ended = async { closing.wait_for(|closing| *closing).await.map(drop).ok() };
        let saved = tokio::select! {
            saved = &mut saved => saved,
            _ = ended => {
                // It may be this that ends init, and init's end does not wait for the rest.
                drop(operation);
                saved.await
            }
        };
        if saved.is_err() {
            // Where containerd looks for it; there is none if CRIU was never run.
            fs::copy(work.join("dump.log"), self.bundle.join("criu-dump.log")).ok();
        }
        // It goes with the bundle at the latest.
        fs::remove_dir_all(&own).ok();
        saved?;
        self.shim
            .spool
            .publish(Event::Checkpointed(TaskCheckpointed {
                container_id: self.id.clone(),
                checkpoint: images.to_owned(),
                ..TaskCheckpointed::default()
            }));
        Ok(())
    }

    /// One that runs is none that may be deleted, one that was never started is ended for it.
    async fn end_unstarted(&self) -> Result<()> {
        let running = || Err(Error::precondition("cannot delete a running process"));
        match self.init.state() {
            State::Stopped(_) => return Ok(()),
            // It is about to be told.
            State::Alive(_, child) if child.has_ended() => return Ok(()),
            State::Alive(Phase::Created, _) | State::Registered => {}
            State::Alive(..) => return running(),
        }
        let Ok(_operation) = timeout(STARTING, self.init.operation.lock()).await else {
            return running();
        };
        match self.init.state() {
            State::Stopped(_) => Ok(()),
            State::Registered => {
                self.init.set_ended(Ended {
                    pid: 0,
                    exit: Exit::now(0),
                });
                Ok(())
            }
            State::Alive(Phase::Created, child) => {
                match self.runtime.delete_created(&self.id, self.closing()).await {
                    Err(_) if child.has_ended() => Ok(()),
                    other => other,
                }
            }
            State::Alive(_, child) if child.has_ended() => Ok(()),
            State::Alive(..) => running(),
        }
    }

    /// Removes a container that has ended, or that was never started.
    pub(crate) async fn delete(&self) -> Result<Ended> {
        self.end_unstarted().await?;
        // Published under the lock.
        let ended = self.init.ended().await;
        let _operation = self.init.operation.lock().await;
        if self.deleted.load(Ordering::Relaxed) {
            return Ok(ended);
        }
        drain(&self.init, &self.id, DRAIN).await;
        self.record_loss();
        if self.runtime.delete(&self.id, false).await.is_err() {
            // One that was cut short may have left what counts as no container any more, and which only this removes.
            self.runtime.delete(&self.id, true).await?;
        }
        self.init.close_stdio();
        if self.has_mounts {
            detach(self.bundle.join("rootfs")).await?;
        }
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

/// Waits until the output of a process that has ended was copied, for this time if nobody but a holder of it is in the way.
pub(crate) async fn drain(process: &Process, name: &str, held: Duration) {
    let Some(stdio) = process.stdio() else { return };
    if stdio.drained(held).await
        || stdio.waits_for_client() && stdio.drained(DRAIN.saturating_sub(held)).await
    {
        return;
    }
    log::warn(&format!(
        "something still holds the output of {name}, ignoring"
    ));
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

async fn detach(rootfs: PathBuf) -> Result<()> {
    aside(move || mounts::detach(&rootfs)).await
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
