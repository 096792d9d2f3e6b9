//! Starting a container: its bundle, its shim, its process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protobuf::MessageField;

use super::create::{blocking, defaults, of_image, restarts, status};
use super::layers::Layers;
use super::{Container, Run, Supervisor, bundle};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::layer::Snapshot;
use crate::lock::lock;
use crate::protos::containers::{
    Config, Container as Record, Ids, LogOptions, Size, State, state::Status,
};
use crate::records::now;
use crate::shim::{Launch, Shim};
use crate::spec;
use ::shim::protos::task::CreateTaskRequest;
use ::shim::protos::types::Mount;

/// Bytes of one file of a log, and the number of files.
const MAX_SIZE: u64 = 10 << 20;
const MAX_FILES: u64 = 5;
/// The same of one that nobody may read later.
const UNSEEN: (u64, u64) = (1 << 20, 2);

/// What a start has ready before there is a process.
struct Ready {
    bundle: PathBuf,
    launch: Launch,
    address: String,
    rootfs: Mount,
}

impl Supervisor {
    /// Its pid. What fails leaves the container as it was, with the reason in its state.
    pub(crate) async fn start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        size: Option<Size>,
    ) -> Result<u32> {
        let _operation = container.operation.lock().await;
        self.check_known(container)?;
        if container.is_alive() {
            return Ok(container.record().state.pid);
        }
        let before = begun_by_hand(container, &mut lock(&container.record));
        self.launch(container, before, size, false).await
    }

    /// The end of a restart, unless somebody has stopped the container since that was asked for. As it was not to stay down, its policy goes on
    /// with what fails.
    pub(super) async fn start_after(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        self.check_known(container)?;
        if container.is_alive() {
            return Ok(());
        }
        let before = {
            let mut record = lock(&container.record);
            let state = record.state.get_or_default();
            if state.stopped && !state.start_after {
                return Err(Fault::precondition(format!(
                    "container {} was stopped during its restart, and stays so",
                    record.name
                )));
            }
            begun_by_hand(container, &mut record)
        };
        let launched = self.launch(container, before, None, true).await;
        self.again_if_it_failed(container);
        launched.map(drop)
    }

    /// It is not gone, nor about to.
    pub(super) fn check_known(&self, container: &Container) -> Result<()> {
        if !self.is_known(container) {
            return Err(Fault::not_found(format!(
                "no such container: {}",
                container.name()
            )));
        }
        if *container.going.borrow() {
            return Err(Fault::precondition(format!(
                "container {} is being removed",
                container.name()
            )));
        }
        Ok(())
    }

    /// The same for a client who has just made it: what goes with its end goes when it cannot even begin.
    pub(crate) async fn start_or_forget(
        self: &Arc<Self>,
        container: &Arc<Container>,
        size: Option<Size>,
    ) -> Result<u32> {
        let started = self.start(container, size).await;
        if started.is_err() {
            self.forget_unstarted(container).await?;
        }
        started
    }

    pub(super) async fn forget_unstarted(&self, container: &Arc<Container>) -> Result<()> {
        if container.config().auto_remove && !container.is_active() {
            self.remove_ended(container, true).await?;
        }
        Ok(())
    }

    /// With the operation's lock held, after [`begun`]; with `again`, for its policy, which a failure is as good as an end for.
    pub(super) async fn launch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        before: State,
        size: Option<Size>,
        again: bool,
    ) -> Result<u32> {
        match self.launched(container, size).await {
            Ok(pid) => Ok(pid),
            Err(fault) => {
                let noticed = self.notice(container, None, &[], |record| {
                    let state = State {
                        stopped: record.state.stopped,
                        ..before
                    };
                    record.state = Some(unstarted(&record.config, state, &fault, again)).into();
                });
                noticed.await;
                Err(fault)
            }
        }
    }

    async fn launched(
        self: &Arc<Self>,
        container: &Arc<Container>,
        size: Option<Size>,
    ) -> Result<u32> {
        let (supervisor, record) = (self.clone(), container.record());
        let ready = blocking(move || supervisor.prepare(&record)).await?;
        match self.make(container, &ready, size).await {
            Ok(pid) => Ok(pid),
            Err(fault) => {
                // It will not end, as it never ran.
                lock(&container.run).take();
                self.clear(&container.id, &ready.launch).await;
                Err(fault)
            }
        }
    }

    /// Everything up to a shim that listens. Blocks.
    fn prepare(&self, record: &Record) -> Result<Ready> {
        let config = record.config.get_or_default();
        let image = self
            .store
            .image(&record.image_id)
            .map_err(|error| of_image(&error))?;
        let snapshot = self
            .store
            .snapshot(&record.id, &image)
            .tried(|| "make the container's directory".into())?;
        super::ids::own(&snapshot, record)?;
        let layers = Layers::of(&snapshot);
        super::mtab::make(&snapshot.upper, &layers, record.ids.as_ref())?;
        let launch = Launch::new(&self.host, &config.runtime, record.ids.as_ref())?;
        let directory = self.host.bundle(&record.id);
        bundle::make(&directory, record.ids.as_ref())?;
        let made = || -> Result<String> {
            let image = defaults(&image);
            let found = self.look_up(record, &image, &layers)?;
            self.fill_volumes(record, &snapshot)?;
            let spec = spec::build(config, &image, &found)?;
            bundle::write(&directory, "config.json", &spec.to_string(), 0o600)?;
            if config.interactive {
                bundle::fifo(&directory.join("stdin"))?;
            }
            let log = self.host.log(&record.id);
            std::fs::create_dir_all(&log).tried(|| format!("make {}", log.display()))?;
            // Until there is an address, somebody who comes later knows at least that there may be a shim.
            let address = launch.start(&self.host, &record.id, &directory)?;
            bundle::note_shim(&directory, &address)?;
            Ok(address)
        };
        let address = made().inspect_err(|_| {
            // The first fault is the one to report.
            bundle::remove(&directory).ok();
        })?;
        Ok(Ready {
            rootfs: overlay(&snapshot, record.ids.as_ref()),
            bundle: directory,
            launch,
            address,
        })
    }

    async fn make(
        self: &Arc<Self>,
        container: &Arc<Container>,
        ready: &Ready,
        size: Option<Size>,
    ) -> Result<u32> {
        let record = container.record();
        let config = record.config.get_or_default();
        let shim = Arc::new(Shim::connect(&ready.address, &record.id).await?);
        let log = output(&self.host.log(&record.id), &config.log, ready.launch.ours);
        let stdin = config
            .interactive
            .then(|| ready.bundle.join("stdin").display().to_string());
        let request = CreateTaskRequest {
            id: record.id.clone(),
            bundle: ready.bundle.display().to_string(),
            rootfs: vec![ready.rootfs.clone()],
            terminal: config.terminal,
            stdin: stdin.unwrap_or_default(),
            stderr: if config.terminal {
                String::new()
            } else {
                log.clone()
            },
            stdout: log,
            options: MessageField(ready.launch.options.clone().map(Box::new)),
            ..Default::default()
        };
        let pid = shim.create(&request).await?;
        if let Some(size) = size.filter(|_| config.terminal) {
            shim.resize("", size.width, size.height).await?;
        }
        let run = Run::new(shim.clone());
        // What the shim tells before its process is noted is told of this run.
        *lock(&container.run) = Some(run.clone());
        shim.start("").await?;
        let address = shim.address();
        let noted = self.note(container, Some("start"), &[], |record| {
            let state = record.state.mut_or_insert_default();
            state.status = Status::RUNNING.into();
            state.pid = pid;
            state.started_at = now();
            state.finished_at = 0;
            state.exit_code = 0;
            state.oom_killed = false;
            state.start_after = false;
            state.error.clear();
            state.shim = address;
        });
        noted.await?;
        tokio::spawn(self.clone().supervise(container.clone(), run));
        Ok(pid)
    }

    /// A shim whose container is not to be, and its bundle, go.
    pub(super) async fn clear(&self, id: &str, launch: &Launch) {
        let directory = self.host.bundle(id);
        let mut answered = false;
        if let Some(address) = bundle::shim(&directory)
            && let Ok(shim) = Shim::connect(&address, id).await
        {
            // It may be in any state, or not be at all; what counts is that the shim is gone in the end.
            shim.kill("", 9).await.ok();
            let deleted = shim.delete("").await;
            answered = deleted.map_or_else(|fault| fault.kind != Kind::Unavailable, |_| true);
            shim.shut_down().await;
        }
        let (host, id, launch) = (self.host.clone(), id.to_owned(), launch.clone());
        let cleared = blocking(move || {
            // A shim that nobody has heard of may live all the same, and one that has died may have been making the container.
            let cleaned = if !answered || directory.join("init.pid").exists() {
                crate::shim::clean_up(&launch, &host, &id, &directory).map(drop)
            } else {
                Ok(())
            };
            // What is mounted in it must not stay, whatever the shim's binary could not do.
            bundle::remove(&directory).and(cleaned)
        });
        if let Err(fault) = cleared.await {
            crate::daemon::warn(&fault.during("clean up after a container"));
        }
    }
}

