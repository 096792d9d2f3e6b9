//! Events for containerd: one spool, in order. An event leaves it when containerd has taken it; while containerd is away it is tried again,
//! for as long as the shim lives. Publishing never waits.
//!
//! Runs in the serving shim. Connects when there is something to say, to the address of TTRPC_ADDRESS.

use std::time::Duration;

use crate::protos::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
    TaskPaused, TaskResumed, TaskStart,
};

/// Topics are `/tasks/create` and so on, types `containerd.events.TaskCreate` and so on.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
    Exit(TaskExit),
    Delete(TaskDelete),
    Oom(TaskOOM),
    Paused(TaskPaused),
    Resumed(TaskResumed),
    Checkpointed(TaskCheckpointed),
}

/// A handle; clones are handles of the same spool.
#[derive(Clone, Debug)]
pub(crate) struct Spool {}

impl Spool {
    /// Starts the task that forwards. `address` is a path, or `unix://` and a path; empty if nobody listens: events go nowhere then.
    pub(crate) fn new(address: &str, namespace: &str) -> Self {
        unimplemented!("{address} {namespace}")
    }

    pub(crate) fn publish(&self, event: Event) {
        unimplemented!("{event:?}")
    }

    /// Waits until everything has been taken, at most so long; before the shim ends.
    pub(crate) async fn flushed(&self, timeout: Duration) -> bool {
        unimplemented!("{timeout:?}")
    }
}
