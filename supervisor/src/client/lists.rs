//! `ps` and `inspect`: what there is of containers, and of whatever has a name.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::cli::{InspectAny, Ps};
use super::connection::{Daemon, patient};
use super::containers::show;
use super::filter::{Filters, part};
use super::{print, say, table, view};
use crate::chunks::answered;
use crate::fault::{Fault, Kind, Result};
use crate::protos::containers as api;
use crate::protos::images::{ListImagesRequest, ListImagesResponse};
use crate::protos::system::{ListVolumesRequest, ListVolumesResponse};
use crate::records::now;

/// What `--filter` of `ps` may name.
const FILTERS: [&str; 10] = [
    "name", "id", "status", "label", "ancestor", "exited", "volume", "network", "before", "since",
];
const STATUS: [&str; 7] = [
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

pub(super) async fn ps(daemon: &Daemon, asked: Ps) -> Result<u8> {
    let wanted = Wanted::new(daemon, &asked).await?;
    let format = asked.format.as_deref();
    let sizes = asked.size || format.is_some_and(|format| format.contains(".Size"));
    // A negative number is as none.
    let last = asked.last.and_then(|last| usize::try_from(last).ok());
    let last = asked.latest.then_some(1).or(last);
    let request = api::ListContainersRequest {
        // A state that is asked for is to be found.
        all: asked.all
            || last.is_some()
            || ["status", "exited"]
                .iter()
                .any(|name| wanted.filters.has(name)),
        sizes,
        ..Default::default()
    };
    let mut answer: api::ListContainersResponse =
        answered(daemon.containers.list(patient(), &request)).await?;
    let mut containers = std::mem::take(&mut answer.containers);
    containers.retain(|container| wanted.matches(container));
    if let Some(last) = last {
        containers.truncate(last);
    }
    if asked.quiet {
        let lines = containers.iter().map(|container| {
            let whole = if asked.no_trunc { usize::MAX } else { 12 };
            let id: String = container.id.chars().take(whole).collect();
            id + "\n"
        });
        print(&lines.collect::<String>())?;
        return Ok(0);
    }
    let now = now();
    let rows = containers.iter().map(|container| {
        let mut row = view::row(container, now, asked.no_trunc);
        if let Some(size) = answer.sizes.get(&container.id) {
            row["Size"] = json!(view::size(size));
        }
        view::label(&mut row, &container.labels, format);
        row
    });
    let rows: Vec<Value> = rows.collect();
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("NAMES", "Names"),
    ];
    columns.extend(sizes.then_some(("SIZE", "Size")));
    print(&table::render(&rows, &columns, format)?)?;
    Ok(0)
}

/// Which containers are to be listed.
struct Wanted {
    filters: Filters,
    /// Images that containers are of, or whose images have all layers of these and more.
    ancestors: Vec<Ancestor>,
    /// Each image's layers.
    layers: HashMap<String, Vec<String>>,
    /// Made before and after these times.
    before: Option<i64>,
    since: Option<i64>,
}

struct Ancestor {
    id: String,
    layers: Vec<String>,
}

impl Wanted {
    async fn new(daemon: &Daemon, asked: &Ps) -> Result<Self> {
        let filters = Filters::parse(&asked.filter, &FILTERS)?;
        for status in filters.values("status") {
            if !STATUS.contains(&status) {
                return Err(Fault::new(format!(
                    "invalid filter 'status={status}': there are {}",
                    STATUS.join(", ")
                )));
            }
        }
        for code in filters.values("exited") {
            if code.parse::<i32>().is_err() {
                return Err(Fault::new(format!("invalid filter 'exited={code}'")));
            }
        }
        let before = made(daemon, filters.values("before")).await?;
        let since = made(daemon, filters.values("since")).await?;
        let mut wanted = Self {
            before: before.into_iter().min(),
            since: since.into_iter().max(),
            filters,
            ancestors: vec![],
            layers: HashMap::new(),
        };
        if wanted.filters.has("ancestor") {
            wanted.find_ancestors(daemon).await?;
        }
        Ok(wanted)
    }

    async fn find_ancestors(&mut self, daemon: &Daemon) -> Result<()> {
        let request = ListImagesRequest::default();
        let images: ListImagesResponse = answered(daemon.images.list(patient(), &request)).await?;
        for name in self.filters.values("ancestor") {
            // One that is not there has no descendants.
            match super::images::found(daemon, name).await {
                Ok(image) => self.ancestors.push(Ancestor {
                    id: image.id,
                    layers: image.layers,
                }),
                Err(fault) if fault.kind == Kind::NotFound => {}
                Err(fault) => return Err(fault),
            }
        }
        let images = images.images.into_iter();
        let images = images.map(|image| (image.id, image.layers));
        self.layers.extend(images);
        Ok(())
    }

