//! The verbs of images.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::cli::{History, ImageCommand, Images, Import, Load, Rmi, Save};
use super::connection::{Daemon, patient};
use super::filter::{Filters, pattern};
use super::lists::each;
use super::process::lost;
use super::{output, print, prune, table};
use crate::chunks::{CHUNK, answered};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::images as api;
use crate::records::now;

/// How far the sender may be ahead.
const WINDOW: u64 = 4 << 20;
/// What `--filter` of `images` may name.
const FILTERS: [&str; 6] = ["reference", "dangling", "label", "before", "since", "until"];
/// An image without a name.
const NONE: &str = "<none>:<none>";

pub(super) async fn image(daemon: &Daemon, command: ImageCommand) -> Result<u8> {
    match command {
        ImageCommand::Import(asked) => import_rootfs(daemon, asked).await,
        ImageCommand::Export(asked) => save(daemon, asked).await,
        ImageCommand::Ls(asked) => list(daemon, asked).await,
        ImageCommand::Rm(asked) => remove(daemon, asked).await,
        ImageCommand::Tag { image, name } => tag(daemon, image, name).await,
        ImageCommand::History(asked) => history(daemon, asked).await,
        ImageCommand::Prune(asked) => prune::of_images(daemon, &asked).await,
        ImageCommand::Verify(asked) => verify(daemon, asked.images, asked.repair).await,
        ImageCommand::Load(asked) => load(daemon, asked).await,
        ImageCommand::Save(asked) => save(daemon, asked).await,
        ImageCommand::Inspect(asked) => {
            each(&asked.names, asked.format.as_deref(), async |name| {
                inspected(daemon, name).await
            })
            .await
        }
    }
}

pub(super) async fn load(daemon: &Daemon, asked: Load) -> Result<u8> {
    let file = asked.input.unwrap_or_else(|| PathBuf::from("-"));
    let source = api::import_images_request::Source {
        images_only: true,
        ..Default::default()
    };
    import(daemon, &file, source, asked.quiet, loaded).await
}

/// One without a name has its id.
fn loaded(image: &api::Image) -> Result<()> {
    let lines = image.names.iter();
    let lines: String = lines
        .map(|name| format!("Loaded image: {name}\n"))
        .collect();
    match lines.is_empty() {
        true => print(&format!("Loaded image ID: {}\n", image.id)),
        false => print(&lines),
    }
}

/// Of whatever kind it is. What a script takes is the id; an archive's own names are for who reads.
pub(super) async fn import_rootfs(daemon: &Daemon, asked: Import) -> Result<u8> {
    let source = api::import_images_request::Source {
        name: asked.name.unwrap_or_default(),
        changes: asked.change,
        message: asked.message,
        ..Default::default()
    };
    let quiet = asked.quiet;
    let imported = |image: &api::Image| {
        let names = image.names.iter().filter(|_| !quiet);
        names.for_each(|name| super::tell(&format!("Loaded image: {name}")));
        print(&format!("{}\n", image.id))
    };
    import(daemon, &asked.file, source, quiet, imported).await
}

/// Where an archive comes from.
enum Origin {
    /// The daemon reads it, faster than it could be sent there.
    Place(PathBuf),
    /// What has no place that the daemon could find.
    Stream(File),
}

impl Origin {
    /// What our user cannot open, the daemon is not asked for.
    fn open(path: &Path) -> Result<Self> {
        let what = || format!("open {}", path.display());
        if path == Path::new("-") {
            if io::stdin().is_terminal() {
                return Err(Fault::new(
                    "there is no archive on standard input: it is a terminal",
                ));
            }
            let input = io::stdin().as_fd().try_clone_to_owned();
            return Ok(Self::Stream(input.tried(what)?.into()));
        }
        let file = File::open(path).tried(what)?;
        let kind = file.metadata().tried(what)?.file_type();
        match kind.is_file() || kind.is_dir() {
            true => Ok(Self::Place(path.canonicalize().tried(what)?)),
            false => Ok(Self::Stream(file)),
        }
    }
}

