//! Import: from what an archive holds to images of the store.

use std::io::{self, Read};

use anyhow::{Context, Result, ensure};
use redb::WriteTransaction;
use serde_json::{Map, Value};

use super::documents::{self, Document, Part};
use super::source::{Contents, Holds, PEEK, Steps, holds, ingest, ingest_bytes};
use super::{DOCUMENT_LIMIT, Image, Reference, changes};
use crate::digest::Digest;
use crate::layer::{Compression, decompressed};
use crate::store::{
    ImageRow, ImportOptions, LayerLink, Operation, Progress, Refusal, Source, Store, now,
};

/// Of indexes within indexes.
const DEPTH: usize = 4;

/// An image that was found, and all of whose content is in the store.
pub(super) struct Found {
    pub(super) names: Vec<Reference>,
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) layers: Vec<LayerLink>,
    /// Sizes of the blobs, as they came.
    pub(super) sizes: Vec<u64>,
}

impl Store {
    /// Takes in what an archive holds, layers unpacked; when it returns, all of it is on the disk. Images come back with the names that they have
    /// got now.
    pub fn import(
        &self,
        source: Source<'_>,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Image>> {
        let operation = Operation::begin(self, "import")?.while_wanted(&options.wanted);
        let mut found = match source {
            Source::Directory(path) => {
                unchanged(options)?;
                let contents = Contents::of_directory(path)?;
                images(&operation, &contents, progress)?
            }
            Source::Archive(archive) => {
                let mut archive = operation.reading(archive);
                of_archive(&operation, &mut archive, options, progress)?
            }
        };
        if let Some(name) = &options.name {
            ensure!(
                found.len() == 1,
                Refusal::invalid(format!("one name for {} images", found.len()))
            );
            found[0].names = vec![name.clone()];
        }
        unpack(&operation, &found, progress)?;
        operation.finish(|transaction| {
            found
                .iter()
                .try_for_each(|image| enter(transaction, image))?;
            let told = |found: &Found| {
                let mut image = self.entered(transaction, &found.manifest)?;
                // Others were there before.
                image.names.retain(|name| found.names.contains(name));
                Ok(image)
            };
            found.iter().map(told).collect()
        })
    }
}

