//! One container: what Create made, what can be done with it, and the supervision of its processes.
//!
//! The order of events is decided here. A process' end is published under its `operation` lock, which its start holds until it has published
//! itself; init's end is published when every exec's has been, but does not wait for them for ever.

mod birth;
mod delete;
mod freeze;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use protobuf::MessageField;
use tokio::sync::{Mutex as Lock, watch};
use tokio::time::timeout;

use crate::aside::aside;
use crate::bundle::ExitRecord;
use crate::error::{Error, Result};
use crate::events::{Event, Spool};
use crate::execs::Execs;
use crate::io::{Owner, Stopping};
use crate::lock::lock;
use crate::log;
use crate::mounts;
use crate::oom::Watch;
use crate::process::{Ended, Process, State};
use crate::protos::events::TaskExit;
use crate::reaper::{Child, Exit, KILLED, Reaper};
use crate::runtime::{Closing, Runtime};

/// How long Delete waits for output that a process left behind may still hold open.
const DRAIN: Duration = Duration::from_secs(10);

/// The same of an exec, whose background processes may well go on; but not of one whose client is slow.
pub(crate) const EXEC_DRAIN: Duration = Duration::from_secs(2);

/// How long init's end waits for those of execs, which were killed with it.
const LAST_EXECS: Duration = Duration::from_secs(5);

const SIGKILL: u32 = libc::SIGKILL.cast_unsigned();

/// What all containers of a shim share.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    pub(crate) namespace: String,
    pub(crate) reaper: Reaper,
    pub(crate) spool: Spool,
    /// Told when a container has come, ended or gone, or a connection.
    pub(crate) changes: watch::Sender<()>,
    pub(crate) stopping: Stopping,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) shim: Shim,
    pub(crate) runtime: Runtime,
    pub(crate) owner: Owner,
    pub(crate) init: Process,
    pub(crate) execs: Execs,
    /// The directory of its group, if there is a v2 hierarchy; from when it has a process.
    group: OnceLock<PathBuf>,
    /// Of the saved container that Start brings back.
    images: Option<PathBuf>,
    oom: Mutex<Option<Watch>>,
    /// A client has asked for SIGKILL.
    killed: AtomicBool,
    has_own_pid_namespace: bool,
    /// What its root file system is made of.
    has_mounts: bool,
    /// Init has ended, or is to end before it is there: no exec starts any more, and no command takes long.
    pub(crate) closing: watch::Sender<bool>,
    /// Execs whose end has not been published, or that are being started.
    pub(crate) busy: watch::Sender<usize>,
    /// Held by the one Delete that does it.
    deleting: Lock<()>,
    deleted: AtomicBool,
}

impl Container {
    /// The directory of its group.
    pub(crate) fn group(&self) -> Result<&Path> {
        let group = self.group.get().map(PathBuf::as_path);
        group.ok_or_else(|| Error::not_found("the container has no group of cgroup v2"))
    }

    /// Waits for init's end, then for everything that has to be told before it, and tells.
    async fn supervise(self: Arc<Self>, child: Arc<Child>) {
        let exit = seen(&child, child.ended().await);
        // Before anything is waited for: the group is empty now, and systemd for one removes it, with its counters.
        let of_sigkill = exit.status == KILLED && !self.killed.load(Ordering::Relaxed);
        let watch = lock(&self.oom).take();
        let oom = watch.is_some_and(|watch| watch.finish(of_sigkill));
        // On disk before the kernel forgets it: if we are killed, the code is there, or the zombie is for who comes after us.
        self.record(child.pid, exit, oom);
        child.reap();
        // Commands that are under way have not long any more; a start among them publishes itself first.
        self.closing.send_replace(true);
        if oom {
            // containerd's CRI has the end from Wait and its reason from events: who asks when one is there is to find the other.
            self.shim.spool.settled().await;
        }
        let _operation = self.init.operation.lock().await;
        if timeout(LAST_EXECS, self.end_execs()).await.is_err() {
            log::warn(&format!("what is left of {} does not end", self.id));
        }
        for exec in self.execs.all() {
            exec.process.will_not_run();
        }
        self.init.set_ended(Ended {
            pid: child.pid,
            exit,
        });
        self.publish_exit(&self.id, child.pid, exit);
        self.shim.changes.send_replace(());
    }

