//! Removing what is not used: containers that have ended, images, volumes. Which of them, the filters here say; whether they are used, the
//! daemon.

use std::collections::HashMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::cli::{Prune, PruneAll};
use super::connection::{Daemon, patient};
use super::containers::time;
use super::filter::Filters;
use super::system::all_containers;
use super::view::status_word;
use super::{images, print, system, table};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::{containers, images as of_images, system as of_system};

/// Of those that are not used, which.
struct Which {
    filters: Filters,
    until: Option<i64>,
}

impl Which {
    fn new(words: &[String], known: &[&str]) -> Result<Self> {
        let filters = Filters::parse(words, known)?;
        let until: Result<Vec<i64>> = filters.values("until").map(time).collect();
        Ok(Self {
            until: until?.into_iter().min(),
            filters,
        })
    }

    fn is_all(&self) -> bool {
        self.until.is_none() && !self.filters.has("label") && !self.filters.has("label!")
    }

    fn takes(&self, created_at: i64, labels: &HashMap<String, String>) -> bool {
        self.until.is_none_or(|until| created_at < until) && self.filters.labels(labels)
    }
}

/// Asks. Where nobody answers, it is not done.
fn confirmed(what: &str) -> Result<bool> {
    print(&format!("This removes {what}. Are you sure? [y/N] "))?;
    io::stdout().flush().tried(|| "write".into())?;
    let mut answer = String::new();
    let length = io::stdin()
        .lock()
        .read_line(&mut answer)
        .tried(|| "read the answer".into())?;
    if length == 0 && !io::stdin().is_terminal() {
        return Err(Fault::new(format!(
            "this removes {what}: say --force if that is meant"
        )));
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What is asked for, in words.
fn described(what: &str, filter: &[String]) -> String {
    match filter {
        [] => what.to_owned(),
        filter => format!("{what}, of those with {}", filter.join(", ")),
    }
}

pub(super) async fn of_containers(daemon: &Daemon, asked: &Prune) -> Result<u8> {
    let which = Which::new(&asked.filter, &["label", "label!", "until"])?;
    if asked.force || confirmed(&described("all ended containers", &asked.filter))? {
        print_reclaimed(remove_ended(daemon, &which).await?)?;
    }
    Ok(0)
}

/// And those that never ran. How many bytes they had.
async fn remove_ended(daemon: &Daemon, which: &Which) -> Result<u64> {
    let mut reclaimed = 0;
    let all = all_containers(daemon, true).await?;
    for container in all.containers {
        let status = status_word(&container.state);
        if !matches!(status, "exited" | "created")
            || !which.takes(container.created_at, &container.labels)
        {
            continue;
        }
        let request = containers::RemoveContainerRequest {
            container: container.id.clone(),
            ..Default::default()
        };
        let removed = daemon.containers.remove(patient(), &request).await;
        match removed.map_err(Fault::from) {
            Ok(_) => {
                let size = all.sizes.get(&container.id);
                reclaimed += size.map_or(0, |size| size.written);
                print(&format!("Deleted container: {}\n", container.id))?;
            }
            // Others have removed it meanwhile, or it runs by now.
            Err(fault) if matches!(fault.kind, Kind::NotFound | Kind::Precondition) => {}
            Err(fault) => super::say(&fault),
        }
    }
    Ok(reclaimed)
}

pub(super) async fn of_images(daemon: &Daemon, asked: &PruneAll) -> Result<u8> {
    let known = ["dangling", "label", "label!", "until"];
    let which = Which::new(&asked.prune.filter, &known)?;
    // Docker's older way of saying --all.
    let all = asked.all || which.filters.truth("dangling")? == Some(false);
    let what = described(images_in_words(all), &asked.prune.filter);
    if asked.prune.force || confirmed(&what)? {
        print_reclaimed(remove_images(daemon, all, &which).await?)?;
    }
    Ok(0)
}

fn images_in_words(all: bool) -> &'static str {
    match all {
        true => "all images that no container uses",
        false => "all images without a name",
    }
}

/// How many bytes that was.
async fn remove_images(daemon: &Daemon, all: bool, which: &Which) -> Result<u64> {
    let mut request = of_images::PruneImagesRequest {
        all,
        ..Default::default()
    };
    if !which.is_all() {
        let images = images::all(daemon).await?.into_iter();
        let chosen = images.filter(|image| which.takes(image.created_at, &images::labels(image)));
        request.only = chosen.map(|image| image.id).collect();
        if request.only.is_empty() {
            return Ok(0);
        }
    }
    let pruned = daemon.images.prune(patient(), &request).await?;
    let deleted = pruned.deleted.iter().map(|id| format!("Deleted: {id}\n"));
    print(&deleted.collect::<String>())?;
    Ok(pruned.reclaimed)
}

fn print_reclaimed(size: u64) -> Result<()> {
    let size = table::decimal(size);
    print(&format!("Total reclaimed space: {size}\n"))
}

pub(super) async fn of_volumes(daemon: &Daemon, asked: &PruneAll) -> Result<u8> {
    let which = Which::new(&asked.prune.filter, &["all", "label", "label!"])?;
    let all = asked.all || which.filters.truth("all")? == Some(true);
    let what = match all {
        true => "all volumes that no container uses",
        false => "all volumes without a name that no container uses",
    };
    if asked.prune.force || confirmed(&described(what, &asked.prune.filter))? {
        print_reclaimed(remove_volumes(daemon, all, &which).await?)?;
    }
    Ok(0)
}

/// How many bytes that was.
async fn remove_volumes(daemon: &Daemon, all: bool, which: &Which) -> Result<u64> {
    let mut request = of_system::PruneVolumesRequest {
        all,
        ..Default::default()
    };
    if !which.is_all() {
        let volumes = system::all_volumes(daemon).await?.into_iter();
        let chosen = volumes.filter(|volume| which.takes(volume.created_at, &volume.labels));
        request.only = chosen.map(|volume| volume.name).collect();
        if request.only.is_empty() {
            return Ok(0);
        }
    }
    let pruned = daemon.volumes.prune(patient(), &request).await?;
    let names = pruned.removed.iter().map(|name| format!("{name}\n"));
    let names = names.collect::<String>();
    if !names.is_empty() {
        print(&format!("Deleted Volumes:\n{names}\n"))?;
    }
    Ok(pruned.reclaimed)
}

/// Volumes only if they are asked for.
pub(super) async fn of_all(daemon: &Daemon, asked: &PruneAll, volumes: bool) -> Result<u8> {
    let filter = &asked.prune.filter;
    let which = Which::new(filter, &["label", "label!", "until"])?;
    if volumes && which.until.is_some() {
        return Err(Fault::new(
            "the filter 'until' is not for --volumes: remove them with 'volume prune'",
        ));
    }
    let images = images_in_words(asked.all);
    let more = match volumes {
        true => " and all volumes without a name that no container uses",
        false => "",
    };
    let what = described(&format!("all ended containers, {images}{more}"), filter);
    if !asked.prune.force && !confirmed(&what)? {
        return Ok(0);
    }
    let mut size = remove_ended(daemon, &which).await?;
    if volumes {
        size += remove_volumes(daemon, false, &which).await?;
    }
    size += remove_images(daemon, asked.all, &which).await?;
    print_reclaimed(size)?;
    Ok(0)
}