    fn descends(&self, image: &str) -> bool {
        let layers = self.layers.get(image);
        self.ancestors.iter().any(|ancestor| {
            let more = |layers: &Vec<String>| {
                layers.len() > ancestor.layers.len() && layers.starts_with(&ancestor.layers)
            };
            ancestor.id == image || layers.is_some_and(more)
        })
    }

    fn matches(&self, container: &api::Container) -> bool {
        let filters = &self.filters;
        let (config, status) = (
            container.config.get_or_default(),
            view::status_word(&container.state),
        );
        let with_slash = format!("/{}", container.name);
        let named = |wanted: &str| part(wanted, &container.name) || part(wanted, &with_slash);
        let ended =
            |code: &str| status == "exited" && code.parse() == Ok(container.state.exit_code);
        let mounts = |wanted: &str| {
            let wanted = wanted.trim_end_matches('/');
            let is = |mount: &api::Mount| {
                mount.source == wanted || mount.target.trim_end_matches('/') == wanted
            };
            !wanted.is_empty() && config.mounts.iter().any(is)
        };
        filters.any("name", named)
            && filters.any("id", |wanted| part(wanted, &container.id))
            && filters.any("status", |wanted| status == wanted)
            && filters.any("exited", ended)
            && filters.any("volume", mounts)
            && filters.any("network", |wanted| view::network(config) == wanted)
            && filters.labels(&container.labels)
            && (!filters.has("ancestor") || self.descends(&container.image_id))
            && self.before.is_none_or(|time| container.created_at < time)
            && self.since.is_none_or(|time| container.created_at > time)
    }
}

/// When these containers were made.
async fn made(daemon: &Daemon, names: impl Iterator<Item = &str>) -> Result<Vec<i64>> {
    let mut times = vec![];
    for name in names {
        let found = inspected(daemon, name, false).await?;
        times.push(found.container.created_at);
    }
    Ok(times)
}

pub(super) async fn inspected(
    daemon: &Daemon,
    name: &str,
    size: bool,
) -> Result<api::InspectContainerResponse> {
    let request = api::InspectContainerRequest {
        container: name.into(),
        size,
        ..Default::default()
    };
    answered(daemon.containers.inspect(patient(), &request)).await
}

pub(super) async fn inspect(daemon: &Daemon, asked: InspectAny) -> Result<u8> {
    let kinds: Vec<&str> = match &asked.kind {
        Some(kind) => vec![kind],
        None => vec!["container", "image", "volume"],
    };
    let size = asked.containers.size;
    let asked = asked.containers.inspect;
    each(&asked.names, asked.format.as_deref(), async |name| {
        for kind in &kinds {
            let found = match *kind {
                "container" => container(daemon, name, size).await,
                "image" => super::images::inspected(daemon, name).await,
                _ => super::system::inspected(daemon, name).await,
            };
            match found {
                Err(fault) if fault.kind == Kind::NotFound => {}
                found => return found,
            }
        }
        let kinds = kinds.join(", ");
        Err(Fault::not_found(format!("no such {kinds}: {name}")))
    })
    .await
}

/// Shows those that are found; what is wrong with others is said, and makes the exit code 1.
pub(super) async fn each(
    names: &[String],
    format: Option<&str>,
    find: impl AsyncFn(&str) -> Result<Value>,
) -> Result<u8> {
    let (mut found, mut faults) = (vec![], vec![]);
    for name in names {
        match find(name).await {
            Ok(one) => found.push(one),
            Err(fault) => faults.push(fault),
        }
    }
    show(&found, format)?;
    faults.iter().for_each(say);
    Ok(u8::from(!faults.is_empty()))
}

async fn container(daemon: &Daemon, name: &str, size: bool) -> Result<Value> {
    let answer = inspected(daemon, name, size).await?;
    let request = ListVolumesRequest::default();
    let volumes: ListVolumesResponse = answered(daemon.volumes.list(patient(), &request)).await?;
    let volumes = volumes.volumes.into_iter();
    let context = view::Context {
        effective: answer.effective.clone().unwrap_or_default(),
        volumes: volumes.map(|volume| (volume.name, volume.path)).collect(),
    };
    let mut shown = view::inspect(answer.container.get_or_default(), &context);
    if let Some(size) = answer.size.as_ref() {
        shown["SizeRw"] = json!(size.written);
        shown["SizeRootFs"] = json!(size.written + size.image);
    }
    Ok(shown)
}
