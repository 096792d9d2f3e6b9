//! Why things are kept, and the removal of what nothing keeps.
//!
//! Roots are images (named or not), containers' snapshots, and leases. An image keeps its blobs and its layers, a snapshot its image's
//! layers and its own directory, a lease what it names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::Stat;

use super::rows::{self, BLOBS, Graph, LAYERS, LayerRow, Tables};
use super::{Object, ObjectKind, Store, Usage};
use crate::fault::Fault;
use crate::lock::lock;
use crate::removal::remove_tree;
use crate::walk::walk;

impl Graph {
    /// How an image is called in what people read.
    fn title(&self, manifest: &str) -> String {
        let named = self
            .names
            .iter()
            .find(|(_, digest)| digest.to_string() == manifest);
        named.map_or_else(
            || format!("image {manifest}"),
            |(name, _)| format!("image {name}"),
        )
    }

    fn is_all_held(&self) -> bool {
        let holders = self.holders();
        self.blobs
            .keys()
            .all(|digest| holders.blobs.contains_key(digest))
            && self
                .layers
                .keys()
                .all(|digest| holders.layers.contains_key(digest))
    }

    /// What is held, by digest, with who holds it.
    fn holders(&self) -> Holders {
        let mut holders = Holders::default();
        for (manifest, image) in &self.images {
            let title = self.title(manifest);
            holders.blob(manifest.clone(), &title);
            holders.blob(image.config.to_string(), &title);
            for link in &image.layers {
                holders.blob(link.blob.to_string(), &title);
                holders.layer(link.diff_id.to_string(), &title);
            }
        }
        for (container, snapshot) in &self.snapshots {
            for layer in &snapshot.layers {
                holders.layer(layer.to_string(), &format!("container {container}"));
            }
        }
        for lease in self.leases.values() {
            for blob in &lease.blobs {
                holders.blob(blob.to_string(), &lease.what);
            }
            for layer in &lease.layers {
                holders.layer(layer.to_string(), &lease.what);
            }
        }
        holders
    }
}

#[derive(Default)]
struct Holders {
    blobs: BTreeMap<String, Vec<String>>,
    layers: BTreeMap<String, Vec<String>>,
}

impl Holders {
    fn blob(&mut self, digest: String, holder: &str) {
        add(self.blobs.entry(digest).or_default(), holder);
    }

    fn layer(&mut self, digest: String, holder: &str) {
        add(self.layers.entry(digest).or_default(), holder);
    }
}

fn add(holders: &mut Vec<String>, holder: &str) {
    if !holders.iter().any(|other| other == holder) {
        holders.push(holder.to_owned());
    }
}

/// Of images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    /// Unpacked.
    pub(crate) layers: u64,
    pub(crate) blobs: u64,
}

impl Store {
    /// Removes what nothing keeps, and says how many bytes that was. Rows go first, and are gone from the disk before their files.
    pub(super) fn collect(&self) -> Result<u64> {
        let files = lock(&self.files);
        // Before the rows are read: a layer that gets its row meanwhile is fresh until then.
        let fresh = lock(&self.fresh);
        // What becomes useless while this looks is collected by who makes it so.
        let graph = self.read()?;
        if graph.is_all_held() {
            self.sweep(&graph, &fresh)?;
            drop((files, fresh));
            return self.empty_trash().map(|()| 0);
        }
        let (graph, freed) = self.write_freeing(|transaction| {
            let mut freed = 0;
            let mut graph = transaction.graph()?;
            let holders = graph.holders();
            for (digest, row) in &graph.blobs {
                if !holders.blobs.contains_key(digest) {
                    freed += row.size;
                    rows::delete(transaction, BLOBS, digest)?;
                }
            }
            for (digest, row) in &graph.layers {
                if !holders.layers.contains_key(digest) {
                    freed += row.size;
                    rows::delete(transaction, LAYERS, digest)?;
                }
            }
            graph
                .blobs
                .retain(|digest, _| holders.blobs.contains_key(digest));
            graph
                .layers
                .retain(|digest, _| holders.layers.contains_key(digest));
            Ok((graph, freed))
        })?;
        self.sweep(&graph, &fresh)?;
        drop((files, fresh));
        self.empty_trash()?;
        Ok(freed)
    }

