//! An operation of several steps: what it brings in is held by its lease until one transaction makes all of it the store's.
//!
//! Rows that a lease holds are written without waiting for the disk. Before the last transaction, which waits, everything that was written is
//! made durable (syncfs), so that no row on the disk is ahead of its files. If the operation fails, its lease goes and what it held is
//! collected; if the daemon dies, that happens when the store is opened again.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use redb::{Durability, WriteTransaction};

use super::Store;
use super::blobs::Ingest;
use super::rows::{
    self, BLOBS, BlobRow, IMAGES, ImageRow, LAYERS, LEASES, LayerLink, LayerRow, LeaseRow,
    Tables as _,
};
use crate::digest::Digest;
use crate::layer::Unpacked;
use crate::layer::workers::{self, Job};
use crate::lock::lock;
use crate::wanted::{Wanted, WhileWanted};

/// Ingests that begin so are of no use to anyone when the store is opened.
pub(super) const ONCE: &str = "once-";

pub(crate) struct Operation<'a> {
    store: &'a Store,
    lease: String,
    /// Of the database that has the rows.
    generation: u64,
    wanted: Wanted,
    ended: bool,
}

impl<'a> Operation<'a> {
    pub(crate) fn begin(store: &'a Store, what: &str) -> Result<Self> {
        Self::begin_with(store, what, |_, _| Ok(())).map(|(operation, ())| operation)
    }

