//! Snapshots: for each container, an ordered list of its image's layers, and a directory for what it changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use redb::Durability;

use super::Store;
use super::rows::{self, Graph, SNAPSHOTS, SnapshotRow, Tables};
use crate::digest::Digest;
use crate::image::Image;
use crate::layer::Snapshot;
use crate::lock::lock;

impl Graph {
    /// Directories of layers, top first. What is below a layer that hides all is left out.
    fn lower(&self, layers: &[Digest]) -> Result<Vec<u64>> {
        let mut lower = Vec::new();
        for diff_id in layers.iter().rev() {
            let row = self.layer(diff_id)?;
            lower.push(row.directory);
            if row.opaque {
                break;
            }
        }
        Ok(lower)
    }
}

impl Store {
    pub(super) fn snapshot_path(&self, number: u64) -> PathBuf {
        self.root.join("snapshots").join(number.to_string())
    }

    /// The layers and the writable directory for a container's root file system; the same ones if it has them already.
    pub fn snapshot(&self, container: &str, image: &Image) -> Result<Snapshot> {
        // No row has the directory until it is there.
        let _files = lock(&self.files);
        let row = self.write(Durability::Immediate, |transaction| {
            let graph = transaction.graph()?;
            let lower = graph.lower(&image.layers)?;
            let row = match graph.snapshots.get(container) {
                Some(row) => {
                    ensure!(
                        row.layers == image.layers,
                        "container {container} is made of another image, {}",
                        row.image
                    );
                    // A layer may have been repaired.
                    SnapshotRow {
                        lower,
                        ..row.clone()
                    }
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
                        lower,
                    }
                }
            };
            rows::put(transaction, SNAPSHOTS, container, &row)?;
            Ok(row)
        })?;
        let directory = self.snapshot_path(row.directory);
        Ok(Snapshot {
            lower: row
                .lower
                .iter()
                .map(|number| self.layer_path(*number))
                .collect(),
            upper: directory.join("upper"),
            work: directory.join("work"),
        })
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
        fs::File::open(self.root.join("snapshots"))
            .and_then(|parent| parent.sync_all())
            .context("make the snapshot durable")?;
        Ok(number)
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
