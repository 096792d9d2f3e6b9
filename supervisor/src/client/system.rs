//! The verbs of volumes, of the daemon and its disk, and events.

use std::collections::HashSet;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::cli::{Events, Formatted, SystemCommand, VolumeCommand};
use super::connection::{Daemon, patient};
use super::containers::{each, show, time};
use super::filter::{Filters, part};
use super::format::Template;
use super::process::lost;
use super::{harmless, print, prune, table, view};
use crate::chunks::answered;
use crate::container::text_of;
use crate::fault::{Fault, Kind, Result};
use crate::protos::containers as of_containers;
use crate::protos::system as api;

/// What `--filter` of `events` may name; and labels, of which all have to hold.
const OF_EVENTS: [&str; 5] = ["container", "event", "image", "type", "volume"];

pub(super) async fn volume(daemon: &Daemon, command: VolumeCommand) -> Result<u8> {
    match command {
        VolumeCommand::Create {
            label,
            driver,
            opt,
            name_option,
            name,
        } => {
            if driver != "local" || !opt.is_empty() {
                return Err(Fault::new(
                    "a volume is a directory of the daemon's: the driver is local, and there are no options for it",
                ));
            }
            create_volume(daemon, &label, name.or(name_option)).await
        }
        VolumeCommand::Ls {
            quiet,
            filter,
            format,
        } => volumes(daemon, quiet, &filter, format.as_deref()).await,
        VolumeCommand::Inspect(asked) => {
            super::lists::each(&asked.names, asked.format.as_deref(), async |name| {
                inspected(daemon, name).await
            })
            .await
        }
        VolumeCommand::Rm { force, volumes } => {
            let request = |name: &str| api::RemoveVolumeRequest {
                name: name.into(),
                ..Default::default()
            };
            each(&volumes, async |name| {
                let removed = daemon.volumes.remove(patient(), &request(name)).await;
                match removed.map_err(Fault::from) {
                    Err(fault) if !force || fault.kind != Kind::NotFound => Err(fault),
                    _ => Ok(()),
                }
            })
            .await
        }
        VolumeCommand::Prune(asked) => prune::of_volumes(daemon, &asked).await,
    }
}

pub(super) async fn inspected(daemon: &Daemon, name: &str) -> Result<Value> {
    let request = api::InspectVolumeRequest {
        name: name.into(),
        ..Default::default()
    };
    let answer: api::InspectVolumeResponse =
        answered(daemon.volumes.inspect(patient(), &request)).await?;
    Ok(shown(answer.volume.get_or_default(), &answer.containers))
}

async fn create_volume(daemon: &Daemon, labels: &[String], name: Option<String>) -> Result<u8> {
    let labels = labels
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")));
    let request = api::CreateVolumeRequest {
        name: name.unwrap_or_default(),
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Default::default()
    };
    let volume = daemon.volumes.create(patient(), &request).await?.volume;
    print(&format!("{}\n", volume.name))?;
    Ok(0)
}

async fn volumes(
    daemon: &Daemon,
    quiet: bool,
    filter: &[String],
    format: Option<&str>,
) -> Result<u8> {
    let filters = Filters::parse(filter, &["name", "label", "dangling", "driver"])?;
    let mut volumes = all_volumes(daemon).await?;
    volumes.retain(|volume| {
        filters.any("name", |wanted| part(wanted, &volume.name))
            && filters.any("driver", |wanted| wanted == "local")
            && filters.labels(&volume.labels)
    });
    if let Some(dangling) = filters.truth("dangling")? {
        let used = used_volumes(daemon).await?;
        volumes.retain(|volume| dangling != used.contains(&volume.name));
    }
    if quiet {
        let names = volumes.iter().map(|volume| format!("{}\n", volume.name));
        print(&names.collect::<String>())?;
        return Ok(0);
    }
    let row = |volume: &api::Volume| {
        let mut row = json!({
            "Name": volume.name, "Driver": "local", "Scope": "local", "Mountpoint": volume.path, "Labels": view::labels(&volume.labels),
            "CreatedAt": text_of(volume.created_at),
            // In this list, Docker does not count them either, and the others are of clusters.
            "Links": "N/A", "Size": "N/A", "Availability": "N/A", "Group": "N/A", "Status": "N/A",
        });
        view::label(&mut row, &volume.labels, format);
        row
    };
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    let columns = &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")];
    print(&table::render(&rows, columns, format)?)?;
    Ok(0)
}

pub(super) async fn all_volumes(daemon: &Daemon) -> Result<Vec<api::Volume>> {
    let request = api::ListVolumesRequest::default();
    let answer: api::ListVolumesResponse =
        answered(daemon.volumes.list(patient(), &request)).await?;
    Ok(answer.volumes)
}

