//! Images of the store: found by name or id, named, listed, removed.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use oci_spec::image::ImageConfiguration;
use redb::{Durability, WriteTransaction};

use super::refusal::{Kind, Refusal};
use super::rows::{self, Graph, IMAGES, ImageRow, LayerLink, NAMES, Tables};
use super::{Removed, Store};
use crate::digest::Digest;
use crate::fault::Fault;
use crate::image::{self, DOCUMENT_LIMIT, Image, Reference, Step};

impl Graph {
    /// The manifest that a name, an id, or the beginning of an id means, and the name if it was one.
    pub(super) fn find(&self, name_or_id: &str) -> Result<(Digest, Option<String>)> {
        // An earlier store may have a name that looks like an id: nothing is found by that.
        if !name_or_id.starts_with("sha256:")
            && let Ok(reference) = name_or_id.parse::<Reference>()
            && let Some(found) = self.find_name(&reference)
        {
            return Ok(found);
        }
        let start = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_id = !start.is_empty() && start.len() <= 64 && start.bytes().all(digits);
        let begins = |digest: &str| is_id && digest["sha256:".len()..].starts_with(start);
        let found: Vec<_> = self
            .images
            .iter()
            .filter(|(manifest, row)| begins(&row.config.to_string()) || begins(manifest))
            .collect();
        let configs: BTreeSet<_> = found.iter().map(|(_, row)| row.config).collect();
        if configs.len() > 1 {
            let text = format!("'{name_or_id}' is the beginning of more than one image's id");
            return Err(Refusal::new(Kind::Ambiguous, text).into());
        }
        // Of several manifests with one configuration, that which came last.
        let (manifest, _) = found
            .into_iter()
            .max_by_key(|(_, row)| row.added)
            .ok_or_else(|| Refusal::not_found(format!("no such image: {name_or_id}")))?;
        Ok((manifest.parse()?, None))
    }

    fn find_name(&self, reference: &Reference) -> Option<(Digest, Option<String>)> {
        let Some(digest) = reference.digest() else {
            let name = reference.to_string();
            return self.names.get(&name).map(|it| (*it, Some(name)));
        };
        // `name@digest` is what has this manifest, if it has this name with any tag.
        let same = |other: &str| {
            other
                .parse::<Reference>()
                .is_ok_and(|other| other.repository() == reference.repository())
        };
        self.names
            .iter()
            .find(|(other, manifest)| **manifest == digest && same(other))
            .map(|(_, manifest)| (*manifest, None))
    }

    pub(super) fn row(&self, manifest: &Digest) -> Result<&ImageRow> {
        self.images
            .get(&manifest.to_string())
            .with_context(|| format!("image {manifest} is not there"))
    }

    /// Containers whose root file system is made of it.
    fn users(&self, manifest: &Digest) -> Vec<&String> {
        let using = self
            .snapshots
            .iter()
            .filter(|(_, row)| row.image == *manifest);
        using.map(|(container, _)| container).collect()
    }
}

impl Store {
    /// The image of a name, of an id, or of the only id that begins so.
    pub fn image(&self, name_or_id: &str) -> Result<Image> {
        let graph = self.read()?;
        let (manifest, _) = graph.find(name_or_id)?;
        self.describe(&graph, &manifest)
    }

    /// One that is entered in this transaction: as soon as that is over, somebody may remove it.
    pub(crate) fn entered(
        &self,
        transaction: &WriteTransaction,
        manifest: &Digest,
    ) -> Result<Image> {
        self.describe(&transaction.graph()?, manifest)
    }

    /// All images, by id; of a damaged one, what the database knows.
    pub fn images(&self) -> Result<Vec<Image>> {
        let graph = self.read()?;
        let mut images = Vec::new();
        for manifest in graph.images.keys() {
            let manifest = manifest.parse()?;
            let image = self.describe(&graph, &manifest);
            images.push(match image {
                Ok(image) => image,
                Err(error) => {
                    let story = format!("image {manifest}: {error:#}, listing its names only");
                    crate::daemon::warn(&Fault::unknown(story));
                    self.outline(&graph, &manifest)?
                }
            });
        }
        images.sort_by_key(|image| image.id);
        Ok(images)
    }

    /// Blobs and digests of an image's layers, bottom first.
    pub(crate) fn links(&self, image: &Image) -> Result<Vec<LayerLink>> {
        Ok(self.read()?.row(&image.manifest)?.layers.clone())
    }

    pub(super) fn describe(&self, graph: &Graph, manifest: &Digest) -> Result<Image> {
        let row = graph.row(manifest)?;
        let bytes = self.read_blob_of(graph, &row.config, DOCUMENT_LIMIT)?;
        let of = || format!("configuration {}", row.config);
        let said = image::said(&bytes).with_context(of)?;
        let config = image::configuration(&said).with_context(of)?;
        let mut size = 0;
        for link in &row.layers {
            size += graph.layer(&link.diff_id)?.size;
        }
        Ok(Image {
            created: config.created().clone(),
            config,
            said,
            size,
            ..self.outline(graph, manifest)?
        })
    }

