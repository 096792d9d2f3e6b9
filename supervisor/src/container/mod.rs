//! Containers: what is kept of them, and what can be done with them. Each has a shim while it runs; the daemon knows its processes only
//! through that.
//!
//! ```text
//!            start                              the shim's Wait comes back
//! CREATED ──────────▶ STARTING ──▶ RUNNING ─────────────────────────▶ EXITED ──▶ removed, or
//!    ▲                                 ▲ │ pause, unpause                │        RESTARTING ──▶ STARTING
//!    │ it could not be started         │ ▼                               ▼
//!    └── EXITED                       PAUSED                           start
//! ```
//!
//! One operation on a container at a time, under its `operation` lock; what only reads takes none. A status that is on disk is true or will
//! be made true by [`recovery`], at the next start of the daemon: a bundle is there while, and only while, a shim may be.

mod apparmor;
mod attach;
mod bundle;
mod commit;
mod copy;
mod create;
mod end;
mod exec;
mod flow;
mod ids;
mod layers;
mod log;
mod log_record;
mod log_watch;
mod look_up;
mod mtab;
mod operations;
mod recovery;
mod start;
mod stats;
mod stop;
mod volumes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use ttrpc::r#async::shutdown;

use crate::fault::{Fault, Kind, Result};
use crate::host::Host;
use crate::lock::lock;
use crate::protos::containers::{Config, Container as Record, Ids, state::Status};
use crate::records::{Change, Records, event, now};
use crate::shim::Shim;
use crate::store::Store;

pub(crate) use apparmor::{has_apparmor, warnings};
pub(crate) use attach::attach;
pub(crate) use copy::{copy_in, copy_out};
pub(crate) use create::{blocking, random, signal};
pub(crate) use exec::exec;
pub(crate) use log::{Follower, From};
pub(crate) use log_record::{span, text_of, time_in, time_of};
pub(crate) use start::log_size;

/// What is under way at the daemon's end has so long: a second less than the daemon, which is to have the time to say so.
const GRACE: Duration = Duration::from_secs(crate::daemon::PATIENCE.as_secs() - 1);

/// What all operations need.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) host: Host,
    pub(crate) store: Arc<Store>,
    pub(crate) records: Records,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Names that an operation has taken before its container is there.
    reserved: Mutex<Vec<String>>,
    /// And ranges of ids.
    taken: Mutex<Vec<Ids>>,
    filling: volumes::Filling,
    profile: apparmor::Profile,
    pub(crate) watches: log_watch::Watches,
    /// True when all containers of the last daemon have been found again, or have had their time.
    recovered: watch::Sender<bool>,
    /// Tells of this daemon's end. Who does what is to be finished before that subscribes to it meanwhile.
    pub(crate) ending: shutdown::Notifier,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    record: Arc<Mutex<Record>>,
    operation: tokio::sync::Mutex<()>,
    /// Whoever starts a process in it reads this, and an image of it is made by whoever writes it: it may be frozen then.
    awake: tokio::sync::RwLock<()>,
    run: Mutex<Option<Arc<Run>>>,
    /// Something about its status has changed.
    changed: watch::Sender<()>,
    /// How often in a row it has ended soon after its start.
    short_lives: AtomicU32,
    /// True while it is removed by force: nobody starts it any more, and nobody who copies its files is waited for.
    going: watch::Sender<bool>,
    /// True when it is known what became of it while there was no daemon.
    found: watch::Sender<bool>,
}

/// From a start to its end.
#[derive(Debug)]
pub(crate) struct Run {
    shim: Arc<Shim>,
    /// The exit code, when the log is complete.
    ended: watch::Sender<Option<i32>>,
    /// Its end is not the container's: the policy starts that again.
    again: AtomicBool,
    /// All is over: it has been removed, if it was to be.
    settled: watch::Sender<bool>,
    /// Who still reads its log holds a receiver: a container that goes with its end waits for them.
    readers: watch::Sender<()>,
    /// Who copies its files holds a receiver: after its end nobody does anything with the container until they have done. True for one that
    /// does not stay down, so that nobody is to wait.
    copies: watch::Sender<bool>,
    /// Bytes of its output that its log lacks; known when it has ended.
    lost_output: AtomicU64,
}

impl Run {
    fn new(shim: Arc<Shim>) -> Arc<Self> {
        Arc::new(Self {
            shim,
            ended: watch::Sender::new(None),
            again: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            readers: watch::Sender::new(()),
            copies: watch::Sender::new(false),
            lost_output: AtomicU64::new(0),
        })
    }

    /// The exit code, when there is one.
    async fn ended(&self) -> i32 {
        // The sender is here.
        let mut ended = self.ended.subscribe();
        let code = ended.wait_for(Option::is_some).await;
        code.ok().and_then(|code| *code).unwrap_or_default()
    }

    /// Until all is over.
    async fn settled(&self) {
        // The sender is here.
        let mut settled = self.settled.subscribe();
        settled.wait_for(|settled| *settled).await.ok();
    }
}

