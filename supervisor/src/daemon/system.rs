//! The service of the daemon itself: what it is, what is on its disk, and what happens.

use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::Result as Reply;
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use super::{images, volumes};
use crate::chunks::answer;
use crate::container::{Supervisor, blocking};
use crate::fault::{Fault, Result};
use crate::protos::containers::state::Status;
use crate::protos::parts::Part;
use crate::protos::system as api;
use crate::protos::system_ttrpc::System;
use crate::records::Records;
use crate::store::ObjectKind;

pub(super) struct Service(pub(super) Arc<Supervisor>);

#[async_trait]
impl System for Service {
    async fn version(
        &self,
        _: &TtrpcContext,
        _: api::VersionRequest,
    ) -> Reply<api::VersionResponse> {
        Ok(api::VersionResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ..Default::default()
        })
    }

    async fn info(&self, _: &TtrpcContext, _: api::InfoRequest) -> Reply<api::InfoResponse> {
        let store = self.0.store.clone();
        let images = blocking(move || store.images().map_err(|error| images::of(&error))).await?;
        let containers = self.0.list();
        let count = |wanted: &[Status]| {
            let matching = containers
                .iter()
                .filter(|container| wanted.contains(&container.status()));
            u32::try_from(matching.count()).unwrap_or(u32::MAX)
        };
        let (running, paused) = (count(&[Status::RUNNING]), count(&[Status::PAUSED]));
        let all = u32::try_from(containers.len()).unwrap_or(u32::MAX);
        let uname = nix::sys::utsname::uname().ok();
        let word = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            uname
                .as_ref()
                .map(|uname| get(uname).to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let host = &self.0.host;
        Ok(api::InfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            root: host.root.display().to_string(),
            state: host.state.display().to_string(),
            containers: all,
            running,
            paused,
            stopped: all - running - paused,
            images: u32::try_from(images.len()).unwrap_or(u32::MAX),
            kernel: word(nix::sys::utsname::UtsName::release),
            architecture: word(nix::sys::utsname::UtsName::machine),
            hostname: word(nix::sys::utsname::UtsName::nodename),
            cpus: std::thread::available_parallelism()
                .map_or(0, |count| u32::try_from(count.get()).unwrap_or(0)),
            memory: memory(),
            shim: host.shim.display().to_string(),
            runtime: host.runtime.display().to_string(),
            operating_system: operating_system(),
            security_options: security_options(),
            ..Default::default()
        })
    }

    async fn disk_usage(
        &self,
        _: &TtrpcContext,
        _: api::DiskUsageRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let supervisor = self.0.clone();
        let items = blocking(move || {
            let usage = supervisor
                .store
                .usage()
                .map_err(|error| images::of(&error))?;
            let mut items: Vec<_> = usage
                .objects
                .into_iter()
                .map(|object| item(&supervisor, object))
                .collect();
            for volume in supervisor.records.volumes()? {
                let size = volumes::size(std::path::Path::new(&volume.path));
                let users = supervisor.users_of(&volume.name);
                items.push(api::disk_usage_response::Item {
                    kind: "volume".into(),
                    name: volume.name,
                    size,
                    reclaimable: if users.is_empty() { size } else { 0 },
                    reasons: users
                        .iter()
                        .map(|user| format!("container {}", &user[..12]))
                        .collect(),
                    ..Default::default()
                });
            }
            Ok(items)
        })
        .await?;
        let response = api::DiskUsageResponse {
            items,
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn events(
        &self,
        _: &TtrpcContext,
        request: api::EventsRequest,
        stream: ServerStreamSender<api::Event>,
    ) -> Reply<()> {
        let sent = events(&self.0.records, &request, &stream);
        Ok(self.0.until_the_end(sent).await?)
    }
}

async fn events(
    records: &Records,
    request: &api::EventsRequest,
    stream: &ServerStreamSender<api::Event>,
) -> Result<()> {
    let mut latest = records.latest();
    let mut after = if request.new_only {
        *latest.borrow_and_update()
    } else {
        request.after
    };
    let last = *latest.borrow();
    if after > last {
        // Whoever kept a cursor over another store would wait until this one has come so far.
        let text = format!("there is no event {after} yet: the last one is {last}");
        return Err(Fault::new(text));
    }
    loop {
        latest.borrow_and_update();
        let read = records.clone();
        let events = blocking(move || read.events(after)).await?;
        for event in &events {
            stream.send(event).await?;
            after = event.cursor;
        }
        if !events.is_empty() {
            continue;
        }
        // The sender lives as long as the records.
        if request.once || latest.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn item(supervisor: &Supervisor, object: crate::store::Object) -> api::disk_usage_response::Item {
    let kind = match object.kind {
        ObjectKind::Image => "image",
        ObjectKind::Layer => "layer",
        ObjectKind::Snapshot => "container",
        ObjectKind::Content => "content",
        ObjectKind::Ingest => "ingest",
        ObjectKind::Lease => "lease",
    };
    let mut reclaimable = object.reclaimable;
    if object.kind == ObjectKind::Snapshot {
        let alive = supervisor
            .find(&object.name)
            .is_ok_and(|container| container.is_alive());
        reclaimable = if alive { 0 } else { object.size };
    }
    api::disk_usage_response::Item {
        kind: kind.into(),
        name: object.name,
        size: object.size,
        reclaimable,
        reasons: object.reasons,
        ..Default::default()
    }
}

/// What a distribution calls itself.
fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default()
        .trim_matches(['"', '\''])
        .to_owned()
}

/// What confines containers that ask for nothing else.
fn security_options() -> Vec<String> {
    let apparmor = crate::container::has_apparmor().then_some("name=apparmor");
    let always = ["name=seccomp,profile=builtin", "name=cgroupns"];
    apparmor
        .into_iter()
        .chain(always)
        .map(String::from)
        .collect()
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_default() << 10
}
