//! Images: what they are called, what they are made of, and how they come and go as archives.
//!
//! Runs in the daemon. An image is a manifest, which names a configuration and layers by digest; what these are stored as is the
//! business of `store`, what a layer's files are that of `layer`.

pub(crate) mod changes;
mod commit;
mod documents;
mod export;
mod import;
#[cfg(any(test, feature = "fuzz"))]
mod properties;
pub mod reference;
mod source;

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;
pub(crate) use commit::Said;
pub(crate) use documents::{architecture, configuration, said, warning};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use properties::{ARCHIVE, DOCUMENTS, REFERENCE};
pub use reference::Reference;

/// Of manifests, indexes and configurations; those of real images have a few kilobytes.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Overlayfs takes one more, which may be what layers only imply.
const LAYER_LIMIT: usize = 499;

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    pub names: Vec<Reference>,
    pub manifest: Digest,
    pub config: ImageConfiguration,
    /// The same with what is Docker's only (Healthcheck, OnBuild) and anybody else's.
    pub said: serde_json::Value,
    /// Digests of the uncompressed layers, bottom first.
    pub layers: Vec<Digest>,
    /// What its files take, unpacked.
    pub size: u64,
    /// As the image says, in RFC 3339.
    pub created: Option<String>,
}

/// A line of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub created: Option<String>,
    pub created_by: String,
    pub comment: String,
    /// None for a step that has changed no file.
    pub layer: Option<Digest>,
    pub size: u64,
}
