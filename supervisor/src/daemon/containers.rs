//! The service of containers: a request → one call → its reply. No decisions.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::Result as Reply;
use ttrpc::r#async::{ServerStream, ServerStreamSender, TtrpcContext};

use super::detached;
use crate::chunks::answer;
use crate::container::{self, Container, Follower, From, Supervisor, blocking};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers as api;
use crate::protos::containers_ttrpc::Containers;
use crate::protos::parts::Part;
use crate::requests::attended;
use crate::wanted::Wish;

pub(super) struct Service(pub(super) Arc<Supervisor>);

impl Service {
    async fn found(&self, name: &str) -> Result<Arc<Container>> {
        // Right after its start, the daemon does not know yet what became of what ran.
        self.0.found(name).await
    }
}

#[async_trait]
impl Containers for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> Reply<api::CreateContainerResponse> {
        let supervisor = self.0.clone();
        let config = request.config.unwrap_or_default();
        let mut warnings = crate::container::warnings(&config)?;
        let (container, warning) =
            detached(async move { supervisor.create(&request.name, config).await }).await?;
        warnings.extend(warning);
        Ok(api::CreateContainerResponse {
            id: container.id.clone(),
            name: container.name(),
            warnings,
            ..Default::default()
        })
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartContainerRequest,
    ) -> Reply<api::StartContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let pid =
            detached(async move { supervisor.start_or_forget(&container, None).await }).await?;
        Ok(api::StartContainerResponse {
            pid,
            ..Default::default()
        })
    }

    async fn attach(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::AttachResponse, api::AttachRequest>,
    ) -> Reply<()> {
        let attached = container::attach(&self.0, stream);
        Ok(self.0.until_the_end(attached).await?)
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::AttachResponse, api::ExecRequest>,
    ) -> Reply<()> {
        let executed = container::exec(&self.0, stream);
        Ok(self.0.until_the_end(executed).await?)
    }

    async fn stop(
        &self,
        _: &TtrpcContext,
        request: api::StopContainerRequest,
    ) -> Reply<api::StopContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let stop = async move { supervisor.stop(&container, &request).await };
        self.0.until_cut_off(detached(stop)).await?;
        Ok(api::StopContainerResponse::default())
    }

    async fn restart(
        &self,
        _: &TtrpcContext,
        request: api::StopContainerRequest,
    ) -> Reply<api::StopContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let restart = async move { supervisor.restart(&container, &request).await };
        self.0.until_cut_off(detached(restart)).await?;
        Ok(api::StopContainerResponse::default())
    }

    async fn kill(
        &self,
        _: &TtrpcContext,
        request: api::KillContainerRequest,
    ) -> Reply<api::KillContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        detached(async move { supervisor.kill(&container, &request.signal).await }).await?;
        Ok(api::KillContainerResponse::default())
    }

    async fn remove(
        &self,
        _: &TtrpcContext,
        request: api::RemoveContainerRequest,
    ) -> Reply<api::RemoveContainerResponse> {
        let supervisor = self.0.clone();
        let container = match request.force {
            true => supervisor.found_or_ended(&request.container).await?,
            false => self.found(&request.container).await?,
        };
        detached(async move {
            supervisor
                .remove(&container, request.force, request.volumes)
                .await
        })
        .await?;
        Ok(api::RemoveContainerResponse::default())
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitContainerRequest,
    ) -> Reply<api::WaitContainerResponse> {
        let container = self.found(&request.container).await?;
        let exit_code = self.0.until_the_end(self.0.wait(&container)).await?;
        Ok(api::WaitContainerResponse {
            exit_code,
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: api::PauseContainerRequest,
    ) -> Reply<api::PauseContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        detached(async move { supervisor.pause(&container).await }).await?;
        Ok(api::PauseContainerResponse::default())
    }

    async fn unpause(
        &self,
        _: &TtrpcContext,
        request: api::UnpauseContainerRequest,
    ) -> Reply<api::UnpauseContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        detached(async move { supervisor.unpause(&container).await }).await?;
        Ok(api::UnpauseContainerResponse::default())
    }

    async fn rename(
        &self,
        _: &TtrpcContext,
        request: api::RenameContainerRequest,
    ) -> Reply<api::RenameContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        detached(async move { supervisor.rename(&container, &request.name).await }).await?;
        Ok(api::RenameContainerResponse::default())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> Reply<api::UpdateContainerResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let (limits, policy) = (
            request.resources.into_option(),
            request.restart.into_option(),
        );
        detached(async move { supervisor.update(&container, limits, policy).await }).await?;
        Ok(api::UpdateContainerResponse::default())
    }

    async fn list(
        &self,
        _: &TtrpcContext,
        request: api::ListContainersRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        self.0.recovered().await;
        let wanted = |container: &&Arc<Container>| request.all || container.is_active();
        let containers = self.0.list();
        let wanted = containers.iter().filter(wanted);
        let containers: Vec<_> = wanted.map(|container| container.record()).collect();
        let mut sizes = HashMap::new();
        if request.sizes {
            for record in containers.clone() {
                let (supervisor, id) = (self.0.clone(), record.id.clone());
                // What goes meanwhile, or cannot be read, has no size; the others have theirs.
                match blocking(move || supervisor.size(&record)).await {
                    Ok(size) => drop(sizes.insert(id, size)),
                    Err(fault) if fault.kind == Kind::NotFound => {}
                    Err(fault) => crate::daemon::warn(&fault),
                }
            }
        }
        let response = api::ListContainersResponse {
            containers,
            sizes,
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn inspect(
        &self,
        _: &TtrpcContext,
        request: api::InspectContainerRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let record = container.record();
        let of = record.clone();
        let (effective, size) = blocking(move || {
            let size = request.size.then(|| supervisor.size(&of)).transpose()?;
            // Of an image that is damaged, what it adds is not known; the container is there all the same.
            Ok((supervisor.effective(&of).ok(), size))
        })
        .await?;
        let response = api::InspectContainerResponse {
            container: Some(record).into(),
            effective: effective.into(),
            size: size.into(),
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn logs(
        &self,
        _: &TtrpcContext,
        request: api::LogsRequest,
        stream: ServerStreamSender<api::LogsResponse>,
    ) -> Reply<()> {
        let container = self.found(&request.container).await?;
        let sent = logs(&self.0, &container, &request, &stream);
        Ok(self.0.until_the_end(attended(&stream, sent)).await?)
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        request: api::ProcessesRequest,
    ) -> Reply<api::ProcessesResponse> {
        let container = self.found(&request.container).await?;
        let pids = container.shim()?.pids().await?;
        Ok(api::ProcessesResponse {
            pids,
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> Reply<api::StatsResponse> {
        let container = self.found(&request.container).await?;
        Ok(self.0.stats(&container).await?)
    }

    async fn diff(
        &self,
        _: &TtrpcContext,
        request: api::DiffRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let container = self.found(&request.container).await?;
        let changes = self.0.diff(&container).await?;
        let response = api::DiffResponse {
            changes,
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn commit(
        &self,
        _: &TtrpcContext,
        request: api::CommitRequest,
    ) -> Reply<api::CommitResponse> {
        let (supervisor, container) = (self.0.clone(), self.found(&request.container).await?);
        let wish = Wish::default();
        let wanted = wish.wanted();
        let commit = async move { supervisor.commit(&container, request, wanted).await };
        let id = detached(commit).await?;
        Ok(api::CommitResponse {
            id,
            ..Default::default()
        })
    }

    async fn copy_out(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::CopyOutResponse, api::CopyOutRequest>,
    ) -> Reply<()> {
        let _awaited = self.0.ending.subscribe();
        Ok(container::copy_out(&self.0, stream).await?)
    }

    async fn copy_in(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::CopyInResponse, api::CopyInRequest>,
    ) -> Reply<()> {
        let _awaited = self.0.ending.subscribe();
        Ok(container::copy_in(&self.0, stream).await?)
    }
}

async fn logs(
    supervisor: &Supervisor,
    container: &Container,
    request: &api::LogsRequest,
    stream: &ServerStreamSender<api::LogsResponse>,
) -> Result<()> {
    if container.config().log.none {
        return Err(Fault::precondition(format!(
            "container {} has no log",
            container.name()
        )));
    }
    let directory = supervisor.host.log(&container.id);
    // One that was never started has none yet.
    std::fs::create_dir_all(&directory).tried(|| format!("make {}", directory.display()))?;
    let open = || "open the log".to_owned();
    let mut follower = Follower::open(&supervisor.watches, &directory, From::Begin).tried(open)?;
    if let Some(lines) = request.tail {
        follower = follower.last(lines).await.tried(open)?;
    }
    let (_sender, mut over) = container.log_over(request.follow);
    let mut response = api::LogsResponse::default();
    let mut told = 0;
    while let Some(record) = follower
        .next(&mut over)
        .await
        .tried(|| "read the log".into())?
    {
        if request.until != 0 && record.time > request.until {
            break;
        }
        if record.time < request.since {
            continue;
        }
        response.overtaken = follower.was_overtaken();
        response.stderr = record.stderr;
        response.data = record.data;
        response.time = record.time;
        response.lost_output = record.lost;
        told += record.lost;
        stream.send(&response).await?;
    }
    let all = container.record().state.lost_output;
    let lost_output = all.saturating_sub(told);
    if lost_output > 0 {
        let last = api::LogsResponse {
            lost_output,
            ..Default::default()
        };
        stream.send(&last).await?;
    }
    Ok(())
}
