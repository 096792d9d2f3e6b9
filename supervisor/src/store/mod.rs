//! The store: blobs by digest, the files of layers, and the one database that says what of them is there and why.
//!
//! Everything below one directory:
//!
//! | path | what |
//! |---|---|
//! | `lock` | locked while the store is open |
//! | `caisson.redb` | the database |
//! | `reserve` | room for what removes things from a full disk |
//! | `blobs/sha256/DIGITS` | manifests, configurations and layers as they came |
//! | `ingests/DIGITS/data` | what is on its way to become a blob |
//! | `layers/N` | a layer's files, unpacked once; read by all containers |
//! | `snapshots/N/{upper,work}` | what one container has changed |
//! | `trash/N` | what is being removed |
//!
//! A row of the database is written after its files are on the disk, and removed before them. So a file without a row is left over from what
//! did not end, and goes when the store is opened. If there are files and the database is new, it is not opened: then it is the rows that are
//! lost.
//!
//! Runs in the daemon. All calls block, and may be made by any thread.

mod blobs;
mod collect;
mod database;
mod images;
pub(crate) mod lock;
mod operation;
mod overlay;
mod refusal;
mod reserve;
mod rows;
mod snapshots;
mod verify;

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use redb::{Durability, WriteTransaction};

use crate::digest::Digest;
use crate::image::Reference;
use crate::wanted::Wanted;

pub(crate) use collect::taken;
use database::Database;
pub(crate) use operation::Operation;
pub use refusal::{Kind, Refusal};
use rows::{Graph, LEASES, Tables};
pub(crate) use rows::{ImageRow, LayerLink, now};

/// Where a daemon keeps it unless told otherwise.
pub const ROOT: &str = "/var/lib/caisson";

/// The open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Database,
    /// After the database: the next one opens it then.
    _lock: fs::File,
    /// For names of directories.
    numbers: AtomicU64,
    /// Held while a file and its row do not agree.
    files: Mutex<()>,
    /// References that somebody writes to, and the news that this has ended.
    writers: Mutex<blobs::Writers>,
    written: Condvar,
    /// Layers that somebody unpacks, and the news that this has ended.
    unpacking: Mutex<HashSet<Digest>>,
    unpacked: Condvar,
    /// Directories of layers that no row has yet.
    fresh: Mutex<HashSet<u64>>,
}

/// An ingest that nobody has touched for so long is not going to be resumed.
const RESUMABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// What an import reads.
#[expect(missing_debug_implementations, reason = "a reader has none")]
pub enum Source<'a> {
    /// A tar archive, which may be compressed: an OCI layout, what `docker save` writes, or a root file system.
    Archive(&'a mut dyn Read),
    /// A directory with an OCI layout.
    Directory(&'a Path),
}

#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Instead of the names in the archive; an archive with more than one image is then refused. A root file system needs one to have any.
    pub name: Option<Reference>,
    /// The archive is a root file system, whatever it looks like.
    pub root_filesystem: bool,
    /// A root file system is refused.
    pub images_only: bool,
    /// Instructions of a Dockerfile for the configuration of a root file system's image; of others they are refused.
    pub changes: Vec<String>,
    /// What its history says.
    pub message: String,
    /// What is not wanted any more is not brought in.
    pub(crate) wanted: Wanted,
}

/// How far an import is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// A layer, or empty for the archive.
    pub layer: Option<Digest>,
    pub done: u64,
    /// 0 if it is not known.
    pub total: u64,
}

/// What a removal has taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub untagged: Vec<Reference>,
    /// Ids of images.
    pub deleted: Vec<Digest>,
    /// Bytes on the disk.
    pub reclaimed: u64,
}

/// What `verify` has found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// A blob's or a layer's digest.
    pub object: Digest,
    pub what: String,
    pub repaired: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many blobs and layers were looked at.
    pub checked: u64,
    pub damage: Vec<Damage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Image,
    Layer,
    Snapshot,
    Content,
    Ingest,
    Lease,
}

/// A thing on the disk, and why it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: ObjectKind,
    pub name: String,
    pub size: u64,
    /// What holds it, most direct first; nothing does if it is empty.
    pub reasons: Vec<String>,
    /// What would go if all images went that no container uses.
    pub reclaimable: u64,
}

/// What is on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub objects: Vec<Object>,
}

