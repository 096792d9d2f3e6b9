//! What can be done with a container that is there, but for its end (`stop`): waiting for that, pausing, other limits, another name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::create::{blocking, valid_name};
use super::look_up::rates;
use super::{Container, Supervisor};
use crate::fault::{Fault, Kind, Result};
use crate::lock::lock;
use crate::protos::containers::{Resources, RestartPolicy, state::Status};
use crate::spec::{self, Rates};

impl Supervisor {
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
        // What is being started in it would wait with it.
        let _asleep = container.awake.write().await;
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