    /// Takes away files that no row has. `files` is held: no blob is between its file and its row.
    fn sweep(&self, graph: &Graph, fresh: &HashSet<u64>) -> Result<()> {
        let blobs = self.root.join("blobs/sha256");
        let known: BTreeSet<_> = graph
            .blobs
            .keys()
            .filter_map(|key| key.strip_prefix("sha256:"))
            .collect();
        for name in names(&blobs)? {
            if !known.contains(name.as_str()) {
                let removed = fs::remove_file(blobs.join(&name));
                forgive(removed.with_context(|| format!("remove blob {name}")));
            }
        }
        let mut layers: BTreeSet<u64> = graph.layers.values().map(|row| row.directory).collect();
        layers.extend(graph.snapshots.values().flat_map(|row| &row.lower));
        layers.extend(fresh);
        self.discard("layers", &layers)?;
        let snapshots = graph.snapshots.values().map(|row| row.directory).collect();
        self.discard("snapshots", &snapshots)
    }

    /// Moves directories that are not among `kept` to the trash.
    fn discard(&self, what: &str, kept: &BTreeSet<u64>) -> Result<()> {
        for name in names(&self.root.join(what))? {
            if name.parse().is_ok_and(|number| kept.contains(&number)) {
                continue;
            }
            let from = self.root.join(what).join(&name);
            let to = self.root.join("trash").join(self.number().to_string());
            let moved = fs::rename(&from, to);
            forgive(moved.with_context(|| format!("move {} to the trash", from.display())));
        }
        Ok(())
    }

    pub(super) fn empty_trash(&self) -> Result<()> {
        let trash = self.root.join("trash");
        for name in names(&trash)? {
            let path = trash.join(&name);
            forgive(remove_tree(&path).with_context(|| format!("remove {}", path.display())));
        }
        self.database.keep_reserve();
        Ok(())
    }

    /// What images take on the disk, as the tables have it.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        let graph = self.read()?;
        Ok(Bytes {
            layers: graph.layers.values().map(|row| row.size).sum(),
            blobs: graph.blobs.values().map(|row| row.size).sum(),
        })
    }

    /// What is on the disk, and why.
    pub fn usage(&self) -> Result<Usage> {
        let graph = self.read()?;
        let holders = graph.holders();
        let mut objects = graph.images_in_use();
        let unused = graph.unused();
        let nothing = Vec::new();
        let object = |kind, name: &str, size, reasons: Option<&Vec<String>>| {
            let reasons = reasons.unwrap_or(&nothing);
            let goes = reasons.iter().all(|holder| unused.contains(holder));
            Object {
                kind,
                name: name.to_owned(),
                size,
                reclaimable: if goes { size } else { 0 },
                reasons: reasons.clone(),
            }
        };
        for (digest, row) in &graph.layers {
            objects.push(object(
                ObjectKind::Layer,
                digest,
                row.size,
                holders.layers.get(digest),
            ));
        }
        for (digest, row) in &graph.blobs {
            objects.push(object(
                ObjectKind::Content,
                digest,
                row.size,
                holders.blobs.get(digest),
            ));
        }
        for (container, row) in &graph.snapshots {
            let size = taken(&self.snapshot_path(row.directory).join("upper"))?;
            let holder = vec![format!("container {container}")];
            objects.push(object(ObjectKind::Snapshot, container, size, Some(&holder)));
        }
        for name in names(&self.root.join("ingests"))? {
            let size = taken(&self.root.join("ingests").join(&name))?;
            let holder = vec!["being written, or to be resumed within a day".to_owned()];
            objects.push(object(ObjectKind::Ingest, &name, size, Some(&holder)));
        }
        Ok(Usage { objects })
    }
}