impl Store {
    /// Opens the store below `root`, and makes it if there is none. What was left over is removed.
    pub fn open(root: &Path) -> Result<Self> {
        let make = |path: PathBuf| {
            let mut builder = fs::DirBuilder::new();
            // Layers have programs with setuid, for which the users of the host have no use.
            let made = builder.recursive(true).mode(0o700).create(&path);
            made.with_context(|| format!("create {}", path.display()))
        };
        for directory in [
            "",
            "blobs/sha256",
            "ingests",
            "layers",
            "snapshots",
            "trash",
        ] {
            make(root.join(directory))?;
        }
        let root = root
            .canonicalize()
            .with_context(|| format!("open {}", root.display()))?;
        let lock = lock::take(&root.join("lock"))?;
        let files = collect::first_of(&root)?;
        let database = Database::open(root.join("caisson.redb"), files.is_none())?;
        let store = Self {
            root,
            database,
            _lock: lock,
            numbers: AtomicU64::new(0),
            files: Mutex::default(),
            writers: Mutex::default(),
            written: Condvar::new(),
            unpacking: Mutex::default(),
            unpacked: Condvar::new(),
            fresh: Mutex::default(),
        };
        store.begin(files.as_deref())?;
        store.recover()?;
        Ok(store)
    }

    /// A new database knows nothing of files that are there, if any are: theirs is lost, and without it all of them would be removed.
    fn begin(&self, files: Option<&Path>) -> Result<()> {
        // On a disk that is full, too: nothing can be removed from it without a daemon.
        let new = self.write_freeing(|transaction| {
            let new = rows::prepare(transaction)?;
            match files {
                Some(files) if new => bail!(
                    "{} was missing or empty, and {} is not: restore the database, or move {} away",
                    self.root.join("caisson.redb").display(),
                    files.display(),
                    self.root.display()
                ),
                _ => Ok(new),
            }
        })?;
        if new {
            // Its name is on the disk before any of those files.
            let root = fs::File::open(&self.root).and_then(|root| root.sync_all());
            root.with_context(|| format!("fsync {}", self.root.display()))?;
        }
        Ok(())
    }

    /// Nothing is under way now: what leases hold and what has no row is left over.
    fn recover(&self) -> Result<()> {
        self.write_freeing(|transaction| {
            for lease in transaction.graph()?.leases.keys() {
                rows::delete(transaction, LEASES, lease)?;
            }
            Ok(())
        })?;
        let mut highest = 0;
        for directory in ["layers", "snapshots", "trash"] {
            let names = collect::names(&self.root.join(directory))?;
            highest = names
                .iter()
                .filter_map(|name| name.parse().ok())
                .fold(highest, u64::max);
        }
        self.numbers
            .store(highest + 1, std::sync::atomic::Ordering::Relaxed);
        for name in collect::names(&self.root.join("ingests"))? {
            let path = self.root.join("ingests").join(&name);
            let touched = fs::metadata(path.join("data")).and_then(|data| data.modified());
            let age = touched.map_or(Duration::MAX, |touched| {
                SystemTime::now()
                    .duration_since(touched)
                    .unwrap_or_default()
            });
            if age > RESUMABLE || name.starts_with(operation::ONCE) {
                let removed = fs::remove_dir_all(&path);
                collect::forgive(removed.with_context(|| format!("remove {}", path.display())));
            }
        }
        self.collect().map(drop)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// For tables of others: containers, volumes, events.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn layer_path(&self, number: u64) -> PathBuf {
        self.root.join("layers").join(number.to_string())
    }

    /// What the tables say now.
    fn read(&self) -> Result<Graph> {
        let read = self.database.read(|transaction| transaction.graph());
        read.context("read the database")
    }

    /// One transaction, after which something can go from the disk.
    fn write_freeing<T>(&self, how: impl Fn(&WriteTransaction) -> Result<T>) -> Result<T> {
        self.database
            .freeing(|| self.write(Durability::Immediate, &how))
    }

    /// One transaction: all of it, or nothing.
    fn write<T>(
        &self,
        durability: Durability,
        how: impl FnOnce(&WriteTransaction) -> Result<T>,
    ) -> Result<T> {
        let mut transaction = self.database.begin_write()?;
        transaction
            .set_durability(durability)
            .context("write the database")?;
        match how(&transaction) {
            Ok(value) => transaction.commit().map(|()| value),
            // Not for anything that the disk has done; the transaction takes itself back.
            Err(error) if error.is::<Refusal>() => Err(error),
            Err(error) => {
                transaction.abort();
                Err(error)
            }
        }
    }
}