async fn import(
    daemon: &Daemon,
    file: &Path,
    mut source: api::import_images_request::Source,
    quiet: bool,
    show: impl Fn(&api::Image) -> Result<()>,
) -> Result<u8> {
    let stream = match Origin::open(file)? {
        Origin::Place(path) => {
            source.path = path.display().to_string();
            None
        }
        Origin::Stream(stream) => Some(stream),
    };
    // The daemon does not know how much comes.
    let size = stream.as_ref().and_then(|file| file.metadata().ok());
    let size = size.filter(|found| found.is_file());
    let (sender, mut receiver) = daemon.images.import(patient()).await?.split();
    sender
        .send(&request(api::import_images_request::Of::Source(source)))
        .await?;
    let (taken_sender, taken) = watch::channel(0_u64);
    let sending = async {
        if let Some(stream) = stream {
            send_archive(&sender, stream, taken).await?;
        }
        std::future::pending::<Result<()>>().await
    };
    let receiving = async {
        let mut progress = Progress::new(quiet, size.map_or(0, |found| found.len()));
        loop {
            let response = match receiver.recv().await {
                Ok(response) => response,
                Err(ttrpc::Error::Eof) => return Ok(()),
                Err(error) => return Err(cut_off(error)),
            };
            match response.of {
                Some(api::import_images_response::Of::Taken(bytes)) => {
                    taken_sender.send_modify(|taken| *taken = bytes)
                }
                Some(api::import_images_response::Of::Progress(step)) => progress.show(&step),
                Some(api::import_images_response::Of::Image(image)) => {
                    progress.clear();
                    show(&image)?;
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        sent = sending => sent?,
        received = receiving => received?,
    }
    Ok(0)
}

fn cut_off(error: ttrpc::Error) -> Fault {
    lost(error, "there may be no new image")
}

fn request(of: api::import_images_request::Of) -> api::ImportImagesRequest {
    api::ImportImagesRequest {
        of: Some(of),
        ..Default::default()
    }
}

async fn send_archive(
    sender: &ttrpc::r#async::CSSender<api::ImportImagesRequest>,
    mut archive: File,
    mut taken: watch::Receiver<u64>,
) -> Result<()> {
    let mut sent = 0_u64;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let length = archive.read(&mut chunk);
            length.map(|length| {
                chunk.truncate(length);
                (archive, chunk)
            })
        });
        let what = || "read the archive".to_owned();
        let chunk;
        (archive, chunk) = read.await.tried(what)?.tried(what)?;
        if chunk.is_empty() {
            sender
                .send(&request(api::import_images_request::Of::End(true)))
                .await?;
            return Ok(());
        }
        sent += chunk.len() as u64;
        sender
            .send(&request(api::import_images_request::Of::Data(chunk)))
            .await
            .map_err(cut_off)?;
        let least = sent.saturating_sub(WINDOW);
        if taken.wait_for(|taken| *taken >= least).await.is_err() {
            return Ok(());
        }
    }
}

/// Bars on a terminal; a line per layer elsewhere.
struct Progress {
    quiet: bool,
    /// Of the archive; 0 if only the daemon knows it, or nobody.
    size: u64,
    bars: MultiProgress,
    known: std::collections::HashMap<String, ProgressBar>,
}

impl Progress {
    fn new(quiet: bool, size: u64) -> Self {
        Self {
            quiet,
            size,
            bars: MultiProgress::new(),
            known: std::collections::HashMap::new(),
        }
    }

    fn show(&mut self, step: &api::import_images_response::Progress) {
        if self.quiet {
            return;
        }
        let whole = step.item.is_empty();
        let total = if whole {
            step.total.max(self.size)
        } else {
            step.total
        };
        let name = if whole {
            "archive".to_owned()
        } else {
            step.item
                .trim_start_matches("sha256:")
                .chars()
                .take(12)
                .collect()
        };
        if !io::stderr().is_terminal() {
            // What is shown once needs no bar.
            if !whole && total > 0 && step.done >= total && !self.known.contains_key(&name) {
                super::tell(&format!("{name}: {}", table::decimal(total)));
                self.known.insert(name, ProgressBar::hidden());
            }
            return;
        }
        let bar = self.known.entry(name.clone()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            // Without an end, a bar would be full from the begin.
            let style = match total {
                0 => "{prefix}  {bytes}  {bytes_per_sec}",
                _ => "{prefix}  {bar:40}  {bytes}/{total_bytes}  {bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_prefix(name);
            bar
        });
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_position(step.done);
    }

    fn clear(&self) {
        // A terminal that is gone needs no clearing.
        self.bars.clear().ok();
    }
}

pub(super) async fn save(daemon: &Daemon, asked: Save) -> Result<u8> {
    let output = asked.output.as_deref();
    output::archive(output, async |target| {
        write_archive(daemon, asked.images, target).await
    })
    .await?;
    Ok(0)
}