/// Those of containers, running or not.
async fn used_volumes(daemon: &Daemon) -> Result<HashSet<String>> {
    let containers = all_containers(daemon, false).await?.containers;
    let mounts = containers
        .into_iter()
        .flat_map(|container| container.config.unwrap_or_default().mounts);
    let volumes = mounts.filter(|mount| mount.kind == of_containers::mount::Kind::VOLUME.into());
    Ok(volumes.map(|mount| mount.source).collect())
}

pub(super) async fn all_containers(
    daemon: &Daemon,
    sizes: bool,
) -> Result<of_containers::ListContainersResponse> {
    let request = of_containers::ListContainersRequest {
        all: true,
        sizes,
        ..Default::default()
    };
    answered(daemon.containers.list(patient(), &request)).await
}

fn shown(volume: &api::Volume, containers: &[String]) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Scope": "local",
        "Mountpoint": volume.path,
        "CreatedAt": text_of(volume.created_at),
        "Labels": volume.labels,
        "Containers": containers,
    })
}

pub(super) async fn system(daemon: &Daemon, command: SystemCommand) -> Result<u8> {
    match command {
        SystemCommand::Df { verbose, format } => df(daemon, verbose, format.as_deref()).await,
        SystemCommand::Prune {
            prune: asked,
            volumes,
        } => prune::of_all(daemon, &asked, volumes).await,
        SystemCommand::Events(asked) => events(daemon, asked).await,
        SystemCommand::Info(asked) => info(daemon, asked).await,
    }
}

async fn df(daemon: &Daemon, verbose: bool, format: Option<&str>) -> Result<u8> {
    let request = api::DiskUsageRequest::default();
    let answer: api::DiskUsageResponse =
        answered(daemon.system.disk_usage(patient(), &request)).await?;
    let items = answer.items;
    if verbose {
        let whole = format.is_some_and(|format| format != "table");
        let row = |item: &api::disk_usage_response::Item| {
            let name = match whole {
                true => item.name.clone(),
                false => table::short(item.name.trim_start_matches("sha256:"), 40),
            };
            json!({
                "Kind": item.kind, "Name": name, "Size": table::decimal(item.size),
                "Reclaimable": table::decimal(item.reclaimable), "Reasons": item.reasons.join("; "),
            })
        };
        let rows: Vec<Value> = items.iter().map(row).collect();
        let columns = &[
            ("TYPE", "Kind"),
            ("NAME", "Name"),
            ("SIZE", "Size"),
            ("RECLAIMABLE", "Reclaimable"),
            ("KEPT BY", "Reasons"),
        ];
        print(&table::render(&rows, columns, format)?)?;
        return Ok(0);
    }
    let containers = all_containers(daemon, false).await?.containers;
    let alive = containers.into_iter().filter(|container| {
        let word = view::status_word(&container.state);
        matches!(word, "running" | "paused" | "restarting")
    });
    let rows = usage(&items, &alive.map(|container| container.id).collect());
    let columns = &[
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    print(&table::render(&rows, columns, format)?)?;
    Ok(0)
}

/// What is counted, and what takes the room: images share their layers and blobs.
fn usage(items: &[api::disk_usage_response::Item], alive: &HashSet<String>) -> Vec<Value> {
    let row = |(title, counted, kinds): (&str, &str, &[&str])| {
        let all = items.iter().filter(|item| item.kind == counted);
        let active = all.clone().filter(|item| match counted {
            "container" => alive.contains(&item.name),
            // Its names keep it too.
            "image" => item.reasons.iter().any(|it| it.starts_with("container ")),
            _ => !item.reasons.is_empty(),
        });
        let (mut size, mut reclaimable) = (0, 0);
        for item in items.iter().filter(|item| kinds.contains(&&*item.kind)) {
            (size, reclaimable) = (size + item.size, reclaimable + item.reclaimable);
        }
        let share = (reclaimable * 100).checked_div(size);
        let share = share.map_or_else(String::new, |share| format!(" ({share}%)"));
        json!({
            "Type": title,
            "TotalCount": all.count().to_string(),
            "Active": active.count().to_string(),
            "Size": table::decimal(size),
            "Reclaimable": table::decimal(reclaimable) + &share,
        })
    };
    [
        ("Images", "image", &["layer", "content"][..]),
        ("Containers", "container", &["container"]),
        ("Local Volumes", "volume", &["volume"]),
        ("Unfinished", "ingest", &["ingest"]),
    ]
    .map(row)
    .into()
}

pub(super) async fn events(daemon: &Daemon, asked: Events) -> Result<u8> {
    let since = asked.since.as_deref().map(time).transpose()?;
    let until = asked.until.as_deref().map(time).transpose()?;
    let filters = Filters::parse(&asked.filter, &[&OF_EVENTS[..], &["label"]].concat())?;
    let request = api::EventsRequest {
        after: asked.after.unwrap_or_default(),
        new_only: asked.after.is_none() && since.is_none() && until.is_none(),
        once: until.is_some(),
        ..Default::default()
    };
    let template = asked
        .format
        .as_deref()
        .filter(|format| *format != "json")
        .map(Template::parse)
        .transpose()?;
    let mut stream = daemon.system.events(patient(), &request).await?;
    loop {
        let event = match stream.recv().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(0),
            Err(error) => return Err(lost(error, "there may be more events")),
        };
        let out_of_time = since.is_some_and(|since| event.time < since)
            || until.is_some_and(|until| event.time > until);
        if out_of_time
            || !filters.labels(&event.attributes)
            || !OF_EVENTS
                .iter()
                .all(|name| filters.any(name, |value| matches(&event, name, value)))
        {
            continue;
        }
        let image = event.attributes.get("image").map(String::as_str);
        let value = json!({
            "Cursor": event.cursor, "Type": event.kind, "Action": event.action, "Actor": { "ID": event.id, "Attributes": event.attributes },
            "scope": "local", "time": event.time / 1_000_000_000, "timeNano": event.time,
            // Where Docker had them before there was an actor.
            "status": event.action, "id": event.id, "from": image.or(template.is_some().then_some("")),
        });
        let line = match (&template, asked.format.is_some()) {
            (Some(template), _) => template.apply(&value)?,
            (None, true) => value.to_string(),
            (None, false) => {
                let mut attributes: Vec<String> = event
                    .attributes
                    .iter()
                    .map(|(name, value)| harmless(&format!("{name}={value}")))
                    .collect();
                attributes.sort();
                format!(
                    "{} {} {} {} ({})",
                    text_of(event.time),
                    event.kind,
                    event.action,
                    event.id,
                    attributes.join(", ")
                )
            }
        };
        if writeln!(io::stdout(), "{line}")
            .and_then(|()| io::stdout().flush())
            .is_err()
        {
            // The reader has left.
            return Ok(0);
        }
    }
}