/// What an archive says of itself when it begins decides what it is, if it says it there. Otherwise it has to be here before that is known.
fn of_archive(
    operation: &Operation<'_>,
    archive: &mut dyn Read,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Found>> {
    let mut start = Vec::with_capacity(PEEK);
    let peeked = (&mut *archive).take(PEEK as u64).read_to_end(&mut start);
    peeked.context("read the archive")?;
    decompressed(&start[..])
        .map_err(|error| Refusal::invalid(format!("read the archive: {error}")))?;
    let first = wanted(holds(&start[..], start.len() < PEEK), options)?;
    let mut whole = io::Cursor::new(start).chain(archive);
    if first == Holds::Images {
        return images_of(operation, whole, options, progress);
    }
    let mut said = Map::new();
    for change in &options.changes {
        changes::apply(&mut said, change)
            .map_err(|error| Refusal::invalid(format!("{error:#}")))?;
    }
    let blob = ingest(operation, &mut whole, None, None, &mut Steps::new(progress))?;
    if first == Holds::Unknown {
        let open = || operation.store().open_blob(&blob.0);
        if wanted(holds(open()?, true), options)? == Holds::Images {
            return images_of(operation, open()?, options, progress);
        }
    }
    let message = &options.message;
    Ok(vec![root_filesystem(operation, blob, &said, message)?])
}

fn images_of(
    operation: &Operation<'_>,
    archive: impl Read,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Found>> {
    unchanged(options)?;
    let contents = Contents::of_archive(operation, archive, progress)?;
    images(operation, &contents, progress)
}

/// What an archive is taken for; what nobody asks for is refused.
fn wanted(holds: Holds, options: &ImportOptions) -> Result<Holds> {
    let text = match (holds, options.images_only) {
        (Holds::Nothing, true) => "there is no image in the archive: it is empty",
        (Holds::Nothing, false) => "the archive is empty: there is nothing to make an image of",
        (Holds::Files, true) => {
            "there is no image in the archive; if it holds a root file system, `image import` makes an image of it"
        }
        _ if options.root_filesystem => return Ok(Holds::Files),
        _ => return Ok(holds),
    };
    Err(Refusal::invalid(text).into())
}

/// Images are what they are.
fn unchanged(options: &ImportOptions) -> Result<()> {
    ensure!(
        options.changes.is_empty() && options.message.is_empty(),
        Refusal::invalid(
            "changes and a message are for a root file system, and this archive holds images"
        )
    );
    Ok(())
}

fn enter(transaction: &WriteTransaction, image: &Found) -> Result<()> {
    let row = ImageRow {
        config: image.config,
        layers: image.layers.clone(),
        added: now(),
    };
    Store::enter_image(transaction, &image.manifest, &row, &image.names)
}

fn unpack(
    operation: &Operation<'_>,
    found: &[Found],
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let links: Vec<_> = found
        .iter()
        .flat_map(|image| image.layers.iter().cloned())
        .collect();
    let sizes: Vec<_> = found
        .iter()
        .flat_map(|image| image.sizes.iter().copied())
        .collect();
    operation.unpack(&links, &mut |layer, done| {
        let index = links.iter().position(|link| link.diff_id == layer);
        let total = index.and_then(|index| sizes.get(index)).copied();
        progress(Progress {
            layer: Some(layer),
            done,
            total: total.unwrap_or_default(),
        });
    })
}

/// An archive may be both, since Docker 25; the documents of OCI then say more.
pub(super) fn images(
    operation: &Operation<'_>,
    contents: &Contents,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Found>> {
    let saved = contents.documents.get("manifest.json");
    let mut search = Search {
        operation,
        contents,
        progress,
        found: Vec::new(),
        other: None,
    };
    if let Some(bytes) = contents.documents.get("index.json")
        && contents.documents.contains_key("oci-layout")
    {
        search.index(&documents::index(bytes)?, &[], DEPTH)?;
        let tags = saved.map(|bytes| documents::saved(bytes)).transpose()?;
        for image in tags.iter().flatten() {
            name_as_saved(&mut search.found, image)?;
        }
    } else if let Some(bytes) = saved {
        for image in documents::saved(bytes)? {
            search.found.push(of_saved(operation, contents, &image)?);
        }
    } else {
        return Err(
            Refusal::invalid("the archive has neither an OCI layout nor a manifest.json").into(),
        );
    }
    if search.found.is_empty() {
        let why = search.other.map_or_else(String::new, |media_type| {
            format!(": one has '{media_type}', which is no part of an image")
        });
        let text = format!(
            "the archive has no image for linux/{}{why}",
            documents::architecture()
        );
        return Err(Refusal::invalid(text).into());
    }
    Ok(search.found)
}

/// For the images of an index.
struct Search<'a> {
    operation: &'a Operation<'a>,
    contents: &'a Contents,
    progress: &'a mut dyn FnMut(Progress),
    found: Vec<Found>,
    /// The media type for which a manifest was left out.
    other: Option<String>,
}

/// The names of `manifest.json`, which go by the configuration.
fn name_as_saved(found: &mut [Found], saved: &documents::Saved) -> Result<()> {
    for image in found {
        if saved.config.contains(&image.config.hex()) {
            for tag in &saved.repo_tags {
                add_name(&mut image.names, Reference::given(tag)?);
            }
        }
    }
    Ok(())
}

fn add_name(names: &mut Vec<Reference>, name: Reference) {
    if !names.contains(&name) {
        names.push(name);
    }
}

impl Search<'_> {
    /// Images of an index for this machine. What is not in the archive is left out: one of many platforms often comes alone.
    fn index(
        &mut self,
        index: &oci_spec::image::ImageIndex,
        names: &[Reference],
        depth: usize,
    ) -> Result<()> {
        ensure!(
            depth > 0,
            Refusal::invalid("an index in an index in an index")
        );
        for descriptor in index.manifests() {
            let media_type = descriptor.media_type().to_string();
            let known = documents::is_index(&media_type) || documents::is_manifest(&media_type);
            if !known || !documents::is_for_us(descriptor) {
                continue;
            }
            let part = Part::of(descriptor)?;
            if !self.obtain(&part)? {
                continue;
            }
            let mut names = names.to_vec();
            if let Some(name) = name_of(descriptor) {
                add_name(&mut names, name);
            }
            let store = self.operation.store();
            let bytes = store.read_blob(&part.digest, DOCUMENT_LIMIT)?;
            let document = documents::document(&media_type, &bytes)
                .with_context(|| format!("content {}", part.digest))?;
            match document {
                Document::Index(index) => self.index(&index, &names, depth - 1)?,
                Document::Manifest { config, layers } => self
                    .manifest(part.digest, &config, &layers, names)
                    .with_context(|| format!("image {}", part.digest))?,
            }
        }
        Ok(())
    }

    fn obtain(&mut self, part: &Part) -> Result<bool> {
        let (digest, size) = (&part.digest, part.size);
        self.contents
            .obtain(self.operation, digest, size, self.progress)
    }

    /// One of what is no image of files, such as an attestation, is left out.
    fn manifest(
        &mut self,
        manifest: Digest,
        config: &Part,
        layers: &[Part],
        names: Vec<Reference>,
    ) -> Result<()> {
        let mut layers_of_others = layers
            .iter()
            .filter(|part| !part.media_type.contains("tar"));
        let other = match config.media_type.contains("image") {
            true => layers_of_others.next(),
            false => Some(config),
        };
        if let Some(other) = other {
            self.other = Some(other.media_type.clone());
            return Ok(());
        }
        for part in std::iter::once(config).chain(layers) {
            ensure!(
                self.obtain(part)?,
                Refusal::invalid(format!("content {} is not in the archive", part.digest))
            );
        }
        let store = self.operation.store();
        let bytes = store.read_blob(&config.digest, DOCUMENT_LIMIT)?;
        let diff_ids = documents::diff_ids(&bytes, layers.len())
            .with_context(|| format!("configuration {}", config.digest))?;
        let known = |other: &&mut Found| other.manifest == manifest;
        if let Some(other) = self.found.iter_mut().find(known) {
            names
                .into_iter()
                .for_each(|name| add_name(&mut other.names, name));
            return Ok(());
        }
        self.found.push(Found {
            names,
            manifest,
            config: config.digest,
            sizes: layers.iter().map(|layer| layer.size).collect(),
            layers: link(layers.iter().map(|layer| layer.digest), diff_ids),
        });
        Ok(())
    }
}

/// A tag alone names nothing.
pub(super) fn name_of(descriptor: &oci_spec::image::Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations().as_ref()?;
    if let Some(name) = annotations.get(documents::FULL_NAME) {
        return Reference::given(name).ok();
    }
    let name = annotations.get(documents::NAME)?;
    name.contains([':', '/'])
        .then(|| Reference::given(name).ok())
        .flatten()
}

fn link(blobs: impl Iterator<Item = Digest>, diff_ids: Vec<Digest>) -> Vec<LayerLink> {
    let links = blobs.zip(diff_ids);
    links
        .map(|(blob, diff_id)| LayerLink { blob, diff_id })
        .collect()
}

/// An image of `docker save`: its layers are files of the archive, and it gets a manifest from us.
fn of_saved(
    operation: &Operation<'_>,
    contents: &Contents,
    saved: &documents::Saved,
) -> Result<Found> {
    let store = operation.store();
    let config = contents.file(&saved.config)?;
    let mut layers = Vec::new();
    for name in &saved.layers {
        let (digest, size) = contents.file(name)?;
        layers.push(layer(store, digest, size)?);
    }
    let bytes = store.read_blob(&config.0, DOCUMENT_LIMIT)?;
    let diff_ids = documents::diff_ids(&bytes, layers.len()).with_context(|| {
        let names = saved.repo_tags.join(", ");
        format!("configuration '{}' of image '{names}'", saved.config)
    })?;
    let (manifest, _) = ingest_bytes(operation, &documents::make_manifest(config, &layers)?)?;
    Ok(Found {
        names: saved
            .repo_tags
            .iter()
            .map(|tag| Reference::given(tag))
            .collect::<Result<_>>()?,
        manifest,
        config: config.0,
        sizes: layers.iter().map(|layer| layer.size).collect(),
        layers: link(layers.iter().map(|layer| layer.digest), diff_ids),
    })
}

/// Its media type says how it is compressed.
fn layer(store: &Store, digest: Digest, size: u64) -> Result<Part> {
    let mut start = Vec::new();
    store
        .open_blob(&digest)?
        .take(4)
        .read_to_end(&mut start)
        .context("read a layer")?;
    let suffix = match Compression::of(&start) {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Ok(Part {
        digest,
        size,
        media_type: format!("{}{suffix}", documents::LAYER),
    })
}

/// A root file system becomes an image of one layer, the archive as it is.
fn root_filesystem(
    operation: &Operation<'_>,
    (blob, size): (Digest, u64),
    said: &Map<String, Value>,
    message: &str,
) -> Result<Found> {
    let comment = match message {
        "" => "imported root file system",
        message => message,
    };
    let diff_id = operation.unpack_unknown(&blob)?;
    let config = documents::make_config(
        diff_id,
        &documents::time(crate::records::now()),
        said,
        comment,
    )?;
    let config = ingest_bytes(operation, &config)?;
    let layers = [layer(operation.store(), blob, size)?];
    let (manifest, _) = ingest_bytes(operation, &documents::make_manifest(config, &layers)?)?;
    Ok(Found {
        names: Vec::new(),
        manifest,
        config: config.0,
        layers: vec![LayerLink { blob, diff_id }],
        sizes: vec![size],
    })
}
