//! After a start of the daemon: what its predecessor left is found again. Shims go on without a daemon; all are asked at once, while the daemon
//! serves already. Who asks for a container waits until that one is found.
//!
//! A bundle is there while a shim may be, so what has a bundle is asked, and what should run but has none is gone with the machine.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::create::{blocking, restarts};
use super::{Container, Run, Supervisor, bundle};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::lock::lock;
use crate::protos::containers::{State, restart_policy::Name, state::Status};
use crate::records::now;
use crate::shim::{Exit, Launch, Shim, nanoseconds};
use ::shim::protos::task::StateResponse;
use ::shim::protos::task_types::Status as Task;

/// How long a shim may take to say what became of its container.
const ANSWER: Duration = Duration::from_secs(5);
/// How long somebody who asks for a container waits for that.
const PATIENCE: Duration = Duration::from_secs(120);

impl Supervisor {
    /// What was cut off between files and their records: nobody's files go. Before anybody is served. Blocks.
    pub(super) fn sweep(&self) -> Result<()> {
        for entry in entries(&self.host.bundle("")) {
            bundle::close(&entry.path())?;
        }
        let known: HashSet<_> = lock(&self.containers).keys().cloned().collect();
        let removing = || "remove the directory of a container that is gone".to_owned();
        for id in self.store.snapshots().tried(removing)? {
            // Those with other names are of `caissond store`.
            if is_id(&id) && !known.contains(&id) {
                self.store.remove_snapshot(&id).tried(removing)?;
            }
        }
        for entry in entries(&self.host.log("")) {
            let name = entry.file_name();
            if !known.contains(&*name.to_string_lossy()) {
                let removed = fs::remove_dir_all(entry.path());
                removed.tried(|| format!("remove {}", entry.path().display()))?;
            }
        }
        super::volumes::remove_volumes(&self.host, &self.records, &self.records.volumes_gone()?)?;
        let volumes = self.records.volumes()?;
        for entry in entries(&self.host.volume("")) {
            if volumes
                .iter()
                .all(|volume| *entry.file_name() != *volume.name)
            {
                // Only if it is empty, as one is whose creation was cut off: data without a record is for people to look at.
                fs::remove_dir(entry.path()).ok();
            }
        }
        Ok(())
    }

