//! Telling a container to end: the stop signal and its patience, kills, and what is to follow. What a daemon is at when it ends, or is killed,
//! the next one goes on with.

use std::sync::Arc;
use std::time::Duration;

use super::create::{signal, status};
use super::{Container, Run, Supervisor, is_alive};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::lock::lock;
use crate::protos::containers::{State, StopContainerRequest, restart_policy::Name, state::Status};
use crate::records::now;
use crate::shim::Shim;

/// Between the stop signal and SIGKILL, in seconds.
const PATIENCE: u32 = 10;
/// How long a kill is given.
const LAST: Duration = Duration::from_secs(10);
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
const SIGCONT: u32 = 18;

/// What a stop does.
struct Stop {
    signal: u32,
    patience: Duration,
    /// A start follows.
    start_after: bool,
}

impl Supervisor {
    /// Comes back when it has ended.
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        asked: &StopContainerRequest,
    ) -> Result<()> {
        let stop = self.planned(container, asked, false)?;
        self.stopped(container, &stop).await
    }

    /// Comes back when it runs again.
    pub(crate) async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &StopContainerRequest,
    ) -> Result<()> {
        let stop = self.planned(container, asked, true)?;
        self.stopped(container, &stop).await?;
        self.restarted(container).await
    }

    async fn restarted(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if let Err(fault) = self.start_after(container).await {
            self.forget_unstarted(container).await?;
            return Err(fault);
        }
        self.note(container, Some("restart"), &[], |_| {}).await
    }

    fn planned(
        &self,
        container: &Container,
        asked: &StopContainerRequest,
        start_after: bool,
    ) -> Result<Stop> {
        let number = match &*asked.signal {
            // Nobody has looked at what an image says.
            "" => signal(&self.stop_signal(container)).unwrap_or(SIGTERM),
            word => signal(word)?,
        };
        let seconds = asked.timeout.or(container.config().stop_timeout);
        Ok(Stop {
            signal: if number == 0 { SIGTERM } else { number },
            patience: Duration::from_secs(seconds.unwrap_or(PATIENCE).into()),
            start_after,
        })
    }

    /// An image that is damaged keeps nobody from stopping what was made of it.
    fn stop_signal(&self, container: &Container) -> String {
        let record = container.record();
        let own = &record.config.stop_signal;
        if !own.is_empty() {
            return own.clone();
        }
        let effective = self.effective(&record);
        effective.map(|it| it.stop_signal).unwrap_or_default()
    }

    async fn stopped(&self, container: &Arc<Container>, stop: &Stop) -> Result<()> {
        match self.keep_down(container, stop.start_after).await? {
            Some(run) => self.told_to_end(container, &run, stop).await,
            None => Ok(()),
        }
    }

    async fn told_to_end(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
        stop: &Stop,
    ) -> Result<()> {
        let told = self.send_and_see_end(container, run, stop).await;
        if told.is_err() {
            // It goes on, and nothing of this is to come over it later.
            self.notice(container, None, &[], |record| {
                forget(record.state.mut_or_insert_default());
            })
            .await;
        }
        told
    }

    async fn send_and_see_end(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
        stop: &Stop,
    ) -> Result<()> {
        self.send(container, run, stop.signal).await?;
        let kill_at = now().saturating_add(nanoseconds(stop.patience));
        // Somebody may have started it again meanwhile: that run was not told to end.
        if container.is_in(run) {
            // Not before the signal: a daemon that does not come to that leaves nobody to be killed without having been told.
            self.notice(container, None, &[], |record| {
                record.state.mut_or_insert_default().kill_at = kill_at;
            })
            .await;
        }
        self.see_end(container, run, stop.patience).await
    }

    /// Until all is over, which a kill sees to.
    async fn see_end(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
        patience: Duration,
    ) -> Result<()> {
        let mut ended = run.ended.subscribe();
        let over = ended.wait_for(Option::is_some);
        if tokio::time::timeout(patience, over).await.is_err() {
            self.send_kill(container, run).await?;
        }
        run.settled().await;
        self.notice(container, Some("stop"), &[], |_| {}).await;
        Ok(())
    }

    /// After a start of the daemon.
    pub(super) fn go_on_stopping(self: &Arc<Self>, container: &Arc<Container>) {
        let state = container.record().state.unwrap_or_default();
        if state.kill_at == 0 && !state.start_after {
            return;
        }
        let (supervisor, container) = (self.clone(), container.clone());
        let work = async move {
            if let Err(fault) = supervisor.gone_on(&container, &state).await {
                let what = format!("go on with the stop of container {}", container.name());
                crate::daemon::warn(&fault.during(what));
            }
        };
        let work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        tokio::spawn(work);
    }

    async fn gone_on(self: &Arc<Self>, container: &Arc<Container>, state: &State) -> Result<()> {
        if let Some(run) = container.run().filter(|_| container.is_alive()) {
            if state.kill_at == 0 {
                // The signal may not have been sent.
                let stop = self.planned(container, &StopContainerRequest::default(), true)?;
                self.told_to_end(container, &run, &stop).await?;
            } else {
                let left = u64::try_from(state.kill_at.saturating_sub(now()));
                let left = Duration::from_nanos(left.unwrap_or_default());
                self.see_end(container, &run, left).await?;
            }
        }
        // Somebody may have stopped it meanwhile.
        if !container.record().state.start_after {
            return Ok(());
        }
        self.recovered().await;
        self.others_started(container).await;
        self.restarted(container).await
    }

    /// Those whose namespaces it joins, and which are being restarted as well.
    async fn others_started(&self, container: &Container) {
        let config = container.config();
        for mode in [
            &config.network,
            &config.pid_mode,
            &config.ipc_mode,
            &config.userns,
        ] {
            let other = mode.strip_prefix("container:");
            if let Some(other) = other.and_then(|id| self.find(id).ok()) {
                let mut changed = other.changed.subscribe();
                let to_come = || {
                    let is_there = lock(&self.containers).contains_key(&other.id);
                    is_there && other.record().state.start_after
                };
                while to_come() && changed.changed().await.is_ok() {}
            }
        }
    }

    /// No policy starts it again, and whether a restart does says who stops or restarts it last. The run that is to end, if there is one.
    async fn keep_down(
        &self,
        container: &Arc<Container>,
        start_after: bool,
    ) -> Result<Option<Arc<Run>>> {
        let mut told = container.tell_what_follows(start_after);
        if matches!(told.status, Status::STARTING | Status::RESTARTING) {
            // Until it has been started, or could not be: this comes after whatever that has made of it.
            let _operation = container.operation.lock().await;
            told = container.tell_what_follows(start_after);
            if told.status == Status::RESTARTING {
                self.notice(container, None, &[], |record| {
                    record.state.mut_or_insert_default().status = Status::EXITED.into();
                })
                .await;
            }
        }
        // Before it is told to end: what the next daemon is to know, should this one not see the end. One that has no policy, and is not being
        // restarted, stays down anyway.
        let policy = container.config().restart.name.enum_value_or_default();
        let is_news = told.run.is_some() && (start_after || policy != Name::NO);
        if is_news || told.restart_is_off {
            self.notice(container, None, &[], |_| {}).await;
        }
        if told.restart_is_off && told.run.is_none() {
            // It was kept for that.
            self.forget_unstarted(container).await?;
        }
        Ok(told.run)
    }

    /// What is frozen has to wake up to hear a signal. A kill it hears all the same, and then it may have ended before it is to wake.
    async fn wake(&self, container: &Arc<Container>, number: u32) -> Result<()> {
        if container.status() != Status::PAUSED {
            return Ok(());
        }
        let Err(fault) = self.unpause(container).await else {
            return Ok(());
        };
        // Somebody else may have woken it up meanwhile, or it has ended, of which its shim knows first.
        match container.shim() {
            Ok(shim) if container.status() == Status::PAUSED && !shim.has_ended().await => {}
            _ => return Ok(()),
        }
        if number != SIGKILL {
            return Err(fault);
        }
        crate::daemon::warn(&fault.during("wake a container up that was killed"));
        Ok(())
    }

    /// One that has ended meanwhile is as good. Whether its shim answers.
    async fn send(&self, container: &Arc<Container>, run: &Arc<Run>, number: u32) -> Result<bool> {
        if !container.is_in(run) {
            return Ok(true);
        }
        match run.shim.kill("", number).await {
            Err(fault) if fault.kind == Kind::Unavailable => return Ok(false),
            Err(fault) if fault.kind != Kind::NotFound => return Err(fault),
            _ => {}
        }
        self.wake(container, number).await.map(|()| true)
    }

    /// A shim that does not answer goes with its container, as one that has died.
    async fn send_kill(&self, container: &Arc<Container>, run: &Arc<Run>) -> Result<()> {
        match self.send(container, run, SIGKILL).await? {
            true => Ok(()),
            false => self.end_shim(container),
        }
    }

    pub(super) fn end_shim(&self, container: &Container) -> Result<()> {
        let what = || format!("end the shim of container {}", container.name());
        if crate::shim::end(container.record().state.pid, &container.id).tried(what)? {
            crate::daemon::warn(&Fault::unknown(format!("{}: it did not answer", what())));
        }
        Ok(())
    }

    pub(crate) async fn kill(&self, container: &Arc<Container>, word: &str) -> Result<()> {
        let number = match signal(word)? {
            0 => SIGKILL,
            number => number,
        };
        let shim = container.shim()?;
        if number == SIGKILL {
            let run = self.keep_down(container, false).await?;
            let run = run.ok_or_else(|| container.not_running())?;
            return self.kill_and_wait(container, &run).await;
        }
        send(container, &shim, number).await?;
        if number != SIGCONT {
            self.notice_kill(container, number).await;
        }
        Ok(())
    }

    async fn notice_kill(&self, container: &Container, number: u32) {
        let text = number.to_string();
        self.notice(container, Some("kill"), &[("signal", &text)], |_| {})
            .await;
    }

    /// Comes back when all is over: what it was killed for can be done then.
    async fn kill_and_wait(&self, container: &Arc<Container>, run: &Run) -> Result<()> {
        send(container, &run.shim, SIGKILL).await?;
        self.notice_kill(container, SIGKILL).await;
        self.wake(container, SIGKILL).await?;
        let settled = tokio::time::timeout(LAST, run.settled()).await;
        // One that goes with its end may have readers, who keep it, and an operation may keep the end from being noted.
        if settled.is_err() && container.is_alive() && !run.shim.has_ended().await {
            return Err(Fault::unknown(format!(
                "container {} was killed, and has not ended within {} seconds",
                container.name(),
                LAST.as_secs()
            )));
        }
        Ok(())
    }

    /// Ends it at once, for its removal.
    pub(super) async fn end(&self, container: &Arc<Container>) -> Result<()> {
        let Some(run) = self.keep_down(container, false).await? else {
            return Ok(());
        };
        self.send_kill(container, &run).await?;
        run.settled().await;
        Ok(())
    }
}

