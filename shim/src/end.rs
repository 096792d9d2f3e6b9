//! When the serving shim ends: a client has said so and no container is left, or nobody can need it any more.
//!
//! A client that has gone away while something hung cannot ask again: what it asked for is remembered, and done as soon as it can be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::accept::Open;
use crate::containers::Containers;
use crate::runtime::seconds;

/// A shim whose containers have ended, and which nobody is connected to, ends by itself after this time.
const ABANDONED: Duration = Duration::from_secs(600);

/// The environment's word for another time, in seconds.
const VARIABLE: &str = "CAISSON_SHIM_ABANDONED";

#[derive(Debug, Default)]
pub(crate) struct End {
    now: Notify,
    wished: AtomicBool,
    /// Nobody finds the shim any more.
    hidden: watch::Sender<bool>,
}

impl End {
    /// Comes back when the shim's socket is gone: who starts another one then must not be led here.
    pub(crate) async fn now(&self) {
        self.now.notify_one();
        // The sender is here.
        let mut hidden = self.hidden.subscribe();
        hidden.wait_for(|hidden| *hidden).await.ok();
    }

    pub(crate) fn hidden(&self) {
        self.hidden.send_replace(true);
    }

    /// As soon as there is no container and no connection.
    pub(crate) fn wish(&self) {
        self.wished.store(true, Ordering::Relaxed);
    }

    /// Comes back when it is time, and says why.
    pub(crate) async fn come(&self, containers: &Containers, open: &Open) -> &'static str {
        tokio::select! {
            () = self.now.notified() => "asked to",
            why = self.unneeded(containers, open) => why,
        }
    }

    async fn unneeded(&self, containers: &Containers, open: &Open) -> &'static str {
        let patience = seconds(VARIABLE).unwrap_or(ABANDONED);
        let mut changes = containers.changes();
        loop {
            // The sender lives as long as `containers`.
            changes.borrow_and_update();
            if open.any() || containers.are_alive() {
                changes.changed().await.ok();
            } else if containers.are_none() && self.wished.load(Ordering::Relaxed) {
                return "was asked to, and nothing is left";
            } else if timeout(patience, changes.changed()).await.is_err()
                && !containers.are_needed()
            {
                return "nobody has needed it for long";
            }
        }
    }
}