    pub(crate) async fn recover(self: Arc<Self>) {
        let bundles = self.bundles();
        let mut tasks = tokio::task::JoinSet::new();
        // One that has been made meanwhile is known.
        let left = |container: &Arc<Container>| !*container.found.borrow();
        for container in self.list().into_iter().filter(left) {
            let (supervisor, here) = (self.clone(), bundles.contains(&container.id));
            let one: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
                supervisor.find_again(&container, here).await;
                container.found.send_modify(|found| *found = true);
            });
            tasks.spawn(one);
        }
        for id in bundles {
            if lock(&self.containers).contains_key(&id) {
                continue;
            }
            // Of a container whose removal was cut off after its record had gone.
            let supervisor = self.clone();
            tasks.spawn(async move {
                if let Ok(launch) = Launch::new(&supervisor.host, "", None) {
                    supervisor.clear(&id, &launch).await;
                }
            });
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(ANSWER, all).await.is_ok();
        self.recovered.send_modify(|done| *done = true);
        if !in_time {
            while tasks.join_next().await.is_some() {}
        }
    }

    /// However long it takes, which is told.
    async fn find_again(self: &Arc<Self>, container: &Arc<Container>, here: bool) {
        let finding = async {
            match here {
                true => self.adopt(container).await,
                false => self.without_shim(container).await,
            }
        };
        let mut finding = pin!(finding);
        let story = || format!("find container {} again", container.name());
        let found = match tokio::time::timeout(ANSWER, &mut finding).await {
            Ok(found) => found,
            Err(_) => {
                crate::daemon::warn(&Fault::unknown(format!("{}: it takes long", story())));
                finding.await
            }
        };
        if let Err(fault) = found {
            crate::daemon::warn(&fault.during(story()));
        }
        self.go_on_stopping(container);
    }

    fn bundles(&self) -> HashSet<String> {
        entries(&self.host.bundle(""))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    async fn adopt(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let directory = self.host.bundle(&container.id);
        let operation = container.operation.lock().await;
        let launch = Launch::new(&self.host, &container.config().runtime, None)?;
        let Some(address) = bundle::shim(&directory) else {
            // A start that was cut off before its shim was known.
            self.clear(&container.id, &launch).await;
            drop(operation);
            return self.without_shim(container).await;
        };
        let found = async {
            let shim = Shim::connect(&address, &container.id).await?;
            // One that is stopped, or waits for a disk, has a container all the same. Its end is the connection's.
            let state = shim.state(Duration::ZERO).await?;
            Ok::<_, Fault>((Arc::new(shim), state))
        };
        let (shim, state) = match found.await {
            Ok(found) => found,
            Err(fault) if fault.kind == Kind::NotFound => {
                // It lives, and has no such container: either it was not created yet, or its end was noted.
                self.clear(&container.id, &launch).await;
                drop(operation);
                return self.without_shim(container).await;
            }
            Err(_) => {
                drop(operation);
                return self.bury(container, &launch).await;
            }
        };
        let run = Run::new(shim);
        let mut state = state;
        if bundle::is_frozen(&directory) {
            // The daemon was killed while it made an image, or was about to: then there is nobody to wake up, which is an error.
            let woken = self.thaw(container, &run.shim).await;
            state = run.shim.state(ANSWER).await?;
            if matches!(
                state.status.enum_value_or_default(),
                Task::PAUSED | Task::PAUSING
            ) {
                woken?;
            }
        }
        match state.status.enum_value_or_default() {
            Task::RUNNING | Task::PAUSED | Task::PAUSING => {
                *lock(&container.run) = Some(run.clone());
                // Its end is to be noticed also if this cannot be noted.
                let noted = self.runs(container, &state).await;
                tokio::spawn(self.clone().supervise(container.clone(), run));
                return noted;
            }
            Task::STOPPED => {
                let exit = Exit {
                    code: state.exit_status,
                    at: nanoseconds(&state.exited_at),
                };
                let known = container.record().state.finished_at == exit.at;
                if !known || container.is_alive() {
                    *lock(&container.run) = Some(run.clone());
                    drop(operation);
                    self.ended(container, &run, Some(exit)).await;
                    return Ok(());
                }
            }
            // Created and not started, when the daemon went.
            _ => {}
        }
        self.clear(&container.id, &launch).await;
        drop(operation);
        self.without_shim(container).await
    }

    /// Notes what the shim says of one that runs.
    async fn runs(&self, container: &Container, state: &StateResponse) -> Result<()> {
        let status = match state.status.enum_value_or_default() {
            Task::RUNNING => Status::RUNNING,
            _ => Status::PAUSED,
        };
        self.note(container, None, &[], |record| {
            let kept = record.state.mut_or_insert_default();
            kept.status = status.into();
            kept.pid = state.pid;
            if kept.started_at <= kept.finished_at {
                // Its start was cut off before it was noted.
                kept.started_at = now();
                kept.oom_killed = false;
            }
        })
        .await
    }

    /// The shim is gone: its binary cleans up, and the exit is what the shim wrote down, if it did.
    async fn bury(self: &Arc<Self>, container: &Arc<Container>, launch: &Launch) -> Result<()> {
        let (host, id, launch) = (self.host.clone(), container.id.clone(), launch.clone());
        let (told, cleaned) = blocking(move || {
            let directory = host.bundle(&id);
            let told = bundle::exit(&directory);
            let cleaned = crate::shim::clean_up(&launch, &host, &id, &directory);
            Ok((told, cleaned.ok()))
        })
        .await?;
        if container.is_alive() {
            self.oom_at_the_end(container, told.as_ref()).await;
        }
        let lost = told.as_ref().map_or(0, |told| told.dropped);
        let known = told.map(|told| (told.status, told.time));
        let known = known.or_else(|| cleaned.map(|exit| (exit.code, exit.at)));
        let (code, at) = known.unwrap_or((super::end::UNKNOWN, now()));
        let more = |state: &mut State| {
            state.finished_at = at;
            state.lost_output += lost;
        };
        self.note_lost(container, code, more).await;
        // Not before: what the shim wrote down is in it.
        let directory = self.host.bundle(&container.id);
        blocking(move || bundle::remove(&directory)).await?;
        self.follow_policy(container).await
    }

    /// There is no shim for it.
    async fn without_shim(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let more = |state: &mut State| {
            state.finished_at = now();
            state.error = "ended with the machine: its exit code is not known".into();
        };
        self.lost(container, super::end::UNKNOWN, more).await
    }

    /// Notes the end of one that was alive when it was last seen, and does what its policy says.
    async fn lost(
        self: &Arc<Self>,
        container: &Arc<Container>,
        code: u32,
        more: impl FnOnce(&mut State),
    ) -> Result<()> {
        self.note_lost(container, code, more).await;
        self.follow_policy(container).await
    }

    async fn note_lost(
        &self,
        container: &Arc<Container>,
        code: u32,
        more: impl FnOnce(&mut State),
    ) {
        if !container.is_alive() {
            return;
        }
        let text = code.to_string();
        let told = [("exitCode", &*text)];
        let noticed = self.notice(container, Some("die"), &told, |record| {
            let state = record.state.mut_or_insert_default();
            state.status = Status::EXITED.into();
            state.exit_code = i32::try_from(code).unwrap_or(-1);
            state.pid = 0;
            state.kill_at = 0;
            state.shim.clear();
            more(state);
        });
        noticed.await;
    }

    async fn follow_policy(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let config = container.config();
        let state = container.record().state.unwrap_or_default();
        let created = super::create::status(&state) == Status::CREATED;
        // One that was never started, too, as with Docker's daemon: who ran it has lost his daemon before he could.
        if super::end::goes(&config, &state) {
            return self.remove(container, true, true).await;
        }
        // Even one that was stopped is to run again after a start of the daemon, if its policy is ALWAYS.
        let always = config.restart.name.enum_value_or_default() == Name::ALWAYS;
        if created
            || state.start_after
            || !restarts(
                &config,
                &State {
                    stopped: state.stopped && !always,
                    ..state.clone()
                },
            )
        {
            return Ok(());
        }
        self.notice(container, None, &[], |record| {
            let state = record.state.mut_or_insert_default();
            state.status = Status::RESTARTING.into();
            state.stopped = false;
            state.pid = 0;
        })
        .await;
        self.clone().restart_later(container.clone());
        Ok(())
    }

    /// By its name or id; what became of it while there was no daemon is known.
    pub(crate) async fn found(&self, name: &str) -> Result<Arc<Container>> {
        let container = self.find(name)?;
        if *container.found.borrow() {
            return Ok(container);
        }
        let mut found = container.found.subscribe();
        // The sender is in the container.
        let in_time = tokio::time::timeout(PATIENCE, found.wait_for(|found| *found)).await;
        if in_time.is_err() {
            return Err(Fault::of(
                Kind::Unavailable,
                format!("the shim of container {} does not answer", container.name()),
            ));
        }
        // It may have gone with its end.
        self.find(name)
    }

    /// The same for who removes it by force: a shim that has not answered in time is ended.
    pub(crate) async fn found_or_ended(&self, name: &str) -> Result<Arc<Container>> {
        let container = self.find(name)?;
        let mut found = container.found.subscribe();
        let finding = found.wait_for(|found| *found);
        let late = tokio::time::timeout(ANSWER, finding).await.is_err();
        if late {
            self.end_shim(&container)?;
        }
        self.found(name).await
    }

    /// Waits until all that the last daemon left has been found again, or has had its time.
    pub(crate) async fn recovered(&self) {
        // The sender is here.
        self.recovered.subscribe().wait_for(|done| *done).await.ok();
    }
}

/// Of a directory; none if there is no such.
fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

/// As [`super::random`] makes them.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