fn matches(event: &api::Event, name: &str, value: &str) -> bool {
    match name {
        "type" => event.kind == value,
        "event" => event.action == value,
        "container" | "volume" => {
            event.kind == name
                && (event.id.starts_with(value)
                    || event
                        .attributes
                        .get("name")
                        .is_some_and(|name| name == value))
        }
        "image" => {
            event.id == value
                || event
                    .attributes
                    .get("image")
                    .is_some_and(|image| image == value)
        }
        _ => false,
    }
}

pub(super) async fn info(daemon: &Daemon, asked: Formatted) -> Result<u8> {
    let info = daemon
        .system
        .info(patient(), &api::InfoRequest::default())
        .await?;
    let value = json!({
        "ServerVersion": info.version, "Containers": info.containers, "ContainersRunning": info.running, "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped, "Images": info.images, "Root": info.root, "DockerRootDir": info.root, "State": info.state,
        "KernelVersion": info.kernel, "Architecture": info.architecture, "NCPU": info.cpus, "MemTotal": info.memory, "Shim": info.shim,
        "Name": info.hostname, "OperatingSystem": info.operating_system, "OSType": "linux", "SecurityOptions": info.security_options,
        "DefaultRuntime": view::RUNTIME, "Runtimes": { view::RUNTIME: { "path": info.runtime } }, "Driver": view::DRIVER,
        "LoggingDriver": view::LOG, "CgroupDriver": "cgroupfs", "CgroupVersion": "2",
        // Containers need no daemon, and there is no swarm.
        "LiveRestoreEnabled": true, "Swarm": { "LocalNodeState": "inactive" },
    });
    if let Some(format) = asked.format.as_deref() {
        show(std::slice::from_ref(&value), Some(format))?;
        return Ok(0);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        print(&format!("{name}: {text}\n"))?;
    }
    Ok(0)
}

pub(super) async fn version(daemon: &Daemon, asked: Formatted) -> Result<u8> {
    let server = daemon
        .system
        .version(patient(), &api::VersionRequest::default())
        .await?;
    let client = env!("CARGO_PKG_VERSION");
    // Its socket is a path: the daemon's machine is this one.
    let arch = crate::image::architecture();
    let value = json!({
        "Client": { "Version": client, "Os": "linux", "Arch": arch },
        "Server": { "Version": server.version, "Pid": server.pid, "Os": "linux", "Arch": arch },
    });
    match asked.format.as_deref() {
        Some(format) => show(std::slice::from_ref(&value), Some(format))?,
        None => print(&format!(
            "Client: caissonctl {client}\nServer: caissond {} (pid {})\n",
            server.version, server.pid
        ))?,
    }
    Ok(0)
}
