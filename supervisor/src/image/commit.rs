//! Commit: a new image of an image's layers and one more, whose archive comes from a container's directory.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::documents::{self, Document, Part};
use super::source::ingest_bytes;
use super::{DOCUMENT_LIMIT, Image, Reference};
use crate::digest::{Digest, Hashing};
use crate::store::{ImageRow, LayerLink, Operation, Store, now};

/// What the new image says, beside its files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) name: Option<Reference>,
    pub(crate) author: String,
    pub(crate) message: String,
    /// The command line of the step in the history.
    pub(crate) created_by: String,
    /// The new `config`.
    pub(crate) config: Map<String, Value>,
}

impl Store {
    /// The `config` of an image, as it is written.
    pub(crate) fn image_config(&self, image: &Image) -> Result<Map<String, Value>> {
        match self.configuration(image)?.remove("config") {
            Some(Value::Object(config)) => Ok(config),
            _ => Ok(Map::new()),
        }
    }

    fn configuration(&self, image: &Image) -> Result<Map<String, Value>> {
        let bytes = self.read_blob(&image.id, DOCUMENT_LIMIT)?;
        serde_json::from_slice(&bytes).with_context(|| format!("configuration {}", image.id))
    }

    /// `archive` is the layer, as a tar archive; `complete` says, at its end, whether it is all. When this returns, the image is on the disk.
    pub(crate) fn commit(
        &self,
        base: &Image,
        said: &Said,
        archive: impl Read,
        complete: impl FnOnce() -> Result<()>,
    ) -> Result<Image> {
        let operation = Operation::begin(self, "commit")?;
        let (part, diff_id) = layer(&operation, archive)?;
        complete()?;
        let bytes = self.read_blob(&base.manifest, DOCUMENT_LIMIT)?;
        let mut layers = layers(&bytes)?;
        let mut links = self.links(base)?;
        for link in &links {
            operation.hold_existing(&link.blob)?;
        }
        layers.push(part.clone());
        links.push(LayerLink {
            blob: part.digest,
            diff_id,
        });
        documents::check_count(layers.len())?;
        operation.unpack(&links, &mut |_, _| {})?;
        let configuration = changed(self.configuration(base)?, base, said, diff_id)?;
        let configuration = ingest_bytes(&operation, &serde_json::to_vec(&configuration)?)?;
        let (manifest, _) = ingest_bytes(
            &operation,
            &documents::make_manifest(configuration, &layers)?,
        )?;
        let row = ImageRow {
            config: configuration.0,
            layers: links,
            added: now(),
        };
        let names: Vec<_> = said.name.iter().cloned().collect();
        operation.finish(|transaction| {
            Store::enter_image(transaction, &manifest, &row, &names)?;
            self.entered(transaction, &manifest)
        })
    }
}

/// Compresses it into a blob. The digest of what is compressed is another one.
fn layer(operation: &Operation<'_>, archive: impl Read) -> Result<(Part, Digest)> {
    let mut ingest = operation.ingest_once()?;
    let level = flate2::Compression::new(6);
    let mut encoder = flate2::write::GzEncoder::new(&mut ingest, level);
    let mut hashing = Hashing::new(archive);
    io::copy(&mut hashing, &mut encoder).context("make a layer of the container's files")?;
    encoder
        .finish()
        .and_then(|ingest| ingest.flush())
        .context("compress the layer")?;
    let (_, diff_id, _) = hashing.finish();
    let (digest, size) = ingest.commit(None, None)?;
    let part = Part {
        digest,
        size,
        media_type: format!("{}+gzip", documents::LAYER),
    };
    Ok((part, diff_id))
}

/// Those of the base. A manifest of OCI's names them as OCI does.
fn layers(manifest: &[u8]) -> Result<Vec<Part>> {
    let said: Value = serde_json::from_slice(manifest).context("read an image manifest")?;
    let media_type = said["mediaType"].as_str().unwrap_or(documents::MANIFEST);
    let Document::Manifest { layers, .. } = documents::document(media_type, manifest)? else {
        anyhow::bail!("an index where a manifest should be");
    };
    let as_oci = |part: Part| Part {
        media_type: match part.media_type.as_str() {
            "application/vnd.docker.image.rootfs.diff.tar" => documents::LAYER.to_owned(),
            "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                format!("{}+gzip", documents::LAYER)
            }
            "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                format!("{}+zstd", documents::LAYER)
            }
            other => other.to_owned(),
        },
        ..part
    };
    Ok(layers.into_iter().map(as_oci).collect())
}

/// The base's configuration with one more layer. What Docker adds about the container it was made in is not true of this one.
fn changed(
    mut all: Map<String, Value>,
    base: &Image,
    said: &Said,
    diff_id: Digest,
) -> Result<Map<String, Value>> {
    let created = documents::time(crate::records::now());
    for key in [
        "container",
        "container_config",
        "docker_version",
        "id",
        "parent",
    ] {
        all.remove(key);
    }
    if !said.author.is_empty() {
        all.insert("author".into(), json!(said.author));
    }
    let mut history = match all.remove("history") {
        Some(Value::Array(history)) => history,
        _ => vec![],
    };
    let told = history
        .iter()
        .filter(|step| step["empty_layer"] != json!(true))
        .count();
    // A step belongs to the layer at its place: those that nobody tells of get steps that say nothing.
    history.extend((told..base.layers.len()).map(|_| json!({})));
    let mut step = json!({ "created": created, "created_by": said.created_by });
    for (key, text) in [("author", &said.author), ("comment", &said.message)] {
        if !text.is_empty() {
            step[key] = json!(text);
        }
    }
    history.push(step);
    let mut diff_ids: Vec<_> = base.layers.clone();
    diff_ids.push(diff_id);
    all.insert("created".into(), json!(created));
    all.insert("config".into(), Value::Object(said.config.clone()));
    all.insert("history".into(), Value::Array(history));
    all.insert(
        "rootfs".into(),
        json!({ "type": "layers", "diff_ids": diff_ids }),
    );
    Ok(all)
}