impl Container {
    fn new(record: Record, found: bool) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: Arc::new(Mutex::new(record)),
            operation: tokio::sync::Mutex::default(),
            awake: tokio::sync::RwLock::default(),
            run: Mutex::default(),
            changed: watch::Sender::new(()),
            short_lives: AtomicU32::new(0),
            going: watch::Sender::new(false),
            found: watch::Sender::new(found),
        })
    }

    pub(crate) fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    pub(crate) fn status(&self) -> Status {
        let record = lock(&self.record);
        record.state.status.enum_value().unwrap_or(Status::EXITED)
    }

    pub(crate) fn config(&self) -> Config {
        lock(&self.record).config.clone().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> String {
        lock(&self.record).name.clone()
    }

    /// It has processes.
    pub(crate) fn is_alive(&self) -> bool {
        is_alive(self.status())
    }

    pub(crate) fn run(&self) -> Option<Arc<Run>> {
        lock(&self.run).clone()
    }

    /// Its shim, if it runs.
    pub(crate) fn shim(&self) -> Result<Arc<Shim>> {
        let run = self.run().filter(|_| self.is_alive());
        run.map(|run| run.shim.clone())
            .ok_or_else(|| self.not_running())
    }

    fn not_running(&self) -> Fault {
        Fault::precondition(format!("container {} is not running", self.name()))
    }

    /// What its policy has started after this run, which has ended; none if that was the last one.
    async fn run_after(&self, run: &Arc<Run>) -> Option<Arc<Run>> {
        if !run.again.load(Ordering::Relaxed) {
            return None;
        }
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            // Not in the midst of a start.
            drop(self.operation.lock().await);
            match self.run() {
                Some(next) if !Arc::ptr_eq(&next, run) => return Some(next),
                _ if !self.is_active() => return None,
                _ => changed.changed().await.ok()?,
            }
        }
    }

    /// It runs, or is about to.
    pub(crate) fn is_active(&self) -> bool {
        self.is_alive() || matches!(self.status(), Status::STARTING | Status::RESTARTING)
    }

    /// Whether nothing more comes to its log; with `follow`, as soon as that is so. The sender of the first is in the second's place.
    pub(crate) fn log_over(&self, follow: bool) -> (watch::Sender<bool>, watch::Receiver<bool>) {
        let sender = watch::Sender::new(true);
        let receiver = sender.subscribe();
        let run = self.run().filter(|_| follow && self.is_alive());
        if let Some(run) = run {
            sender.send_modify(|over| *over = false);
            let noticed = sender.clone();
            tokio::spawn(async move {
                let mut ended = run.ended.subscribe();
                tokio::select! {
                    _ = ended.wait_for(Option::is_some) => noticed.send_modify(|over| *over = true),
                    // The reader has left.
                    () = noticed.closed() => {}
                }
            });
        }
        (sender, receiver)
    }
}

impl Supervisor {
    /// Blocks.
    pub(crate) fn open(host: Host, store: Arc<Store>) -> Result<Arc<Self>> {
        let records = Records::open(store.clone())?;
        let containers = records.containers()?;
        let containers = containers
            .into_iter()
            .map(|record| (record.id.clone(), Container::new(record, false)));
        let supervisor = Arc::new(Self {
            containers: Mutex::new(containers.collect()),
            reserved: Mutex::default(),
            taken: Mutex::default(),
            filling: volumes::Filling::default(),
            profile: apparmor::Profile::default(),
            watches: log_watch::Watches::default(),
            recovered: watch::Sender::new(false),
            ending: shutdown::new().0,
            host,
            store,
            records,
        });
        if let Err(fault) = supervisor.sweep() {
            crate::daemon::warn(&fault.during("remove what the last daemon left"));
        }
        Ok(supervisor)
    }

