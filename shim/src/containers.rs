//! The containers of a shim: one, or those of a pod, and the pod itself if it has no pause container. The map is locked to look something up, never across a wait.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::container::{Container, Shim};
use crate::error::{Error, Kind, Result};
use crate::execs::Gone;
use crate::lock::lock;
use crate::pod::Pod;
use crate::process::{Ended, State};
use crate::protos::task::CreateTaskRequest;

#[derive(Debug)]
pub(crate) struct Containers {
    shim: Shim,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// `None` while it is being created.
    here: HashMap<String, Option<Arc<Container>>>,
    gone: Gone,
    pod: Option<Arc<Pod>>,
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
        let pod = self.change(|known| {
            if let Some(pod) = &known.pod {
                pod.admits()?;
            }
            if known.here.contains_key(&id) {
                return Err(Error::new(Kind::AlreadyExists, format!("container {id}")));
            }
            known.gone.forget(&id);
            known.here.insert(id.clone(), None);
            Ok(known.pod.clone())
        })?;
        let joined = pod.map_or(Ok(()), |pod| pod.join(Path::new(&request.bundle)));
        let created = match joined {
            Ok(()) => Container::create(&self.shim, request).await,
            Err(error) => Err(error),
        };
        self.change(|known| match created {
            Ok(container) => {
                let pid = container.init.pid();
                known.here.insert(id, Some(container));
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
            .cloned()
            .flatten()
            .ok_or_else(|| Error::not_found("container not created"))
    }

    /// The end of one that was deleted.
    pub(crate) fn gone(&self, id: &str) -> Option<Ended> {
        self.known().gone.get(id)
    }

    /// One that is being created is waited for: a client that gave up on Create asks for this, and nobody else would know of it.
    pub(crate) async fn delete(&self, id: &str) -> Result<Ended> {
        let mut changes = self.changes();
        while matches!(self.known().here.get(id), Some(None)) {
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
            if matches!(known.here.get(id), Some(Some(here)) if Arc::ptr_eq(here, &container)) {
                known.here.remove(id);
                known.gone.remember(id, ended);
            }
        });
        Ok(ended)
    }

    /// Ends all of them. Those that listen to SIGTERM have this time for it. No other comes meanwhile: the pod is closed.
    pub(crate) async fn end(&self, patience: Duration) -> Result<()> {
        let containers = self.all().await;
        let ended = async {
            for container in &containers {
                container.init.ended().await;
            }
        };
        if !patience.is_zero() {
            for container in &containers {
                // What it does not take the next signal will tell.
                container
                    .kill(libc::SIGTERM.cast_unsigned(), false)
                    .await
                    .ok();
            }
            if timeout(patience, ended).await.is_ok() {
                return Ok(());
            }
        }
        for container in &containers {
            match container.kill(libc::SIGKILL.cast_unsigned(), false).await {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        for container in &containers {
            container.init.ended().await;
        }
        Ok(())
    }

    /// Those with something to end, when none is being created any more.
    async fn all(&self) -> Vec<Arc<Container>> {
        let mut changes = self.changes();
        loop {
            let here: Option<Vec<_>> = self.known().here.values().cloned().collect();
            if let Some(mut here) = here {
                here.retain(|container| !matches!(container.init.state(), State::Registered));
                return here;
            }
            // The sender is here.
            changes.changed().await.ok();
        }
    }

    /// Deletes all, which have ended.
    pub(crate) async fn delete_all(&self) -> Result<()> {
        let ids: Vec<String> = self.known().here.keys().cloned().collect();
        for id in ids {
            match self.delete(&id).await {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
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
            known.pod = Some(Arc::new(make()?));
            Ok(())
        })
    }

    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        let pod = self.known().pod.clone().filter(|pod| pod.id == id);
        pod.ok_or_else(|| Error::not_found(format!("sandbox {id}")))
    }

    pub(crate) fn forget_pod(&self) {
        self.change(|known| known.pod = None);
    }

    pub(crate) fn are_none(&self) -> bool {
        let known = self.known();
        known.here.is_empty() && known.pod.is_none()
    }

    /// Whether one runs, or is being created.
    pub(crate) fn are_alive(&self) -> bool {
        let lives = |container: &Option<Arc<Container>>| {
            container
                .as_ref()
                .is_none_or(|container| !matches!(container.init.state(), State::Stopped(_)))
        };
        self.known().here.values().any(lives)
    }

    /// A line about each: its state, and what of it something is being done to.
    pub(crate) fn told(&self) -> Vec<String> {
        let known = self.known();
        let line = |(id, container): (&String, &Option<Arc<Container>>)| match container {
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
        let needed = |container: &Option<Arc<Container>>| {
            container.as_ref().is_none_or(|container| {
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
