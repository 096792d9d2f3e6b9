//! What can be done with a container that is there: signals and stopping, pausing, other limits, another name.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::create::{blocking, signal, valid_name};
use super::look_up::rates;
use super::{Container, Supervisor};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::lock::lock;
use crate::protos::containers::{Resources, RestartPolicy, state::Status};
use crate::shim::Shim;
use crate::spec::{self, Rates};

/// Between the stop signal and SIGKILL, in seconds.
const PATIENCE: u32 = 10;
/// How long a kill is given.
const LAST: Duration = Duration::from_secs(10);
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
const SIGCONT: u32 = 18;

impl Supervisor {
    /// Comes back when it has ended.
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        timeout: Option<u32>,
        word: &str,
    ) -> Result<()> {
        if !self.keep_down(container).await {
            return Ok(());
        }
        let number = match word {
            // Nobody has looked at what an image says.
            "" => signal(&self.stop_signal(container)).unwrap_or(SIGTERM),
            word => signal(word)?,
        };
        let number = if number == 0 { SIGTERM } else { number };
        let own = container.config().stop_timeout;
        let patience = timeout.or(own).unwrap_or(PATIENCE);
        let Some(run) = container.run() else {
            return Ok(());
        };
        let mut ended = run.ended.subscribe();
        self.send(container, number).await?;
        let over = ended.wait_for(Option::is_some);
        if tokio::time::timeout(Duration::from_secs(patience.into()), over)
            .await
            .is_err()
        {
            self.send_kill(container).await?;
        }
        run.settled().await;
        self.notice(container, Some("stop"), &[], |_| {}).await;
        Ok(())
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

    /// No policy starts it again. Whether it runs.
    async fn keep_down(&self, container: &Arc<Container>) -> bool {
        {
            let mut record = lock(&container.record);
            record.state.mut_or_insert_default().stopped = true;
        }
        if container.status() == Status::RESTARTING {
            let _operation = container.operation.lock().await;
            if container.status() == Status::RESTARTING {
                self.notice(container, None, &[], |record| {
                    record.state.mut_or_insert_default().status = Status::EXITED.into();
                })
                .await;
            }
        }
        if container.status() == Status::STARTING {
            // Until it has been started, or could not be.
            drop(container.operation.lock().await);
        }
        let is_alive = container.is_alive();
        if is_alive {
            self.note_stopped(container).await;
        }
        is_alive
    }

    /// Before it is told to end: the next daemon is not to start it again, should this one not see the end.
    async fn note_stopped(&self, container: &Container) {
        self.notice(container, None, &[], |record| {
            record.state.mut_or_insert_default().stopped = true;
        })
        .await;
    }

    /// What is frozen has to wake up to hear a signal. A kill it hears all the same, and then it may have ended before it is to wake.
    async fn wake(&self, container: &Arc<Container>, number: u32) -> Result<()> {
        if container.status() != Status::PAUSED {
            return Ok(());
        }
        match self.unpause(container).await {
            Err(fault) if number == SIGKILL => {
                crate::daemon::warn(&fault.during("wake a container up that was killed"));
                Ok(())
            }
            woken => woken,
        }
    }

    /// One that has ended meanwhile is as good. Whether its shim answers.
    async fn send(&self, container: &Arc<Container>, number: u32) -> Result<bool> {
        let Ok(shim) = container.shim() else {
            return Ok(true);
        };
        match shim.kill("", number).await {
            Err(fault) if fault.kind == Kind::Unavailable => return Ok(false),
            Err(fault) if fault.kind != Kind::NotFound => return Err(fault),
            _ => {}
        }
        self.wake(container, number).await.map(|()| true)
    }

    /// A shim that does not answer goes with its container, as one that has died.
    async fn send_kill(&self, container: &Arc<Container>) -> Result<()> {
        match self.send(container, SIGKILL).await? {
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
            self.note_stopped(container).await;
            return self.kill_and_wait(container, &shim).await;
        }
        shim.kill("", number).await?;
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
    async fn kill_and_wait(&self, container: &Arc<Container>, shim: &Shim) -> Result<()> {
        let run = container.run();
        shim.kill("", SIGKILL).await?;
        self.notice_kill(container, SIGKILL).await;
        self.wake(container, SIGKILL).await?;
        let Some(run) = run else {
            return Ok(());
        };
        let settled = tokio::time::timeout(LAST, run.settled()).await;
        // One that goes with its end may have readers, who keep it, and an operation may keep the end from being noted.
        if settled.is_err() && container.is_alive() && !shim.has_ended().await {
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
        if !self.keep_down(container).await {
            return Ok(());
        }
        let Some(run) = container.run() else {
            return Ok(());
        };
        self.send_kill(container).await?;
        run.settled().await;
        Ok(())
    }

    /// The exit code, when it does not run any more and all is over: that is on the disk, and what goes with its end has gone. One that its
    /// policy starts again runs meanwhile.
    pub(crate) async fn wait(&self, container: &Arc<Container>) -> Result<i32> {
        let mut changed = container.changed.subscribe();
        let begins = || match container.status() {
            Status::STARTING => true,
            // By a daemon that has not seen it run.
            Status::RESTARTING => container.run().is_none(),
            _ => false,
        };
        while begins() && changed.changed().await.is_ok() {}
        let mut next = container.run();
        while let Some(run) = next {
            let code = run.ended().await;
            next = container.run_after(&run).await;
            if next.is_none() && !run.again.load(Ordering::Relaxed) {
                run.settled().await;
                return Ok(code);
            }
        }
        Ok(container.record().state.exit_code)
    }

    pub(crate) async fn pause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        let shim = container.shim()?;
        if container.status() == Status::PAUSED {
            return Err(Fault::precondition(format!(
                "container {} is already paused",
                container.name()
            )));
        }
        shim.pause().await?;
        self.notice(container, Some("pause"), &[], |record| {
            record.state.mut_or_insert_default().status = Status::PAUSED.into();
        })
        .await;
        Ok(())
    }

    pub(crate) async fn unpause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        if container.status() != Status::PAUSED {
            return Err(Fault::precondition(format!(
                "container {} is not paused",
                container.name()
            )));
        }
        container.shim()?.resume().await?;
        self.notice(container, Some("unpause"), &[], |record| {
            record.state.mut_or_insert_default().status = Status::RUNNING.into();
        })
        .await;
        Ok(())
    }

    pub(crate) async fn rename(&self, container: &Arc<Container>, name: &str) -> Result<()> {
        let name = super::bare(name);
        valid_name(name)?;
        let _operation = container.operation.lock().await;
        let taken = self.list().iter().any(|other| other.name() == name);
        if taken || lock(&self.reserved).iter().any(|reserved| reserved == name) {
            return Err(Fault::of(
                Kind::AlreadyExists,
                format!("the name {name} is in use"),
            ));
        }
        self.note_or_undo(container, "rename", |record| {
            name.clone_into(&mut record.name);
        })
        .await
    }

    pub(crate) async fn update(
        &self,
        container: &Arc<Container>,
        limits: Option<Resources>,
        policy: Option<RestartPolicy>,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let mut config = container.config();
        if let Some(policy) = policy {
            config.restart = Some(policy).into();
            super::create::check_policy(&config)?;
        }
        if let Some(limits) = limits {
            let all = config.resources.mut_or_insert_default();
            merge(all, limits);
            super::create::check_limits(all)?;
            let all = config.resources.clone();
            let rates = blocking(move || {
                let all = all.get_or_default();
                Ok(Rates {
                    read_bps: rates(&all.read_bps)?,
                    write_bps: rates(&all.write_bps)?,
                    read_iops: rates(&all.read_iops)?,
                    write_iops: rates(&all.write_iops)?,
                })
            })
            .await?;
            let resources = spec::resources(&config.resources, &rates)?;
            if let Ok(shim) = container.shim() {
                shim.update(resources.to_string()).await?;
            }
        }
        self.note_or_undo(container, "update", |record| {
            record.config = Some(config).into();
        })
        .await
    }
}

