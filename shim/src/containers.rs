//! The containers of a shim: one, or those of a pod, and the pod itself if it has no pause container. The map is locked to look something up, never across a wait.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::container::{Container, Shim};
use crate::error::{Error, Kind, Result};
use crate::execs::Gone;
use crate::lock::lock;
use crate::pod::Pod;
use crate::process::{Ended, State};
use crate::protos::task::CreateTaskRequest;

/// How long the end of all waits for what is being created: its command is killed, and what that left is removed.
const COMING: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Containers {
    shim: Shim,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    here: HashMap<String, Slot>,
    gone: Gone,
    pod: Option<Arc<Pod>>,
    /// The shim ends: what comes now would be nobody's.
    closed: bool,
}

impl Known {
    fn admits(&self) -> Result<()> {
        if self.closed {
            return Err(Error::precondition("the shim is ending"));
        }
        self.pod.as_ref().map_or(Ok(()), |pod| pod.admits())
    }

    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.pod.is_none()
    }
}

#[derive(Debug)]
enum Slot {
    /// It is being created; the command that does so has not long any more when this says so.
    Coming(watch::Sender<bool>),
    Here(Arc<Container>),
}

impl Slot {
    fn is_coming(&self) -> bool {
        matches!(self, Self::Coming(_))
    }

    fn container(&self) -> Option<&Arc<Container>> {
        match self {
            Self::Coming(_) => None,
            Self::Here(container) => Some(container),
        }
    }
}

impl Containers {
    pub(crate) fn new(shim: Shim) -> Self {
        Self {
            shim,
            known: Mutex::default(),
        }
    }

    pub(crate) async fn create(&self, request: CreateTaskRequest) -> Result<i32> {
        let id = request.id.clone();
        let (pod, closing) = self.change(|known| {
            known.admits()?;
            if known.here.contains_key(&id) {
                return Err(Error::new(Kind::AlreadyExists, format!("container {id}")));
            }
            known.gone.forget(&id);
            let closing = watch::Sender::new(false);
            known.here.insert(id.clone(), Slot::Coming(closing.clone()));
            Ok((known.pod.clone(), closing))
        })?;
        let joined = pod.map_or(Ok(()), |pod| pod.join(Path::new(&request.bundle)));
        let created = match joined {
            Ok(()) => Container::create(&self.shim, request, closing).await,
            Err(error) => Err(error),
        };
        self.change(|known| match created {
            Ok(container) => {
                let pid = container.init.pid();
                known.here.insert(id, Slot::Here(container));
                Ok(pid)
            }
            Err(error) => {
                known.here.remove(&id);
                Err(error)
            }
        })
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Container>> {
        self.known()
            .here
            .get(id)
            .and_then(Slot::container)
            .cloned()
            .ok_or_else(|| Error::not_found("container not created"))
    }

    /// The end of one that was deleted.
    pub(crate) fn gone(&self, id: &str) -> Option<Ended> {
        self.known().gone.get(id)
    }

    /// One that is being created is waited for: a client that gave up on Create asks for this, and nobody else would know of it.
    pub(crate) async fn delete(&self, id: &str) -> Result<Ended> {
        let mut changes = self.changes();
        while self.known().here.get(id).is_some_and(Slot::is_coming) {
            // The sender is here.
            changes.changed().await.ok();
        }
        let container = match self.get(id) {
            Ok(container) => container,
            Err(error) => return self.gone(id).ok_or(error),
        };
        let ended = container.delete().await?;
        self.change(|known| {
            // A call that came second may find a new container of that name.
            if matches!(known.here.get(id), Some(Slot::Here(here)) if Arc::ptr_eq(here, &container))
            {
                known.here.remove(id);
                known.gone.remember(id, ended);
            }
        });
        Ok(ended)
    }

    /// Ends all of them. Those that listen to SIGTERM have this time for it. No other comes meanwhile: the pod is closed. Those that are
    /// being created have no time, and keep nobody from ending.
    pub(crate) async fn end(&self, patience: Duration) -> Result<()> {
        for slot in self.known().here.values() {
            if let Slot::Coming(closing) = slot {
                closing.send_replace(true);
            }
        }
        let here = self.here();
        if !patience.is_zero() {
            let ended = async {
                // What they do not take the next signal will tell.
                kill(&here, libc::SIGTERM).await.ok();
                ended(&here).await;
            };
            timeout(patience, ended).await.ok();
        }
        kill(&here, libc::SIGKILL).await?;
        let Ok(here) = timeout(COMING, self.all()).await else {
            let story = "a container is still being created";
            return Err(Error::new(Kind::DeadlineExceeded, story));
        };
        kill(&here, libc::SIGKILL).await?;
        ended(&here).await;
        Ok(())
    }

    /// Those with something to end, when none is being created any more.
    async fn all(&self) -> Vec<Arc<Container>> {
        let mut changes = self.changes();
        while self.known().here.values().any(Slot::is_coming) {
            // The sender is here.
            changes.changed().await.ok();
        }
        self.here()
    }

    /// Those with something to end.
    fn here(&self) -> Vec<Arc<Container>> {
        let known = self.known();
        let here = known.here.values().filter_map(Slot::container);
        let here = here.filter(|it| !matches!(it.init.state(), State::Registered));
        here.cloned().collect()
    }

    /// Deletes all, which have ended.
    pub(crate) async fn delete_all(&self) -> Result<()> {
        let ids: Vec<String> = self.known().here.keys().cloned().collect();
        let mut all = Ok(());
        for id in ids {
            let deleted = self.delete(&id).await.map(drop);
            // The others go all the same.
            if !matches!(&deleted, Err(error) if error.kind == Kind::NotFound) {
                all = all.and(deleted);
            }
        }
        all
    }

    /// From now on it is what all containers share. There is one at most, made by this.
    pub(crate) fn set_pod(&self, make: impl FnOnce() -> Result<Pod>) -> Result<()> {
        self.change(|known| {
            if let Some(pod) = &known.pod {
                return Err(Error::new(
                    Kind::AlreadyExists,
                    format!("sandbox {}", pod.id),
                ));
            }
            known.admits()?;
            known.pod = Some(Arc::new(make()?));
            Ok(())
        })
    }

    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        let pod = self.known().pod.clone().filter(|pod| pod.id == id);
        pod.ok_or_else(|| Error::not_found(format!("sandbox {id}")))
    }