/// What somebody finds who stops or restarts a container.
struct Told {
    status: Status,
    /// If it has processes.
    run: Option<Arc<Run>>,
    /// A start was to follow, and is not any more.
    restart_is_off: bool,
}

impl Container {
    fn tell_what_follows(&self, start_after: bool) -> Told {
        let mut record = lock(&self.record);
        let state = record.state.mut_or_insert_default();
        let before = std::mem::replace(&mut state.start_after, start_after);
        state.stopped = true;
        let status = status(state);
        Told {
            status,
            run: self.run().filter(|_| is_alive(status)),
            restart_is_off: before && !start_after,
        }
    }

    /// Whether it is this run that goes on.
    fn is_in(&self, run: &Arc<Run>) -> bool {
        let current = self.run().filter(|_| self.is_alive());
        current.is_some_and(|current| Arc::ptr_eq(&current, run))
    }
}

/// Its shim knows of its end first.
async fn send(container: &Container, shim: &Shim, number: u32) -> Result<()> {
    match shim.kill("", number).await {
        Err(fault) if fault.kind == Kind::NotFound => Err(container.not_running()),
        sent => sent,
    }
}

/// A stop that did not come to its end.
fn forget(state: &mut State) {
    (state.kill_at, state.start_after) = (0, false);
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