async fn write_archive(daemon: &Daemon, images: Vec<String>, target: &mut dyn Write) -> Result<()> {
    let (sender, receiver) = daemon.images.export(patient()).await?.split();
    let request = |of| api::ExportImagesRequest {
        of: Some(of),
        ..Default::default()
    };
    let names = api::export_images_request::Names {
        names: images,
        ..Default::default()
    };
    sender
        .send(&request(api::export_images_request::Of::Names(names)))
        .await?;
    let data = |response: api::ExportImagesResponse| Some(response.data);
    let taken = |taken| request(api::export_images_request::Of::Taken(taken));
    output::receive(&sender, receiver, data, taken, target).await
}

pub(super) async fn all(daemon: &Daemon) -> Result<Vec<api::Image>> {
    let request = api::ListImagesRequest::default();
    let answer: api::ListImagesResponse = answered(daemon.images.list(patient(), &request)).await?;
    Ok(answer.images)
}

pub(super) async fn list(daemon: &Daemon, asked: Images) -> Result<u8> {
    let mut images = all(daemon).await?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created_at));
    let wanted = Wanted::new(daemon, &asked).await?;
    let mut rows = vec![];
    for image in images.iter().filter(|image| wanted.matches(image)) {
        let names = if image.names.is_empty() {
            vec![NONE.to_owned()]
        } else {
            image.names.clone()
        };
        for name in &names {
            if wanted.refers_to(name)? {
                rows.push(row(image, name, asked.no_trunc));
            }
        }
    }
    if asked.quiet {
        let mut ids: Vec<String> = rows
            .iter()
            .map(|row| row["ID"].as_str().unwrap_or_default().to_owned() + "\n")
            .collect();
        ids.dedup();
        print(&ids.concat())?;
        return Ok(0);
    }
    let mut columns = vec![
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    if asked.digests {
        columns.insert(2, ("DIGEST", "Digest"));
    }
    print(&table::render(&rows, &columns, asked.format.as_deref())?)?;
    Ok(0)
}