impl Graph {
    /// Images, each with its names and the containers made of it.
    fn images_in_use(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        for (manifest, image) in &self.images {
            let layers = image.layers.iter();
            let sizes = layers.filter_map(|link| self.layers.get(&link.diff_id.to_string()));
            let mut reasons: Vec<_> = self
                .names_of(manifest)
                .map(|name| format!("name {name}"))
                .collect();
            let users = self
                .snapshots
                .iter()
                .filter(|(_, row)| row.image.to_string() == *manifest);
            reasons.extend(users.map(|(container, _)| format!("container {container}")));
            objects.push(Object {
                kind: ObjectKind::Image,
                name: image.config.to_string(),
                size: sizes.map(|row| row.size).sum(),
                reclaimable: 0,
                reasons,
            });
        }
        objects
    }

    /// Titles of images that no container uses.
    fn unused(&self) -> BTreeSet<String> {
        let used: BTreeSet<_> = self
            .snapshots
            .values()
            .map(|row| row.image.to_string())
            .collect();
        let unused = self
            .images
            .keys()
            .filter(|manifest| !used.contains(*manifest));
        unused.map(|manifest| self.title(manifest)).collect()
    }

    pub(super) fn names_of<'a>(&'a self, manifest: &'a str) -> impl Iterator<Item = &'a String> {
        let named = self
            .names
            .iter()
            .filter(move |(_, digest)| digest.to_string() == manifest);
        named.map(|(name, _)| name)
    }

    pub(super) fn layer(&self, diff_id: &crate::digest::Digest) -> Result<&LayerRow> {
        self.layers
            .get(&diff_id.to_string())
            .with_context(|| format!("layer {diff_id} is not there"))
    }
}

/// What nothing keeps and cannot be removed is for the next time: nothing else fails or waits for it.
pub(super) fn forgive(removed: Result<()>) {
    if let Err(error) = removed {
        crate::daemon::warn(&Fault::unknown(format!("{error:#}, ignoring")));
    }
}

/// The first directory below a root that has something in it of which only the database knows what it is.
pub(super) fn first_of(root: &Path) -> Result<Option<PathBuf>> {
    for directory in ["blobs/sha256", "layers", "snapshots", "containers"] {
        let path = root.join(directory);
        // That of containers' logs is not the store's to make.
        if path.exists() && !names(&path)?.is_empty() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

pub(super) fn names(directory: &Path) -> Result<Vec<String>> {
    let what = || format!("read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(what)? {
        names.push(
            entry
                .with_context(what)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    Ok(names)
}

/// What the files below take on the disk, each counted once. What goes while it is looked at counts for nothing, and neither does what is
/// deeper than anybody looks.
pub(crate) fn taken(directory: &Path) -> Result<u64> {
    let (mut sum, mut linked) = (0_u64, HashSet::new());
    let mut count = |_: &Path, stat: &Stat| {
        if stat.st_nlink < 2 || linked.insert(stat.st_ino) {
            sum += stat.st_blocks.cast_unsigned() * 512;
        }
    };
    walk(directory, &mut count).with_context(|| format!("read {}", directory.display()))?;
    Ok(sum)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the test's own")]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_one_behind_a_link_never() {
        let scratch = std::env::temp_dir().join(format!("caisson-taken-{}", std::process::id()));
        let tree = scratch.join("tree");
        fs::create_dir_all(tree.join("inner")).unwrap();
        fs::write(tree.join("inner/one"), vec![1; 1 << 20]).unwrap();
        let before = taken(&tree).unwrap();
        assert!(before >= 1 << 20);
        fs::hard_link(tree.join("inner/one"), tree.join("two")).unwrap();
        std::os::unix::fs::symlink(tree.join("inner"), scratch.join("link")).unwrap();
        assert_eq!(taken(&tree).unwrap(), before);
        assert_eq!(taken(&scratch.join("link")).unwrap(), 0);
        assert_eq!(taken(&scratch.join("none")).unwrap(), 0);
        fs::remove_dir_all(scratch).unwrap();
    }
}