/// Whoever stops it from now on waits for its start. What it was before.
pub(super) fn begun(state: &mut State) -> State {
    let before = state.clone();
    state.status = Status::STARTING.into();
    before
}

/// The same for somebody who wants it to stay up, however often it did not; a stop from now on counts.
fn begun_by_hand(container: &Container, record: &mut Record) -> State {
    container.short_lives.store(0, Ordering::Relaxed);
    let state = record.state.mut_or_insert_default();
    (state.stopped, state.restarts) = (false, 0);
    begun(state)
}

/// What a container is whose start has failed: what it was before, or what the policy makes of it, noted at once. A daemon that is killed
/// after a note of its end only would have let go of it.
fn unstarted(config: &Config, before: State, fault: &Fault, again: bool) -> State {
    let mut state = before;
    state.start_after = false;
    state.exit_code = match fault.kind {
        Kind::NoProgram => 127,
        Kind::NotExecutable => 126,
        _ => 128,
    };
    state.error.clone_from(&fault.text);
    state.pid = 0;
    if status(&state) != Status::CREATED {
        let restarts = again && restarts(config, &state);
        let status = if restarts {
            Status::RESTARTING
        } else {
            Status::EXITED
        };
        state.status = status.into();
        state.finished_at = now();
    }
    state
}