pub(super) fn labels(image: &api::Image) -> HashMap<String, String> {
    let config: Value = serde_json::from_str(&image.config).unwrap_or_default();
    let labels = config["config"]["Labels"].as_object().into_iter().flatten();
    labels
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Which images are to be listed.
struct Wanted {
    filters: Filters,
    dangling: Option<bool>,
    before: Option<i64>,
    since: Option<i64>,
}

impl Wanted {
    async fn new(daemon: &Daemon, asked: &Images) -> Result<Self> {
        let mut filters = Filters::parse(&asked.filter, &FILTERS)?;
        if let Some(name) = &asked.name {
            filters.add("reference", name.clone());
        }
        let (mut before, mut since) = (vec![], vec![]);
        for name in filters.values("before") {
            before.push(found(daemon, name).await?.created_at);
        }
        for word in filters.values("until") {
            before.push(super::containers::time(word)?);
        }
        for name in filters.values("since") {
            since.push(found(daemon, name).await?.created_at);
        }
        Ok(Self {
            dangling: filters.truth("dangling")?,
            filters,
            before: before.into_iter().min(),
            since: since.into_iter().max(),
        })
    }

    fn matches(&self, image: &api::Image) -> bool {
        self.dangling
            .is_none_or(|dangling| dangling == image.names.is_empty())
            && self.before.is_none_or(|time| image.created_at < time)
            && self.since.is_none_or(|time| image.created_at > time)
            && self.filters.labels(&labels(image))
    }

    /// A pattern is for a name with its tag, or without.
    fn refers_to(&self, name: &str) -> Result<bool> {
        if !self.filters.has("reference") {
            return Ok(true);
        }
        for wanted in self.filters.values("reference") {
            let matches = pattern(wanted, name)? || pattern(wanted, split(name).0)?;
            if matches && name != NONE {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Repository and tag.
fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "<none>"),
    }
}

fn row(image: &api::Image, name: &str, whole: bool) -> Value {
    let (repository, tag) = split(name);
    let created = if image.created_at == 0 {
        "N/A".to_owned()
    } else {
        ago(image.created_at)
    };
    json!({
        "ID": if whole { &image.id } else { short_id(&image.id) },
        "Repository": repository,
        "Tag": tag,
        "Digest": image.digest,
        "CreatedSince": created,
        "CreatedAt": image.created,
        "Size": table::decimal(image.size),
        "VirtualSize": table::decimal(image.size),
        // In lists, Docker counts these as little.
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
    })
}

fn ago(time: i64) -> String {
    format!("{} ago", table::duration(now().saturating_sub(time)))
}

pub(super) async fn found(daemon: &Daemon, name: &str) -> Result<api::Image> {
    let request = api::InspectImageRequest {
        image: name.into(),
        ..Default::default()
    };
    let answer: api::InspectImageResponse =
        answered(daemon.images.inspect(patient(), &request)).await?;
    Ok(answer.image.unwrap_or_default())
}

/// As `docker image inspect` has it, where there is something to say.
pub(super) async fn inspected(daemon: &Daemon, name: &str) -> Result<Value> {
    let image = found(daemon, name).await?;
    let config: Value = serde_json::from_str(&image.config).unwrap_or_default();
    // What it does not say has a place for templates all the same.
    let mut of_containers = json!({
        "User": "", "ExposedPorts": null, "Env": [], "Cmd": null, "Entrypoint": null, "Volumes": null, "WorkingDir": "", "Labels": null,
        "OnBuild": null, "StopSignal": "", "Healthcheck": null,
    });
    for (name, value) in config["config"].as_object().into_iter().flatten() {
        of_containers[name] = value.clone();
    }
    Ok(json!({
        "Id": image.id,
        "RepoTags": image.names,
        "RepoDigests": [],
        "Created": config["created"].as_str().unwrap_or_default(),
        "Author": config["author"].as_str().unwrap_or_default(),
        "Architecture": config["architecture"],
        "Os": config["os"],
        "Size": image.size,
        "Config": of_containers,
        "RootFS": { "Type": "layers", "Layers": image.layers },
        "Descriptor": { "digest": image.digest },
    }))
}

pub(super) async fn remove(daemon: &Daemon, asked: Rmi) -> Result<u8> {
    let mut code = 0;
    for image in asked.images {
        let request = api::RemoveImageRequest {
            image,
            force: asked.force,
            ..Default::default()
        };
        match daemon
            .images
            .remove(patient(), &request)
            .await
            .map_err(Fault::from)
        {
            Ok(removed) => {
                let untagged = removed
                    .untagged
                    .iter()
                    .map(|name| format!("Untagged: {name}\n"));
                let deleted = removed.deleted.iter().map(|id| format!("Deleted: {id}\n"));
                print(&untagged.chain(deleted).collect::<String>())?;
            }
            Err(fault) => code |= super::containers::said(&fault, asked.force),
        }
    }
    Ok(code)
}

pub(super) async fn tag(daemon: &Daemon, image: String, name: String) -> Result<u8> {
    daemon
        .images
        .tag(
            patient(),
            &api::TagImageRequest {
                image,
                name,
                ..Default::default()
            },
        )
        .await?;
    Ok(0)
}

pub(super) async fn history(daemon: &Daemon, asked: History) -> Result<u8> {
    let image = found(daemon, &asked.image).await?;
    let request = api::HistoryRequest {
        image: image.id.clone(),
        ..Default::default()
    };
    let answer: api::HistoryResponse = answered(daemon.images.history(patient(), &request)).await?;
    let row = |(number, entry): (usize, &api::history_response::Entry)| {
        // The ids of images that it was made of are not known.
        let id = match number {
            0 if asked.no_trunc => &image.id,
            0 => short_id(&image.id),
            _ => "<missing>",
        };
        let created = match (entry.created_at, asked.human) {
            (0, _) => "N/A".to_owned(),
            (time, true) => ago(time),
            (_, false) => entry.created.clone(),
        };
        json!({
            "ID": id,
            "CreatedSince": created,
            "CreatedAt": entry.created,
            "CreatedBy": if asked.no_trunc { entry.created_by.clone() } else { table::short(&entry.created_by, 45) },
            "Size": if asked.human { table::decimal(entry.size) } else { entry.size.to_string() },
            "Comment": entry.comment,
        })
    };
    let rows: Vec<Value> = answer.entries.iter().enumerate().map(row).collect();
    let columns = &[
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    let format = match asked.quiet {
        true => Some("{{.ID}}"),
        false => asked.format.as_deref(),
    };
    print(&table::render(&rows, columns, format)?)?;
    Ok(0)
}

fn short_id(id: &str) -> &str {
    let id = id.trim_start_matches("sha256:");
    &id[..id.len().min(12)]
}

async fn verify(daemon: &Daemon, images: Vec<String>, repair: bool) -> Result<u8> {
    let request = api::VerifyImagesRequest {
        images,
        repair,
        ..Default::default()
    };
    let verdict: api::VerifyImagesResponse =
        answered(daemon.images.verify(patient(), &request)).await?;
    for fault in &verdict.faults {
        let end = if fault.repaired { " (repaired)" } else { "" };
        print(&format!("{}: {}{end}\n", fault.object, fault.what))?;
    }
    print(&format!(
        "{} checked, {} damaged\n",
        verdict.checked,
        verdict.faults.len()
    ))?;
    Ok(u8::from(verdict.faults.iter().any(|fault| !fault.repaired)))
}
