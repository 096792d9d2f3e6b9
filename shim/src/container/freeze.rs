//! A container that stands still: Pause, Resume, Checkpoint.

use std::fs;
use std::path::Path;
use std::pin::pin;

use super::Container;
use crate::cgroup;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::process::{Phase, State};
use crate::protos::events::{TaskCheckpointed, TaskPaused, TaskResumed};
use crate::protos::runc_options::CheckpointOptions;

impl Container {
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
}