/// Where its output goes: a log that our shim writes, or a file that any shim does.
fn output(directory: &Path, options: &LogOptions, ours: bool) -> String {
    let path = directory.join(super::log::NAME);
    if !ours {
        return match options.none {
            true => String::new(),
            false => format!("file://{}", path.display()),
        };
    }
    let (size, files) = match options.none {
        // Only for those who are attached, and have open what they have not read yet.
        true => UNSEEN,
        false => log_size(options),
    };
    format!("log://{}?max-size={size}&max-files={files}", path.display())
}

/// Bytes of each file of a log, and the number of files.
pub(crate) fn log_size(options: &LogOptions) -> (u64, u64) {
    let or = |given, usual| if given == 0 { usual } else { given };
    let (size, files) = (options.max_size, options.max_files.into());
    (or(size, MAX_SIZE), or(files, MAX_FILES))
}

fn overlay(snapshot: &Snapshot, ids: Option<&Ids>) -> Mount {
    let lower: Vec<_> = snapshot
        .lower
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    // Layers stay as they are; the shim mounts them id-mapped.
    let maps = ids.into_iter().flat_map(|ids| {
        [("uidmap", ids.first_uid), ("gidmap", ids.first_gid)]
            .map(|(word, first)| format!("{word}=0:{first}:{}", ids.size))
    });
    Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: [
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", snapshot.upper.display()),
            format!("workdir={}", snapshot.work.display()),
        ]
        .into_iter()
        .chain(crate::copy::OVERLAY_OPTIONS.map(String::from))
        .chain(maps)
        .collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::containers::{RestartPolicy, restart_policy::Name};

    #[test]
    fn who_is_to_be_started_again_has_not_ended_by_a_start_that_fails() {
        let config = Config {
            restart: Some(RestartPolicy {
                name: Name::ON_FAILURE.into(),
                maximum: 2,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        let after = |before: Status, restarts, stopped, again| {
            let before = State {
                status: before.into(),
                restarts,
                stopped,
                ..Default::default()
            };
            let state = unstarted(&config, before, &Fault::new("it is so"), again);
            assert_eq!((state.exit_code, &*state.error), (128, "it is so"));
            status(&state)
        };
        assert_eq!(
            after(Status::RESTARTING, 1, false, true),
            Status::RESTARTING
        );
        // The policy has had enough of it, somebody has stopped it, or started it by hand.
        assert_eq!(after(Status::RESTARTING, 2, false, true), Status::EXITED);
        assert_eq!(after(Status::RESTARTING, 1, true, true), Status::EXITED);
        assert_eq!(after(Status::RESTARTING, 0, false, false), Status::EXITED);
        assert_eq!(after(Status::EXITED, 0, false, false), Status::EXITED);
        assert_eq!(after(Status::CREATED, 0, false, false), Status::CREATED);
    }
}