    /// One that holds from the beginning what `which` finds in the store and writes into the lease: nobody removes it between the two.
    pub(super) fn begin_with<T>(
        store: &'a Store,
        what: &str,
        which: impl FnOnce(&WriteTransaction, &mut LeaseRow) -> Result<T>,
    ) -> Result<(Self, T)> {
        let lease = store.number().to_string();
        let mut row = LeaseRow {
            what: what.to_owned(),
            began: rows::now(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        let (generation, found) = store.write(Durability::None, |transaction| {
            let found = which(transaction, &mut row)?;
            rows::put(transaction, LEASES, &lease, &row)?;
            Ok((store.database.generation(), found))
        })?;
        let operation = Self {
            store,
            lease,
            generation,
            wanted: Wanted::default(),
            ended: false,
        };
        Ok((operation, found))
    }

    /// It fails when nobody waits for it any more.
    pub(crate) fn while_wanted(mut self, wanted: &Wanted) -> Self {
        self.wanted = wanted.clone();
        self
    }

    /// A part of what is brought in.
    pub(crate) fn reading<R>(&self, from: R) -> WhileWanted<R> {
        WhileWanted(from, self.wanted.clone())
    }

    pub(crate) fn store(&self) -> &'a Store {
        self.store
    }

    /// Content under this reference, from where an earlier writer left it.
    pub(crate) fn ingest(&'a self, reference: &str) -> Result<Ingest<'a>> {
        Ingest::open(self, reference, self.store.ingest_path(reference))
    }

    /// Content that nobody will resume.
    pub(crate) fn ingest_once(&'a self) -> Result<Ingest<'a>> {
        let name = format!("{ONCE}{}", self.store.number());
        let directory = self.store.root.join("ingests").join(&name);
        Ingest::open(self, &name, directory)
    }

    /// Whether there is such a blob, with all of its bytes. Then it stays.
    pub(crate) fn hold_existing(&self, digest: &Digest) -> Result<bool> {
        let _files = lock(&self.store.files);
        let key = digest.to_string();
        self.store.write(Durability::None, |transaction| {
            let row = rows::get::<BlobRow>(transaction, BLOBS, &key)?;
            let size = fs::metadata(self.store.blob_path(digest)).map(|file| file.len());
            let there = row.is_some_and(|row| size.is_ok_and(|size| size == row.size));
            if there {
                self.add(transaction, Some(*digest), None)?;
            }
            Ok(there)
        })
    }

    pub(super) fn hold_blob(&self, digest: Digest, size: u64) -> Result<()> {
        self.store.write(Durability::None, |transaction| {
            rows::put(transaction, BLOBS, &digest.to_string(), &BlobRow { size })?;
            self.add(transaction, Some(digest), None)
        })
    }

    fn add(
        &self,
        transaction: &WriteTransaction,
        blob: Option<Digest>,
        layer: Option<Digest>,
    ) -> Result<()> {
        let mut row = self.lease(transaction)?;
        row.blobs.extend(blob);
        row.layers.extend(layer);
        rows::put(transaction, LEASES, &self.lease, &row)
    }

    fn lease(&self, transaction: &WriteTransaction) -> Result<LeaseRow> {
        // Rows that were not on the disk yet are gone.
        ensure!(
            self.generation == self.store.database.generation(),
            "what was brought in is lost, after an error of the disk: try again"
        );
        rows::get(transaction, LEASES, &self.lease)?.context("the lease is gone")
    }

    /// Has these layers unpacked, each once, whoever else wants it at the same time. A blob of which it is not known that it becomes this layer
    /// is unpacked, too, to find that out.
    pub(crate) fn unpack(
        &self,
        links: &[LayerLink],
        progress: &mut dyn FnMut(Digest, u64),
    ) -> Result<()> {
        let mut done = Vec::new();
        loop {
            let (mine, theirs) = self.claim(links, &done)?;
            if mine.is_empty() && theirs.is_empty() {
                return Ok(());
            }
            if !mine.is_empty() {
                self.unpack_mine(&mine, progress)?;
                done.extend(mine);
            }
            // They may fail, or their layers go again: hence the loop.
            let unpacking = lock(&self.store.unpacking);
            let busy = |unpacking: &mut std::collections::HashSet<Digest>| {
                theirs.iter().any(|digest| unpacking.contains(digest))
            };
            drop(self.store.unpacked.wait_while(unpacking, busy));
        }
    }

    /// What is left to be unpacked: by us from now on, and by others already. We have `done` these.
    fn claim(
        &self,
        links: &[LayerLink],
        done: &[LayerLink],
    ) -> Result<(Vec<LayerLink>, Vec<Digest>)> {
        let mut unpacking = lock(&self.store.unpacking);
        let (mut mine, mut theirs): (Vec<LayerLink>, Vec<Digest>) = Default::default();
        self.store.write(Durability::None, |transaction| {
            let images = transaction.rows::<ImageRow>(IMAGES)?;
            let known = |link: &LayerLink, row: &LayerRow| {
                link.blob == link.diff_id
                    || row.blob == Some(link.blob)
                    || images.values().any(|image| image.layers.contains(link))
            };
            for link in links.iter().filter(|link| !done.contains(link)) {
                let key = link.diff_id.to_string();
                if let Some(row) = rows::get::<LayerRow>(transaction, LAYERS, &key)? {
                    self.add(transaction, None, Some(link.diff_id))?;
                    if known(link, &row) {
                        continue;
                    }
                }
                if mine.iter().all(|other| other.diff_id != link.diff_id) {
                    match unpacking.contains(&link.diff_id) {
                        true => theirs.push(link.diff_id),
                        false => mine.push(link.clone()),
                    }
                }
            }
            Ok(())
        })?;
        unpacking.extend(mine.iter().map(|link| link.diff_id));
        Ok((mine, theirs))
    }

    fn unpack_mine(&self, mine: &[LayerLink], progress: &mut dyn FnMut(Digest, u64)) -> Result<()> {
        let outcome = self.unpack_claimed(mine, progress);
        let mut unpacking = lock(&self.store.unpacking);
        for link in mine {
            unpacking.remove(&link.diff_id);
        }
        drop(unpacking);
        self.store.unpacked.notify_all();
        outcome
    }

    fn unpack_claimed(
        &self,
        mine: &[LayerLink],
        progress: &mut dyn FnMut(Digest, u64),
    ) -> Result<()> {
        let mut directories = Vec::new();
        let mut jobs = Vec::new();
        for link in mine {
            let directory = self.store.new_layer()?;
            jobs.push(Job {
                blob: self.store.open_blob(&link.blob)?,
                diff_id: Some(link.diff_id),
                directory: directory.path.clone(),
            });
            directories.push(directory);
        }
        let tell = &mut |index: usize, done| {
            progress(mine[index].diff_id, done);
            Ok(self.wanted.check()?)
        };
        let unpacked = workers::unpack(jobs, tell)?;
        for ((link, unpacked), directory) in mine.iter().zip(unpacked).zip(directories) {
            self.hold_layer(&link.blob, unpacked, directory)?;
        }
        Ok(())
    }

    /// Unpacks a layer of which only the blob is known.
    pub(crate) fn unpack_unknown(&self, blob: &Digest) -> Result<Digest> {
        let directory = self.store.new_layer()?;
        let job = Job {
            blob: self.store.open_blob(blob)?,
            diff_id: None,
            directory: directory.path.clone(),
        };
        let unpacked = workers::unpack(vec![job], &mut |_, _| Ok(self.wanted.check()?))?;
        let unpacked = unpacked
            .into_iter()
            .next()
            .context("a layer was not unpacked")?;
        let diff_id = unpacked.diff_id;
        self.hold_layer(blob, unpacked, directory)?;
        Ok(diff_id)
    }

    fn hold_layer(&self, blob: &Digest, unpacked: Unpacked, directory: NewLayer<'_>) -> Result<()> {
        let key = unpacked.diff_id.to_string();
        let diff_id = unpacked.diff_id;
        let row = LayerRow {
            directory: directory.number,
            size: unpacked.size,
            entries: unpacked.entries,
            opaque: unpacked.opaque,
            implied: unpacked.implied,
            blob: Some(*blob),
        };
        self.store.write(Durability::None, |transaction| {
            // The first one stays; the directory of another goes with its guard's end.
            if rows::get::<LayerRow>(transaction, LAYERS, &key)?.is_none() {
                rows::put(transaction, LAYERS, &key, &row)?;
            }
            self.add(transaction, None, Some(diff_id))
        })
    }

    /// Makes all of it durable, and what `how` writes a part of the store.
    pub(crate) fn finish<T>(
        mut self,
        how: impl FnOnce(&WriteTransaction) -> Result<T>,
    ) -> Result<T> {
        self.store.sync()?;
        self.wanted.check()?;
        let made = self.store.write(Durability::Immediate, |transaction| {
            // Without it, nothing has held what was brought in.
            self.lease(transaction)?;
            let made = how(transaction)?;
            rows::delete(transaction, LEASES, &self.lease)?;
            Ok(made)
        })?;
        self.ended = true;
        // What came in and was not needed after all.
        self.store.collect()?;
        Ok(made)
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let end = self.store.write(Durability::None, |transaction| {
                rows::delete(transaction, LEASES, &self.lease)
            });
            // The operation has failed already, with its own error; what stays is collected at the next start.
            end.and_then(|()| self.store.collect()).ok();
        }
    }
}

/// A directory that no row knows yet; until this ends, it stays nevertheless.
pub(crate) struct NewLayer<'a> {
    store: &'a Store,
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
}

impl Drop for NewLayer<'_> {
    fn drop(&mut self) {
        lock(&self.store.fresh).remove(&self.number);
    }
}

impl Store {
    pub(crate) fn new_layer(&self) -> Result<NewLayer<'_>> {
        let number = self.number();
        let path = self.layer_path(number);
        lock(&self.fresh).insert(number);
        let new = NewLayer {
            store: self,
            number,
            path,
        };
        fs::create_dir(&new.path).with_context(|| format!("create {}", new.path.display()))?;
        fs::set_permissions(&new.path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("set the mode of {}", new.path.display()))?;
        Ok(new)
    }

    /// One that was never used before: names of directories are not used again.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// All that was written is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let root =
            File::open(&self.root).with_context(|| format!("open {}", self.root.display()))?;
        rustix::fs::syncfs(&root).with_context(|| format!("syncfs {}", self.root.display()))
    }
}
