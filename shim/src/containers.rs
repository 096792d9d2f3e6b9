//! The containers of a shim: one, or those of a pod. The map is locked to look something up, never across a wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::container::{Container, Shim};
use crate::error::{Error, Kind, Result};
use crate::execs::Gone;
use crate::lock::lock;
use crate::process::Ended;
use crate::protos::task::CreateTaskRequest;

#[derive(Debug)]
pub(crate) struct Containers {
    shim: Shim,
    known: Mutex<Known>,
    /// Those that are here or about to be.
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Known {
    /// `None` while it is being created.
    here: HashMap<String, Option<Arc<Container>>>,
    gone: Gone,
}

impl Containers {
    pub(crate) fn new(shim: Shim) -> Self {
        Self {
            shim,
            known: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }

    pub(crate) async fn create(&self, request: CreateTaskRequest) -> Result<i32> {
        let id = request.id.clone();
        self.change(|known| {
            if known.here.contains_key(&id) {
                return Err(Error::new(Kind::AlreadyExists, format!("container {id}")));
            }
            known.gone.forget(&id);
            known.here.insert(id.clone(), None);
            Ok(())
        })?;
        let created = Container::create(&self.shim, request).await;
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

    pub(crate) async fn delete(&self, id: &str) -> Result<Ended> {
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

    pub(crate) fn are_none(&self) -> bool {
        self.known().here.is_empty()
    }

    /// How many there are, to wait for a change.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let changed = change(&mut known);
        self.count.send_replace(known.here.len());
        changed
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}
