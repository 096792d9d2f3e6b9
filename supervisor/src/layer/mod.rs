//! Layers: from a blob to files that overlayfs can use.
//!
//! A layer is unpacked once, into a directory of its own, by a process that can reach nothing else: `workers` runs it for the daemon, `child` is
//! it, `confine` shuts it in, `blob` decompresses, `tree` makes the files with `contents` and `metadata`. Blobs come from strangers; only the child parses them. `compare`
//! finds out whether the files are still those that were unpacked; `implied` says what directories are that a layer leaves to those below.

mod blob;
mod child;
pub(crate) mod compare;
pub(crate) mod confine;
mod contents;
pub(crate) mod implied;
mod metadata;
#[cfg(any(test, feature = "fuzz"))]
mod properties;
pub(crate) mod tree;
pub(crate) mod workers;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub(crate) use blob::{Compression, Decompressed};
pub(crate) use child::run as child;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use properties::UNPACK;

/// What may be compressed, decompressed.
pub(crate) fn decompressed<R: std::io::Read>(inner: R) -> std::io::Result<Decompressed<R>> {
    Decompressed::new(inner)
}

/// The action of `caissond` that unpacks one layer; nobody but the daemon uses it.
pub(crate) const ACTION: &str = "unpack-layer";

/// What a container's root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Directories of layers, top first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// What the child has to say of a layer that it has unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed layer.
    pub(crate) diff_id: Digest,
    /// Of all files, as far as they are stored.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// Nothing of the layers below is seen. Overlayfs does not look at the root for that: layers below must be left out.
    pub(crate) opaque: bool,
    /// Directories that the layer uses and says nothing about.
    pub(crate) implied: Vec<Vec<u8>>,
}