    /// What a client waits for, and the daemon does not: what may last for ever.
    pub(crate) async fn until_the_end<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let then = "containers go on, ask the next one";
        self.for_so_long(work, Duration::ZERO, then).await
    }

    /// What this daemon does as long as it lasts, and the next one goes on with.
    pub(crate) async fn until_cut_off<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let then = "the next one goes on with this";
        self.for_so_long(work, GRACE, then).await
    }

    /// After the daemon has been told to end.
    async fn for_so_long<T>(
        &self,
        work: impl Future<Output = Result<T>>,
        grace: Duration,
        then: &str,
    ) -> Result<T> {
        let ending = self.ending.subscribe();
        let over = async {
            ending.wait_shutdown().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            done = work => done,
            () = over => Err(Fault::of(
                Kind::Unavailable,
                format!("the daemon has been told to end: {then}"),
            )),
        }
    }

    /// By id, by name, or by a prefix of the id that no other has.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        let name = bare(name);
        let containers = lock(&self.containers);
        if let Some(container) = containers.get(name) {
            return Ok(container.clone());
        }
        let by_name = containers
            .values()
            .find(|container| container.name() == name);
        if let Some(container) = by_name {
            return Ok(container.clone());
        }
        let mut with_prefix = containers
            .values()
            .filter(|container| !name.is_empty() && container.id.starts_with(name));
        match (with_prefix.next(), with_prefix.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Fault::new(format!(
                "several containers have ids that begin with '{name}'"
            ))),
            _ => Err(Fault::not_found(format!("no such container: {name}"))),
        }
    }

    /// It has not been removed.
    fn is_known(&self, container: &Container) -> bool {
        lock(&self.containers).contains_key(&container.id)
    }

    /// The newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = lock(&self.containers).values().cloned().collect();
        all.sort_by_key(|container| std::cmp::Reverse(lock(&container.record).created_at));
        all
    }

    /// Edits the record, and writes it with an event.
    pub(crate) async fn note(
        &self,
        container: &Container,
        action: Option<&str>,
        attributes: &[(&str, &str)],
        edit: impl FnOnce(&mut Record),
    ) -> Result<()> {
        let record = {
            let mut record = lock(&container.record);
            edit(&mut record);
            record.clone()
        };
        container.changed.send_modify(|()| {});
        let mut change = Change::default();
        if let Some(action) = action {
            change = change.event(told(&record, action, attributes));
        }
        change.containers.push(container.record.clone());
        self.records.apply(change).await
    }

    /// The same for what has happened: that it cannot be written, as on a full disk, undoes nothing, and is told in the daemon's log only.
    pub(crate) async fn notice(
        &self,
        container: &Container,
        action: Option<&str>,
        attributes: &[(&str, &str)],
        edit: impl FnOnce(&mut Record),
    ) {
        if let Err(fault) = self.note(container, action, attributes, edit).await {
            let name = container.name();
            let what = action.unwrap_or("status");
            crate::daemon::warn(&fault.during(format_args!("note the {what} of container {name}")));
        }
    }

    /// The same for a name or a configuration, which are what the disk has. With the operation's lock held.
    async fn note_or_undo(
        &self,
        container: &Container,
        action: &str,
        edit: impl FnOnce(&mut Record),
    ) -> Result<()> {
        let before = container.record();
        let noted = self.note(container, Some(action), &[], edit).await;
        if noted.is_err() {
            let mut record = lock(&container.record);
            (record.name, record.config) = (before.name, before.config);
        }
        noted
    }

    /// Its shim says that processes of it were killed for want of memory, and when; it may live on. When this comes back, that is noted: what
    /// happens meanwhile the shim tells as one, and the end after it.
    pub(crate) async fn told_oom(&self, container: &Container, at: i64) {
        // A status that only passes is not for the disk.
        let mut changed = container.changed.subscribe();
        while container.status() == Status::STARTING && changed.changed().await.is_ok() {}
        // Of one that has ended, exit.json has told. A shim whose daemon died before it answered tells again.
        let known = container.record().state.unwrap_or_default();
        if container.is_alive() && !(known.oom_killed && known.oom_told_at == at) {
            self.notice_oom(container, at).await;
        }
    }

    async fn notice_oom(&self, container: &Container, at: i64) {
        self.notice(container, Some("oom"), &[], |record| {
            let state = record.state.mut_or_insert_default();
            (state.oom_killed, state.oom_told_at) = (true, at);
        })
        .await;
    }

    /// The same by exit.json, if the shim has not come to telling it.
    async fn oom_at_the_end(&self, container: &Container, exit: Option<&bundle::Exit>) {
        if exit.is_some_and(|exit| exit.oom) && !container.record().state.oom_killed {
            self.notice_oom(container, now()).await;
        }
    }

    /// Writes an event of what has happened to a container and changes nothing of its record.
    async fn tell_of(&self, container: &Container, action: &str, attributes: &[(&str, &str)]) {
        let event = told(&container.record(), action, attributes);
        self.tell(Change::default().event(event)).await;
    }

    /// Writes an event of what has happened, as far as it can be written.
    pub(crate) async fn tell(&self, change: Change) {
        if let Err(fault) = self.records.apply(change).await {
            crate::daemon::warn(&fault.during("note what has happened"));
        }
    }
}

fn is_alive(status: Status) -> bool {
    matches!(status, Status::RUNNING | Status::PAUSED)
}

/// A name without the slash that lists and `inspect` have before it, as Docker's.
fn bare(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// An event about a container.
fn told(
    record: &Record,
    action: &str,
    attributes: &[(&str, &str)],
) -> crate::protos::system::Event {
    let config = record.config.get_or_default();
    let labels = config.labels.iter();
    let mut known: Vec<(&str, &str)> = labels.map(|(name, value)| (&**name, &**value)).collect();
    // What comes later counts.
    known.extend([("name", &*record.name), ("image", &*config.image)]);
    known.extend_from_slice(attributes);
    event("container", action, &record.id, &known)
}
