//! How a container comes to be: Create, and Start, which runs it or brings a saved one back.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use nix::unistd::geteuid;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::sync::{Mutex as Lock, watch};

use super::{Container, Shim, detach};
use crate::aside::aside;
use crate::bundle::{self, Config};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::execs::Execs;
use crate::io::{Owner, Stdio, Streams};
use crate::lock::lock;
use crate::log;
use crate::mounts;
use crate::oom::Watch;
use crate::options::Options;
use crate::process::{Phase, Process, State};
use crate::protos::events::{TaskCreate, TaskIO, TaskOOM, TaskStart};
use crate::protos::task::CreateTaskRequest;
use crate::reaper::Child;
use crate::runtime::{Newborn, Runtime};

impl Container {
    /// Everything up to the event. What fails leaves nothing behind.
    pub(crate) async fn create(
        shim: &Shim,
        request: CreateTaskRequest,
        closing: watch::Sender<bool>,
    ) -> Result<Arc<Self>> {
        let bundle = PathBuf::from(&request.bundle);
        let config = Config::read(&bundle).map_err(|error| Error::os("read config.json", error))?;
        let options = options(request.options.as_ref(), &config)?;
        bundle::write_options(&bundle, &options)
            .map_err(|error| Error::os("write options.json", error))?;
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            make_directory(&rootfs)?;
            let (mounts, target) = (request.rootfs.clone(), rootfs.clone());
            aside(move || mounts::attach(&mounts, &target)).await?;
        }
        let own_pids = config.has_own_pid_namespace();
        match Self::make(shim, &request, bundle, options, own_pids, closing).await {
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
        has_own_pid_namespace: bool,
        closing: watch::Sender<bool>,
    ) -> Result<Arc<Self>> {
        let owner = Owner {
            namespace: shim.namespace.clone(),
            container: request.id.clone(),
            uid: options.io_uid,
            gid: options.io_gid,
            directory: bundle.clone(),
            stopping: shim.stopping.clone(),
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
            killed: AtomicBool::new(false),
            shim: shim.clone(),
            runtime: Runtime::new(options, &shim.namespace, shim.reaper.clone()),
            owner,
            init: Process::new(streams, State::Registered),
            execs: Execs::default(),
            group: OnceLock::new(),
            images: (!request.checkpoint.is_empty()).then(|| PathBuf::from(&request.checkpoint)),
            has_own_pid_namespace,
            has_mounts: !request.rootfs.is_empty(),
            closing,
            busy: watch::Sender::new(0),
            deleting: Lock::new(()),
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

/// What the client says, and the configuration where it says nothing, or all that is usual: neither Docker nor CRI has options for a runtime of
/// another name, or without a pause container, and both may use systemd's groups and user namespaces.
fn options(any: Option<&Any>, config: &Config) -> Result<Options> {
    let mut options = Options::from_any(any)?;
    if options == Options::default() {
        options.systemd_cgroup = config.has_group_of_systemd();
    }
    // Root of another user namespace could not open the host's root's pipes again, as /dev/stdout. Who is not root gives nothing away.
    if (options.io_uid, options.io_gid) == (0, 0) && geteuid().is_root() {
        (options.io_uid, options.io_gid) = config.root();
    }
    Ok(options)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::{pack, runc_options, runtime_options};

    #[test]
    fn without_options_the_name_of_the_group_says_who_makes_it() {
        let config = |path: &str| {
            let text = format!("{{\"linux\":{{\"cgroupsPath\":\"{path}\"}}}}");
            serde_json::from_str::<Config>(&text).unwrap()
        };
        let (systemds, path) = (config("a.slice:b:c"), config("/a/b"));
        assert!(options(None, &systemds).unwrap().systemd_cgroup);
        assert!(!options(None, &path).unwrap().systemd_cgroup);
        // As CRI has them for a runtime of another name.
        let empty = runtime_options::Options {
            type_url: "io.containerd.caisson.v2".into(),
            ..Default::default()
        };
        let empty = pack("runtimeoptions.v1.Options", &empty).unwrap();
        assert!(options(Some(&empty), &systemds).unwrap().systemd_cgroup);
        let told = runc_options::Options {
            binary_name: "crun".into(),
            ..Default::default()
        };
        let told = pack("containerd.runc.v1.Options", &told).unwrap();
        assert!(!options(Some(&told), &systemds).unwrap().systemd_cgroup);
    }
}
