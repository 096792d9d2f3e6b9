//! The end of a container's process: noticed by the shim's Wait, noted, and followed by what its policy says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::create::{blocking, restarts};
use super::start::begun;
use super::{Container, Run, Supervisor, bundle, told};
use crate::fault::{Fault, Kind, Result};
use crate::lock::lock;
use crate::protos::containers::{Config, State, state::Status};
use crate::records::{Change, now};
use crate::shim::{Exit, Launch, clean_up};

/// How long before a container is started again: at first, doubled each time, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// One that has run for so long has come up: the next pause is the first one again.
const LIVED: i64 = 10_000_000_000;
/// What nobody knows any more.
pub(super) const UNKNOWN: u32 = 255;

impl Supervisor {
    pub(super) async fn supervise(self: Arc<Self>, container: Arc<Container>, run: Arc<Run>) {
        // An error means that the shim is gone, or as good as gone.
        let exit = run.shim.wait("").await.ok();
        self.ended(&container, &run, exit).await;
    }

    /// Without `exit`, the shim has died. Whatever fails here is told in the daemon's log only: who waits for the end is told of it, and the
    /// policy is followed.
    pub(super) async fn ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        run: &Arc<Run>,
        exit: Option<Exit>,
    ) {
        let config = container.config();
        let directory = self.host.bundle(&container.id);
        let warn = |done: Result<()>| {
            if let Err(fault) = done {
                let fault = fault.during(format_args!("the end of container {}", container.name()));
                crate::daemon::warn(&fault);
            }
        };
        let operation = container.operation.lock().await;
        let exit = self.buried(container, run, exit).await;
        let by_shim = bundle::exit(&directory);
        self.oom_at_the_end(container, by_shim.as_ref()).await;
        let lost = by_shim.map_or(0, |exit| exit.dropped);
        if lost > 0 {
            run.lost_output.store(lost, Ordering::Relaxed);
            let text = format!("{lost} bytes of output could not be written to the log");
            warn(Err(Fault::unknown(text)));
        }
        let (state, noted) = self.note_end(container, run, &config, exit).await;
        run.shim.shut_down().await;
        warn(match noted {
            Ok(()) => blocking(move || bundle::remove(&directory)).await,
            // What the shim has left there tells the next daemon.
            failed => failed,
        });
        run.ended.send_modify(|code| *code = Some(state.exit_code));
        let stays = !goes(&config, &state) && !restarts(&config, &state) && !state.start_after;
        run.settled.send_modify(|settled| *settled = stays);
        run.copies.send_modify(|gone| *gone = !stays);
        run.copies.closed().await;
        drop(operation);
        if goes(&config, &state) {
            // Who reads the log reads it to its end.
            run.readers.closed().await;
            let _operation = container.operation.lock().await;
            if !container.is_alive() && self.is_known(container) {
                let died = Change::default().event(told(
                    &container.record(),
                    "die",
                    &[("exitCode", &state.exit_code.to_string())],
                ));
                warn(self.forget(container, true, died).await);
            }
        } else if restarts(&config, &state) {
            self.clone().restart_later(container.clone());
        }
        run.settled.send_modify(|settled| *settled = true);
    }

    /// Deletes the task, which also waits for the rest of its output.
    async fn buried(&self, container: &Container, run: &Run, exit: Option<Exit>) -> Exit {
        let gone = match exit {
            Some(exit) => match run.shim.delete("").await {
                Ok(_) => return exit,
                Err(fault) if fault.kind == Kind::Unavailable => Some(exit),
                Err(fault) => {
                    crate::daemon::warn(
                        &fault.during(format_args!("delete container {}", container.name())),
                    );
                    return exit;
                }
            },
            None => None,
        };
        // The shim has died: its binary cleans up, and exit.json has what it knew.
        let (host, id) = (self.host.clone(), container.id.clone());
        let (runtime, directory) = (container.config().runtime, host.bundle(&id));
        let cleaned = blocking(move || {
            let launch = Launch::new(&host, &runtime, None)?;
            let told = bundle::exit(&directory).map(|exit| Exit {
                code: exit.status,
                at: exit.time,
            });
            let cleaned = clean_up(&launch, &host, &id, &directory)?;
            Ok(told.unwrap_or(cleaned))
        });
        match (gone, cleaned.await) {
            (Some(exit), _) | (None, Ok(exit)) => exit,
            (None, Err(fault)) => {
                crate::daemon::warn(&fault.during(format_args!(
                    "clean up after container {}",
                    container.name()
                )));
                Exit {
                    code: UNKNOWN,
                    at: now(),
                }
            }
        }
    }

    async fn note_end(
        &self,
        container: &Container,
        run: &Run,
        config: &Config,
        exit: Exit,
    ) -> (State, Result<()>) {
        let code = i32::try_from(exit.code).unwrap_or(-1);
        let (state, died) = {
            let mut record = lock(&container.record);
            let state = record.state.mut_or_insert_default();
            state.status = Status::EXITED.into();
            state.exit_code = code;
            state.finished_at = exit.at;
            state.lost_output += run.lost_output.load(Ordering::Relaxed);
            state.pid = 0;
            state.kill_at = 0;
            state.shim.clear();
            if restarts(config, state) && !config.auto_remove {
                state.status = Status::RESTARTING.into();
                run.again.store(true, Ordering::Relaxed);
            }
            let text = code.to_string();
            (state.clone(), told(&record, "die", &[("exitCode", &text)]))
        };
        let mut change = Change::default().event(died);
        change.containers.push(container.record.clone());
        container.changed.send_modify(|()| {});
        // One that goes with its end is written of once, when it goes.
        let noted = match goes(config, &state) {
            false => self.records.apply(change).await,
            true => Ok(()),
        };
        (state, noted)
    }

    /// Starts it again after a pause, unless somebody starts, stops or removes it meanwhile.
    pub(super) fn restart_later(self: Arc<Self>, container: Arc<Container>) {
        let state = container.record().state.unwrap_or_default();
        if state.finished_at - state.started_at >= LIVED {
            container.short_lives.store(0, Ordering::Relaxed);
        }
        let doubled = container.short_lives.fetch_add(1, Ordering::Relaxed);
        let pause = (PAUSE.0 * 2_u32.pow(doubled.min(10))).min(PAUSE.1);
        // A task of its own kind: starting spawns one that may come here again.
        let again = async move {
            let mut changed = container.changed.subscribe();
            let waiting = async {
                while container.status() == Status::RESTARTING && changed.changed().await.is_ok() {}
            };
            if tokio::time::timeout(pause, waiting).await.is_ok() {
                return;
            }
            if let Err(fault) = self.start_again(&container).await {
                crate::daemon::warn(
                    &fault.during(format_args!("restart container {}", container.name())),
                );
            }
        };
        let again: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(again);
        tokio::spawn(again);
    }

    async fn start_again(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        if container.status() != Status::RESTARTING || !self.is_known(container) {
            return Ok(());
        }
        let before = {
            let mut record = lock(&container.record);
            let state = record.state.mut_or_insert_default();
            state.restarts += 1;
            begun(state)
        };
        let launched = self.launch(container, before, None, true).await;
        self.again_if_it_failed(container);
        launched.map(drop)
    }

    /// A start, as after an end: by the policy, after a longer pause.
    pub(super) fn again_if_it_failed(self: &Arc<Self>, container: &Arc<Container>) {
        if container.status() == Status::RESTARTING {
            self.clone().restart_later(container.clone());
        }
    }
}

/// Whether it goes with this end.
pub(super) fn goes(config: &Config, state: &State) -> bool {
    config.auto_remove && !state.start_after
}
