//! Import: from what an archive holds to images of the store.

use std::io::{self, Read};

use anyhow::{Context, Result, ensure};
use redb::WriteTransaction;
use serde_json::Map;

use super::documents::{self, Document, Part};
use super::source::{Contents, PEEK, Steps, holds_images, holds_nothing, ingest, ingest_bytes};
use super::{DOCUMENT_LIMIT, Image, Reference, changes};
use crate::digest::Digest;
use crate::layer::{Compression, decompressed};
use crate::store::{
    ImageRow, ImportOptions, LayerLink, Operation, Progress, Refusal, Source, Store, now,
};

/// Of indexes within indexes.
const DEPTH: usize = 4;

/// An image that was found, and all of whose content is in the store.
struct Found {
    names: Vec<Reference>,
    manifest: Digest,
    config: Digest,
    layers: Vec<LayerLink>,
    /// Sizes of the blobs, as they came.
    sizes: Vec<u64>,
}

impl Store {
    /// Takes in what an archive holds, layers unpacked; when it returns, all of it is on the disk.
    pub fn import(
        &self,
        source: Source<'_>,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Image>> {
        let operation = Operation::begin(self, "import")?;
        let mut found = match source {
            Source::Directory(path) => {
                unchanged(options)?;
                let contents = Contents::of_directory(path)?;
                images(&operation, &contents, progress)?
            }
            Source::Archive(archive) => {
                let mut start = Vec::with_capacity(PEEK);
                let peeked = archive.take(PEEK as u64).read_to_end(&mut start);
                peeked.context("read the archive")?;
                let is_images = kind(&start, options)?;
                let mut whole = io::Cursor::new(start).chain(archive);
                if is_images {
                    unchanged(options)?;
                    let contents = Contents::of_archive(&operation, whole, progress)?;
                    images(&operation, &contents, progress)?
                } else {
                    vec![root_filesystem(&operation, &mut whole, options, progress)?]
                }
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
        for image in &found {
            operation.settle(&image.layers)?;
        }
        let manifests: Vec<_> = found.iter().map(|image| image.manifest).collect();
        operation
            .finish(|transaction| found.iter().try_for_each(|image| enter(transaction, image)))?;
        manifests
            .iter()
            .map(|manifest| self.image(&manifest.to_string()))
            .collect()
    }
}

/// Whether what begins so holds images, and not a root file system; what is neither is refused.
fn kind(start: &[u8], options: &ImportOptions) -> Result<bool> {
    decompressed(start).map_err(|error| Refusal::invalid(format!("read the archive: {error}")))?;
    if !options.root_filesystem && holds_images(start) {
        return Ok(true);
    }
    let text = match (holds_nothing(start), options.images_only) {
        (true, true) => "there is no image in the archive: it is empty",
        (true, false) => "the archive is empty: there is nothing to make an image of",
        (false, true) => {
            "there is no image in the archive; if it holds a root file system, `image import` makes an image of it"
        }
        (false, false) => return Ok(false),
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
fn images(
    operation: &Operation<'_>,
    contents: &Contents,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Found>> {
    let saved = contents.documents.get("manifest.json");
    let mut found = Vec::new();
    if let Some(bytes) = contents.documents.get("index.json")
        && contents.documents.contains_key("oci-layout")
    {
        of_index(
            operation,
            contents,
            &documents::index(bytes)?,
            &[],
            DEPTH,
            progress,
            &mut found,
        )?;
        let tags = saved.map(|bytes| documents::saved(bytes)).transpose()?;
        for image in tags.iter().flatten() {
            name_as_saved(&mut found, image)?;
        }
    } else if let Some(bytes) = saved {
        for image in documents::saved(bytes)? {
            found.push(of_saved(operation, contents, &image)?);
        }
    } else {
        return Err(
            Refusal::invalid("the archive has neither an OCI layout nor a manifest.json").into(),
        );
    }
    if found.is_empty() {
        let text = format!(
            "the archive has no image for linux/{}",
            documents::architecture()
        );
        return Err(Refusal::invalid(text).into());
    }
    Ok(found)
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

/// Images of an index for this machine. What is not in the archive is left out: one of many platforms often comes alone.
fn of_index(
    operation: &Operation<'_>,
    contents: &Contents,
    index: &oci_spec::image::ImageIndex,
    names: &[Reference],
    depth: usize,
    progress: &mut dyn FnMut(Progress),
    found: &mut Vec<Found>,
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
        if !contents.obtain(operation, &part.digest, part.size, progress)? {
            continue;
        }
        let mut names = names.to_vec();
        if let Some(name) = name_of(descriptor) {
            add_name(&mut names, name);
        }
        let bytes = operation.store().read_blob(&part.digest, DOCUMENT_LIMIT)?;
        match documents::document(&media_type, &bytes)? {
            Document::Index(index) => {
                of_index(
                    operation,
                    contents,
                    &index,
                    &names,
                    depth - 1,
                    progress,
                    found,
                )?;
            }
            Document::Manifest { config, layers } => {
                let image =
                    of_manifest(operation, contents, part.digest, &config, &layers, progress)
                        .with_context(|| format!("image {}", part.digest))?;
                let Some(mut image) = image else {
                    continue;
                };
                match found
                    .iter_mut()
                    .find(|other| other.manifest == image.manifest)
                {
                    Some(other) => names
                        .into_iter()
                        .for_each(|name| add_name(&mut other.names, name)),
                    None => {
                        image.names = names;
                        found.push(image);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A tag alone names nothing.
fn name_of(descriptor: &oci_spec::image::Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations().as_ref()?;
    if let Some(name) = annotations.get(documents::FULL_NAME) {
        return Reference::given(name).ok();
    }
    let name = annotations.get(documents::NAME)?;
    name.contains([':', '/'])
        .then(|| Reference::given(name).ok())
        .flatten()
}

/// None for what is no image of files, such as an attestation.
fn of_manifest(
    operation: &Operation<'_>,
    contents: &Contents,
    manifest: Digest,
    config: &Part,
    layers: &[Part],
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Found>> {
    if !config.media_type.contains("image")
        || layers.iter().any(|layer| !layer.media_type.contains("tar"))
    {
        return Ok(None);
    }
    for part in std::iter::once(config).chain(layers) {
        ensure!(
            contents.obtain(operation, &part.digest, part.size, progress)?,
            Refusal::invalid(format!("content {} is not in the archive", part.digest))
        );
    }
    let bytes = operation
        .store()
        .read_blob(&config.digest, DOCUMENT_LIMIT)?;
    let diff_ids = documents::diff_ids(&bytes, layers.len())?;
    Ok(Some(Found {
        names: Vec::new(),
        manifest,
        config: config.digest,
        sizes: layers.iter().map(|layer| layer.size).collect(),
        layers: link(layers.iter().map(|layer| layer.digest), diff_ids),
    }))
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
        let mut start = Vec::new();
        store
            .open_blob(&digest)?
            .take(4)
            .read_to_end(&mut start)
            .context("read a layer")?;
        layers.push(layer(digest, size, &start));
    }
    let diff_ids = documents::diff_ids(&store.read_blob(&config.0, DOCUMENT_LIMIT)?, layers.len())?;
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

/// A blob that begins so.
fn layer(digest: Digest, size: u64, start: &[u8]) -> Part {
    let suffix = match Compression::of(start) {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Part {
        digest,
        size,
        media_type: format!("{}{suffix}", documents::LAYER),
    }
}

/// A root file system becomes an image of one layer, the archive as it is.
fn root_filesystem(
    operation: &Operation<'_>,
    archive: &mut impl Read,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Found> {
    let mut said = Map::new();
    for change in &options.changes {
        changes::apply(&mut said, change)
            .map_err(|error| Refusal::invalid(format!("{error:#}")))?;
    }
    let comment = match options.message.as_str() {
        "" => "imported root file system",
        message => message,
    };
    let mut start = Vec::with_capacity(4);
    archive
        .take(4)
        .read_to_end(&mut start)
        .context("read the archive")?;
    let mut whole = io::Cursor::new(start.clone()).chain(archive);
    let (blob, size) = ingest(operation, &mut whole, None, None, &mut Steps::new(progress))?;
    let diff_id = operation.unpack_unknown(&blob)?;
    let config = documents::make_config(
        diff_id,
        &documents::time(crate::records::now()),
        &said,
        comment,
    )?;
    let config = ingest_bytes(operation, &config)?;
    let layers = [layer(blob, size, &start)];
    let (manifest, _) = ingest_bytes(operation, &documents::make_manifest(config, &layers)?)?;
    Ok(Found {
        names: Vec::new(),
        manifest,
        config: config.0,
        layers: vec![LayerLink { blob, diff_id }],
        sizes: vec![size],
    })
}