/// What is 0 or empty stays as it is.
fn merge(all: &mut Resources, new: Resources) {
    fn take<T: Default + PartialEq>(all: &mut T, new: T) {
        if new != T::default() {
            *all = new;
        }
    }
    if new.memory != 0
        && new.memory_swap == 0
        && all.memory_swap > 0
        && all.memory_swap < new.memory
    {
        all.memory_swap = 0;
    }
    take(&mut all.nano_cpus, new.nano_cpus);
    take(&mut all.cpuset_cpus, new.cpuset_cpus);
    take(&mut all.cpuset_mems, new.cpuset_mems);
    take(&mut all.cpu_shares, new.cpu_shares);
    take(&mut all.cpu_period, new.cpu_period);
    take(&mut all.cpu_quota, new.cpu_quota);
    take(&mut all.memory, new.memory);
    take(&mut all.memory_swap, new.memory_swap);
    take(&mut all.memory_reservation, new.memory_reservation);
    take(&mut all.pids_limit, new.pids_limit);
    take(&mut all.blkio_weight, new.blkio_weight);
    take(&mut all.read_bps, new.read_bps);
    take(&mut all.write_bps, new.write_bps);
    take(&mut all.read_iops, new.read_iops);
    take(&mut all.write_iops, new.write_iops);
}