    /// No other comes, and no container.
    pub(crate) fn forget_pod(&self) {
        self.close();
        self.change(|known| known.pod = None);
    }

    /// From now on nothing comes: the shim ends.
    pub(crate) fn close(&self) {
        self.change(|known| known.closed = true);
    }

    /// The same if there is nothing. Whether it is so.
    pub(crate) fn close_if_none(&self) -> bool {
        self.change(|known| {
            known.closed |= known.is_empty();
            known.closed
        })
    }

    pub(crate) fn are_none(&self) -> bool {
        self.known().is_empty()
    }

    /// Whether one runs, or is being created.
    pub(crate) fn are_alive(&self) -> bool {
        let lives = |slot: &Slot| {
            slot.container()
                .is_none_or(|container| !matches!(container.init.state(), State::Stopped(_)))
        };
        self.known().here.values().any(lives)
    }

    /// A line about each: its state, and what of it something is being done to.
    pub(crate) fn told(&self) -> Vec<String> {
        let known = self.known();
        let line = |(id, slot): (&String, &Slot)| match slot.container() {
            None => format!("container {id}: being created"),
            Some(container) => {
                let execs = container.execs.all();
                let execs = execs
                    .iter()
                    .map(|exec| format!(", exec {} {}", exec.id, exec.process));
                let execs: String = execs.collect();
                format!("container {id}: {}{execs}", container.init)
            }
        };
        known.here.iter().map(line).collect()
    }

    /// Whether somebody may still ask for one of them: it lives, is being created, or has its bundle.
    pub(crate) fn are_needed(&self) -> bool {
        let needed = |slot: &Slot| {
            slot.container().is_none_or(|container| {
                !matches!(container.init.state(), State::Stopped(_)) || container.bundle.exists()
            })
        };
        let known = self.known();
        known.here.values().any(needed) || known.pod.as_ref().is_some_and(|pod| pod.bundle.exists())
    }

    /// To wait for what may make another answer of [`Containers::are_needed`].
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.shim.changes.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let changed = change(&mut known);
        self.shim.changes.send_replace(());
        changed
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

/// Sends the signal to all at once. The first error of one that has not ended.
async fn kill(containers: &[Arc<Container>], signal: i32) -> Result<()> {
    let mut calls = JoinSet::new();
    for container in containers {
        let container = container.clone();
        calls.spawn(async move { container.kill(signal.cast_unsigned(), false).await });
    }
    let answers = calls.join_all().await.into_iter();
    answers
        .filter(|answer| !matches!(answer, Err(error) if error.kind == Kind::NotFound))
        .collect()
}

async fn ended(containers: &[Arc<Container>]) {
    for container in containers {
        container.init.ended().await;
    }
}
