//! Commit: what a container has changed becomes a layer, and its configuration an image's.
//!
//! A container that runs is frozen meanwhile, unless somebody wants it otherwise; a mark in its bundle has the next daemon wake it up, should
//! this one be killed.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::create::blocking;
use super::layers::Layers;
use super::look_up::snapshot;
use super::{Container, Supervisor, bundle};
use crate::copy::worker::Worker;
use crate::copy::{Ids, Request, Root, Task};
use crate::fault::{Fault, Result, Tried as _};
use crate::image::{Reference, Said, changes};
use crate::layer::Snapshot;
use crate::protos::containers::{CommitRequest, Container as Record, Effective, state::Status};
use crate::shim::Shim;
use crate::wanted::{Wanted, WhileWanted};

impl Supervisor {
    /// The image's id.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: CommitRequest,
        wanted: Wanted,
    ) -> Result<String> {
        let _operation = container.operation.lock().await;
        self.check_known(container)?;
        let frozen = match container.shim() {
            Ok(shim) if asked.pause && container.status() == Status::RUNNING => {
                let asleep = container.awake.write().await;
                let frozen = self.freeze(container, shim).await?;
                frozen.map(|shim| (shim, asleep))
            }
            _ => None,
        };
        let (supervisor, record) = (self.clone(), container.record());
        let comment = asked.message.clone();
        let committed = blocking(move || supervisor.write_image(&record, &asked, &wanted)).await;
        if let Some((shim, _asleep)) = frozen {
            let woken = self.thaw(container, &shim).await;
            if let Err(fault) = woken {
                // Killed while it was frozen, it needs not be woken up. Its end is not noted during an operation, so its shim is asked.
                if !shim.has_ended().await {
                    return Err(fault);
                }
                crate::daemon::warn(&fault.during("wake a container up that has ended"));
            }
        }
        let id = committed?;
        let attributes = [("comment", &*comment), ("imageID", &id)];
        self.tell_of(container, "commit", &attributes).await;
        Ok(id)
    }

    /// None for one that has ended just now, and changes nothing any more.
    async fn freeze(&self, container: &Container, shim: Arc<Shim>) -> Result<Option<Arc<Shim>>> {
        bundle::mark_frozen(&self.host.bundle(&container.id))?;
        let Err(fault) = shim.pause().await else {
            return Ok(Some(shim));
        };
        bundle::unmark_frozen(&self.host.bundle(&container.id))?;
        match shim.has_ended().await {
            true => Ok(None),
            false => Err(fault),
        }
    }

    pub(super) async fn thaw(&self, container: &Container, shim: &Shim) -> Result<()> {
        let woken = shim.resume().await;
        bundle::unmark_frozen(&self.host.bundle(&container.id))?;
        woken
    }

    fn write_image(
        &self,
        record: &Record,
        asked: &CommitRequest,
        wanted: &Wanted,
    ) -> Result<String> {
        let name = Some(&asked.name).filter(|name| !name.is_empty());
        let name: Option<Reference> = name
            .map(|name| Reference::given(name))
            .transpose()
            .map_err(|error| Fault::new(format!("{error:#}")))?;
        let store = &self.store;
        let base = store
            .image(&record.image_id)
            .tried(|| "find the image".into())?;
        let mut config = store
            .image_config(&base)
            .tried(|| "read the image".into())?;
        merge(&mut config, &self.effective(record)?);
        for (name, value) in &record.config.labels {
            changes::object(&mut config, "Labels").insert(name.clone(), json!(value));
        }
        for change in &asked.changes {
            changes::apply(&mut config, change)
                .map_err(|error| Fault::new(format!("{error:#}")))?;
        }
        let said = Said {
            name,
            author: asked.author.clone(),
            message: asked.message.clone(),
            created_by: record.args.join(" "),
            config,
        };
        let snapshot = snapshot(store, record)?;
        let request = Request {
            root: Root::Directory(snapshot.upper.clone()),
            ids: Ids::of(record),
            task: Task::Layer {
                left_out: not_its_own(record, &snapshot),
            },
        };
        let Worker {
            process,
            archive,
            report,
        } = Worker::start(&request, None)?;
        let complete = || Ok(process.end(report)?);
        let archive = WhileWanted(std::fs::File::from(archive), wanted.clone());
        let image = store.commit(&base, &said, archive, complete);
        let image = image.map_err(|error| Fault::unknown(format!("{error:#}")))?;
        Ok(image.id.to_string())
    }
}

fn not_its_own(record: &Record, snapshot: &Snapshot) -> Vec<String> {
    let lower = Layers::open(&snapshot.lower);
    let given = super::stats::given(record, &snapshot.upper).into_iter();
    given
        .map(|path| path.trim_start_matches('/').to_owned())
        .filter(|path| !lower.has(std::path::Path::new(path)))
        .collect()
}

/// What the container is, as its image's own.
fn merge(config: &mut Map<String, Value>, effective: &Effective) {
    // They were for images that are made of the old one, as this one is.
    config.remove("OnBuild");
    for (key, value) in [
        ("Entrypoint", json!(effective.entrypoint)),
        ("Cmd", json!(effective.command)),
        ("Env", json!(effective.env)),
        ("User", json!(effective.user)),
        ("WorkingDir", json!(effective.working_dir)),
        ("StopSignal", json!(effective.stop_signal)),
    ] {
        if value == json!([]) || value == json!("") {
            config.remove(key);
        } else {
            changes::set(config, key, value);
        }
    }
}
