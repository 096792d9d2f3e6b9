//! Delete: of a container that has ended, or was never started.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protobuf::MessageField;
use tokio::time::timeout;

use super::{Container, DRAIN, detach, drain};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::process::{Ended, Phase, State};
use crate::protos::events::TaskDelete;
use crate::reaper::Exit;

/// How long Delete waits for a start that is under way.
const STARTING: Duration = Duration::from_secs(3);

impl Container {
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
        let Ok(operation) = timeout(STARTING, self.init.operation.lock()).await else {
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
                let mut deleting = pin!(self.runtime.delete(&self.id, false));
                let mut closing = self.closing();
                let ended = async {
                    // The sender is here.
                    closing.wait_for(|closing| *closing).await.ok();
                };
                let deleted = tokio::select! {
                    deleted = &mut deleting => deleted,
                    () = ended => {
                        // Poststop hooks may take long. The end of init is told meanwhile.
                        drop(operation);
                        deleting.await
                    }
                };
                match deleted {
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
        // Who asks again finds it done, and does not do it once more beside this.
        let _deleting = self.deleting.lock().await;
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