    /// An image without what its configuration says, and of no size.
    fn outline(&self, graph: &Graph, manifest: &Digest) -> Result<Image> {
        let row = graph.row(manifest)?;
        let key = manifest.to_string();
        Ok(Image {
            id: row.config,
            names: graph
                .names_of(&key)
                .map(|name| name.parse())
                .collect::<Result<_>>()?,
            manifest: *manifest,
            created: None,
            config: ImageConfiguration::default(),
            said: serde_json::Value::Null,
            layers: row.layers.iter().map(|link| link.diff_id).collect(),
            size: 0,
        })
    }

    /// Makes an image the store's, in the transaction of an operation that holds its content.
    pub(crate) fn enter_image(
        transaction: &WriteTransaction,
        manifest: &Digest,
        row: &ImageRow,
        names: &[Reference],
    ) -> Result<()> {
        rows::put(transaction, IMAGES, &manifest.to_string(), row)?;
        for name in names {
            rows::put(transaction, NAMES, &name.to_string(), manifest)?;
        }
        Ok(())
    }

    /// Gives an image another name, which may have been another's.
    pub fn tag(&self, name_or_id: &str, name: &Reference) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            let (manifest, _) = transaction.graph()?.find(name_or_id)?;
            rows::put(transaction, NAMES, &name.to_string(), &manifest)
        })
    }

    /// Takes a name from an image; with its last name, or named by its id, the image goes. One that a container uses stays, unless `force`
    /// takes its names; as with Docker, that takes them only one by one if one of these containers `runs`.
    pub fn remove(
        &self,
        name_or_id: &str,
        force: bool,
        runs: impl Fn(&str) -> bool,
    ) -> Result<Removed> {
        let mut removed = self.write_freeing(|transaction| {
            let graph = transaction.graph()?;
            let (manifest, name) = graph.find(name_or_id)?;
            let key = manifest.to_string();
            let names: Vec<_> = graph.names_of(&key).cloned().collect();
            let last = name.is_none() || names.len() == 1;
            let users = graph.users(&manifest);
            if let (Some(user), true, false) = (users.first(), last, force) {
                let text = format!("image {name_or_id} is used by container {user}");
                return Err(Refusal::new(Kind::InUse, text).into());
            }
            let running = users.iter().find(|user| runs(user));
            if let (Some(user), true, None) = (running, force, &name) {
                let text = format!(
                    "image {name_or_id} is used by container {user}, which runs: that cannot be forced"
                );
                return Err(Refusal::new(Kind::InUse, text).into());
            }
            if name.is_none() && names.len() > 1 && !force {
                let text = format!("image {name_or_id} has more than one name");
                return Err(Refusal::new(Kind::InUse, text).into());
            }
            let mut removed = Removed::default();
            for name in name.map_or(names, |name| vec![name]) {
                rows::delete(transaction, NAMES, &name)?;
                removed.untagged.push(name.parse()?);
            }
            if last && users.is_empty() {
                rows::delete(transaction, IMAGES, &key)?;
                removed.deleted.push(graph.row(&manifest)?.config);
            }
            Ok(removed)
        })?;
        removed.reclaimed = self.collect()?;
        Ok(removed)
    }

    /// Removes images that no container uses: those without a name, or `all`; none but those with one of these ids, if there are any here.
    pub fn prune(&self, all: bool, only: &[String]) -> Result<Removed> {
        let mut removed = self.write_freeing(|transaction| {
            let graph = transaction.graph()?;
            let mut removed = Removed::default();
            for (key, row) in &graph.images {
                let names: Vec<_> = graph.names_of(key).collect();
                let chosen = only.is_empty() || only.contains(&row.config.to_string());
                if !graph.users(&key.parse()?).is_empty() || !(all || names.is_empty()) || !chosen {
                    continue;
                }
                for name in names {
                    rows::delete(transaction, NAMES, name)?;
                    removed.untagged.push(name.parse()?);
                }
                rows::delete(transaction, IMAGES, key)?;
                removed.deleted.push(row.config);
            }
            Ok(removed)
        })?;
        removed.reclaimed = self.collect()?;
        Ok(removed)
    }

    /// How the image was made, newest step first.
    pub fn history(&self, name_or_id: &str) -> Result<Vec<Step>> {
        let graph = self.read()?;
        let (manifest, _) = graph.find(name_or_id)?;
        let image = self.describe(&graph, &manifest)?;
        let mut layers = image.layers.iter();
        let mut steps = Vec::new();
        for entry in image.config.history().iter().flatten() {
            let layer = match entry.empty_layer() {
                Some(true) => None,
                _ => layers.next().copied(),
            };
            steps.push(Step {
                created: entry.created().clone(),
                created_by: entry.created_by().clone().unwrap_or_default(),
                comment: entry.comment().clone().unwrap_or_default(),
                layer,
                size: layer.map_or(Ok(0), |layer| graph.layer(&layer).map(|row| row.size))?,
            });
        }
        // Layers that the history does not tell of.
        for layer in layers {
            steps.push(Step {
                created: None,
                created_by: String::new(),
                comment: String::new(),
                layer: Some(*layer),
                size: graph.layer(layer)?.size,
            });
        }
        steps.reverse();
        Ok(steps)
    }
}
