//! The service of volumes: directories with names that outlive containers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::Result as Reply;
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use super::detached;
use crate::chunks::answer;
use crate::container::{Supervisor, blocking, random};
use crate::fault::{Fault, Result};
use crate::protos::parts::Part;
use crate::protos::system as api;
use crate::protos::system_ttrpc::Volumes;
use crate::records::{Change, event};

pub(super) struct Service(pub(super) Arc<Supervisor>);

#[async_trait]
impl Volumes for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateVolumeRequest,
    ) -> Reply<api::CreateVolumeResponse> {
        let supervisor = self.0.clone();
        let create = async move {
            let anonymous = request.name.is_empty();
            let name = if anonymous { random()? } else { request.name };
            if let Some(volume) = find(&supervisor, &name)? {
                return Ok(volume);
            }
            let mut volume = supervisor.new_volume(&name, anonymous)?;
            volume.labels = request.labels;
            let mut change = Change::default().event(event("volume", "create", &name, &[]));
            change.volumes.push(volume.clone());
            supervisor.records.apply(change).await?;
            Ok(volume)
        };
        let volume = detached(create).await?;
        Ok(api::CreateVolumeResponse {
            volume: Some(volume).into(),
            ..Default::default()
        })
    }

    async fn list(
        &self,
        _: &TtrpcContext,
        _: api::ListVolumesRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let volumes = self.0.records.volumes()?;
        let response = api::ListVolumesResponse {
            volumes,
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn inspect(
        &self,
        _: &TtrpcContext,
        request: api::InspectVolumeRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let volume = found(&self.0, &request.name)?;
        let response = api::InspectVolumeResponse {
            volume: Some(volume).into(),
            containers: self.0.users_of(&request.name),
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn remove(
        &self,
        _: &TtrpcContext,
        request: api::RemoveVolumeRequest,
    ) -> Reply<api::RemoveVolumeResponse> {
        let supervisor = self.0.clone();
        let remove = async move {
            found(&supervisor, &request.name)?;
            let users = supervisor.users_of(&request.name);
            if let Some(user) = users.first() {
                return Err(Fault::precondition(format!(
                    "volume {} is in use by container {}: remove that first",
                    request.name,
                    &user[..12]
                )));
            }
            gone(&supervisor, vec![request.name]).await
        };
        detached(remove).await?;
        Ok(api::RemoveVolumeResponse::default())
    }

    async fn prune(
        &self,
        _: &TtrpcContext,
        request: api::PruneVolumesRequest,
    ) -> Reply<api::PruneVolumesResponse> {
        let supervisor = self.0.clone();
        let prune = async move {
            let volumes = supervisor.records.volumes()?;
            let unused = |volume: &api::Volume| {
                (request.all || volume.anonymous)
                    && (request.only.is_empty() || request.only.contains(&volume.name))
                    && supervisor.users_of(&volume.name).is_empty()
            };
            let names: Vec<String> = volumes
                .into_iter()
                .filter(unused)
                .map(|volume| volume.name)
                .collect();
            let paths: Vec<_> = names
                .iter()
                .map(|name| supervisor.host.volume(name))
                .collect();
            let reclaimed = blocking(move || Ok(paths.iter().map(|path| size(path)).sum())).await?;
            gone(&supervisor, names.clone()).await?;
            Ok((names, reclaimed))
        };
        let (removed, reclaimed) = detached(prune).await?;
        Ok(api::PruneVolumesResponse {
            removed,
            reclaimed,
            ..Default::default()
        })
    }
}

fn find(supervisor: &Supervisor, name: &str) -> Result<Option<api::Volume>> {
    let volumes = supervisor.records.volumes()?;
    Ok(volumes.into_iter().find(|volume| volume.name == name))
}

fn found(supervisor: &Supervisor, name: &str) -> Result<api::Volume> {
    find(supervisor, name)?.ok_or_else(|| Fault::not_found(format!("no such volume: {name}")))
}

/// The records first: a directory without one is nobody's, one that is half removed would be somebody's loss.
async fn gone(supervisor: &Arc<Supervisor>, names: Vec<String>) -> Result<()> {
    let mut change = Change::default();
    for name in &names {
        change.events.push(event("volume", "destroy", name, &[]));
    }
    change.volumes_gone.clone_from(&names);
    supervisor.records.apply(change).await?;
    supervisor.clear_volumes(names).await
}

/// What a tree takes on disk, with hard links counted each time.
pub(super) fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| size(&entry.path())).sum::<u64>()
}
