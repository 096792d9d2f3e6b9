//! Snapshots: for each container, an ordered list of its image's layers, and a directory for what it changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use redb::Durability;

use super::Store;
use super::operation::NewLayer;
use super::rows::{self, Graph, LayerRow, SNAPSHOTS, SnapshotRow, Tables};
use crate::digest::Digest;
use crate::image::Image;
use crate::layer::{Snapshot, implied};
use crate::lock::lock;

impl Graph {
    /// Layers as they are mounted, top first. What is below a layer that hides all is left out.
    fn lower(&self, layers: &[Digest]) -> Result<Vec<&LayerRow>> {
        let mut lower: Vec<&LayerRow> = Vec::new();
        for diff_id in layers.iter().rev() {
            let row = self.layer(diff_id)?;
            // Overlayfs takes a directory once. All that an image has of a layer farther down, it has of the same layer here.
            if lower.iter().all(|other| other.directory != row.directory) {
                lower.push(row);
            }
            if row.opaque {
                break;
            }
        }
        Ok(lower)
    }

    /// With its layers as they are now: one may have been repaired.
    fn renewed(&self, row: &SnapshotRow) -> Result<SnapshotRow> {
        let layers = self.lower(&row.layers)?;
        let layers = layers.into_iter().map(|row| row.directory);
        Ok(SnapshotRow {
            lower: row.implied.into_iter().chain(layers).collect(),
            ..row.clone()
        })
    }
}

impl Store {
    pub(super) fn snapshot_path(&self, number: u64) -> PathBuf {
        self.root.join("snapshots").join(number.to_string())
    }

    /// The layers and the writable directory for a container's root file system; the same ones if it has them already.
    pub fn snapshot(&self, container: &str, image: &Image) -> Result<Snapshot> {
        let graph = self.read()?;
        let implied = match graph.snapshots.contains_key(container) {
            true => None,
            false => self.make_implied(&graph.lower(&image.layers)?)?,
        };
        // No row has the directory until it is there.
        let _files = lock(&self.files);
        let row = self.write(Durability::Immediate, |transaction| {
            let graph = transaction.graph()?;
            let row = match graph.snapshots.get(container) {
                Some(row) => {
                    ensure!(
                        row.layers == image.layers,
                        "container {container} is made of another image, {}",
                        row.image
                    );
                    row.clone()
                }
                None => {
                    ensure!(
                        graph.images.contains_key(&image.manifest.to_string()),
                        "image {} is gone",
                        image.id
                    );
                    SnapshotRow {
                        directory: self.make_snapshot()?,
                        image: image.manifest,
                        layers: image.layers.clone(),
                        lower: Vec::new(),
                        implied: implied.as_ref().map(|made| made.number),
                    }
                }
            };
            let row = graph.renewed(&row)?;
            rows::put(transaction, SNAPSHOTS, container, &row)?;
            Ok(row)
        })?;
        Ok(self.paths(&row))
    }

    /// That of a container that has one. Only looks.
    pub(crate) fn snapshot_of(&self, container: &str) -> Result<Snapshot> {
        let graph = self.read()?;
        let row = graph.snapshots.get(container);
        let row = row.with_context(|| format!("container {container} has been removed"))?;
        Ok(self.paths(&graph.renewed(row)?))
    }

    fn paths(&self, row: &SnapshotRow) -> Snapshot {
        let directory = self.snapshot_path(row.directory);
        Snapshot {
            lower: row
                .lower
                .iter()
                .map(|number| self.layer_path(*number))
                .collect(),
            upper: directory.join("upper"),
            work: directory.join("work"),
        }
    }

    /// A directory to go above these layers, top first, with what they only imply. An overlay of no layers needs one, too.
    fn make_implied(&self, layers: &[&LayerRow]) -> Result<Option<NewLayer<'_>>> {
        if !layers.is_empty() && layers.iter().all(|row| row.implied.is_empty()) {
            return Ok(None);
        }
        let made = self.new_layer()?;
        let paths: Vec<_> = layers
            .iter()
            .map(|row| self.layer_path(row.directory))
            .collect();
        let layers: Vec<_> = paths
            .iter()
            .zip(layers)
            .map(|(path, row)| (path.as_path(), row.implied.as_slice()))
            .collect();
        implied::make(&layers, &made.path)?;
        self.make_durable("layers")?;
        Ok(Some(made))
    }

    fn make_snapshot(&self) -> Result<u64> {
        let number = self.number();
        let directory = self.snapshot_path(number);
        let make = |path: PathBuf, mode| {
            fs::create_dir(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                .with_context(|| format!("create {}", path.display()))
        };
        make(directory.clone(), 0o700)?;
        // The root directory of the container.
        make(directory.join("upper"), 0o755)?;
        make(directory.join("work"), 0o700)?;
        self.make_durable("snapshots")?;
        Ok(number)
    }

    /// The names in one of the store's directories.
    fn make_durable(&self, directory: &str) -> Result<()> {
        fs::File::open(self.root.join(directory))
            .and_then(|directory| directory.sync_all())
            .context("make the snapshot durable")
    }

    /// Removes what a container has changed, and nothing else. One that has nothing is none the worse.
    pub fn remove_snapshot(&self, container: &str) -> Result<()> {
        self.write_freeing(|transaction| rows::delete(transaction, SNAPSHOTS, container))?;
        self.collect().map(drop)
    }

    /// Whose they are.
    pub(crate) fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.read()?.snapshots.into_keys().collect())
    }
}