    /// Comes back when nothing of the container runs, and its execs' ends have been told.
    async fn end_execs(&self) {
        if !self.has_own_pid_namespace
            && let Err(error) = self.kill_by_runtime(SIGKILL, true).await
        {
            let id = &self.id;
            log::warn(&format!("kill what is left of {id}: {error}, ignoring"));
        }
        for exec in self.execs.all() {
            // Those that have ended, or not begun, are as good.
            exec.process.signal(SIGKILL).ok();
        }
        // The sender is here.
        self.busy.subscribe().wait_for(|busy| *busy == 0).await.ok();
    }

    fn record(&self, pid: i32, exit: Exit, oom: bool) {
        if let Err(error) = ExitRecord::new(pid, exit, oom).write(&self.bundle) {
            let id = &self.id;
            log::warn(&format!("write exit.json of {id}: {error}, ignoring"));
        }
    }

    /// Adds to exit.json how much of the output is lost, if any is.
    fn record_loss(&self) {
        let dropped = self.init.stdio().map_or(0, |stdio| stdio.dropped());
        if dropped == 0 {
            return;
        }
        let Some(mut record) = ExitRecord::read(&self.bundle) else {
            return;
        };
        record.dropped = dropped;
        if let Err(error) = record.write(&self.bundle) {
            let id = &self.id;
            log::warn(&format!("write exit.json of {id}: {error}, ignoring"));
        }
    }

    /// `id` is the container's own or that of an exec.
    pub(crate) fn publish_exit(&self, id: &str, pid: i32, exit: Exit) {
        self.shim.spool.publish(Event::Exit(TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..TaskExit::default()
        }));
    }

    pub(crate) async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let child = match self.init.state() {
            State::Alive(_, child) => child,
            State::Registered => return Err(Error::precondition("process not created")),
            State::Stopped(_) => return Err(Error::not_found("process already finished")),
        };
        if signal == SIGKILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        match self.kill_by_runtime(signal, all).await {
            Err(_) if child.has_ended() => {
                // Who is told so has Wait answer at once.
                self.init.ended().await;
                Err(Error::not_found("process already finished"))
            }
            other => other,
        }
    }

    async fn kill_by_runtime(&self, signal: u32, all: bool) -> Result<()> {
        let killed = self.runtime.kill(&self.id, signal, all, self.closing());
        killed.await
    }

    /// For commands: when they have become pointless.
    pub(crate) fn closing(&self) -> Closing {
        self.closing.subscribe()
    }
}

/// Waits for a process' end, and reaps it.
pub(crate) async fn ended(child: &Child) -> Exit {
    seen(child, child.exited().await)
}

/// How a process has ended. That it cannot be waited for is told like an end that nobody saw.
fn seen(child: &Child, exit: io::Result<Exit>) -> Exit {
    exit.unwrap_or_else(|error| {
        log::warn(&format!("wait for pid {}: {error}, ignoring", child.pid));
        Exit::now(255)
    })
}

/// Waits until the output of a process that has ended was copied, for this time if nobody but a holder of it is in the way.
pub(crate) async fn drain(process: &Process, name: &str, held: Duration) {
    let Some(stdio) = process.stdio() else { return };
    if stdio.drained(held).await
        || stdio.waits_for_client() && stdio.drained(DRAIN.saturating_sub(held)).await
    {
        return;
    }
    log::warn(&format!(
        "something still holds the output of {name}, ignoring"
    ));
}

async fn detach(rootfs: PathBuf) -> Result<()> {
    aside(move || mounts::detach(&rootfs)).await
}
