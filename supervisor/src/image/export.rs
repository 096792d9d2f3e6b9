//! Export: an OCI layout that is also what `docker load`, podman and skopeo take as a docker-archive. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::documents::{self, Document, Saved};
use super::{DOCUMENT_LIMIT, Image, Reference};
use crate::digest::{Digest, Hashing};
use crate::store::{Operation, Store};

impl Store {
    /// Writes images as an OCI layout that `docker load` takes too: the same bytes for the same images.
    pub fn export(&self, names: &[String], target: &mut dyn Write) -> Result<()> {
        let operation = Operation::begin(self, "export")?;
        let mut index = Vec::new();
        let mut saved: BTreeMap<Digest, Saved> = BTreeMap::new();
        let mut blobs = BTreeSet::new();
        for (image, names) in self.asked(names)? {
            operation.hold_existing(&image.manifest)?;
            let bytes = self.read_blob(&image.manifest, DOCUMENT_LIMIT)?;
            let (media_type, layers) = manifest(&bytes)?;
            for digest in [image.manifest, image.id].iter().chain(&layers) {
                operation.hold_existing(digest)?;
                blobs.insert(*digest);
            }
            let part =
                json!({"mediaType": media_type, "digest": image.manifest, "size": bytes.len()});
            index.extend(described(&part, &names));
            let image_of_docker = Saved {
                config: path(&image.id),
                repo_tags: names.iter().map(Reference::familiar).collect(),
                layers: layers.iter().map(path).collect(),
            };
            saved.insert(image.manifest, image_of_docker);
        }
        let mut archive = Archive { target };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        for digest in &blobs {
            let file = self.open_blob(digest)?;
            let size = file.metadata().context("read a blob")?.len();
            let mut file = Hashing::new(file);
            archive.file(&path(digest), size, &mut file)?;
            let (found, _) = file.so_far();
            ensure!(
                found == *digest,
                "blob {digest} is damaged: its bytes are those of {found}"
            );
        }
        let index = json!({"schemaVersion": 2, "mediaType": documents::INDEX, "manifests": index});
        let saved: Vec<_> = saved.into_values().collect();
        archive.document("index.json", &serde_json::to_vec(&index)?)?;
        archive.document("manifest.json", &serde_json::to_vec(&saved)?)?;
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.end()?;
        operation.finish(|_| Ok(()))
    }

    /// What is asked for, with the names that it goes by, as Docker has it: what is named without a tag by all of these, and what is named
    /// by its id by none. Each image once.
    fn asked(&self, words: &[String]) -> Result<Vec<(Image, Vec<Reference>)>> {
        let mut found: Vec<(Image, Vec<Reference>)> = Vec::new();
        for word in words {
            let name: Option<Reference> = word.parse().ok();
            let mut these = match name.as_ref().filter(|_| is_bare(word)) {
                Some(name) => self.tagged(&name.repository())?,
                None => Vec::new(),
            };
            if these.is_empty() {
                let image = self.image(word)?;
                let names = name.into_iter().filter(|name| image.names.contains(name));
                let names = names.collect();
                these.push((image, names));
            }
            for (image, names) in these {
                match found
                    .iter_mut()
                    .find(|(it, _)| it.manifest == image.manifest)
                {
                    Some((_, all)) => add(all, names),
                    None => found.push((image, names)),
                }
            }
        }
        Ok(found)
    }

    /// All that a repository has, with their names in it.
    fn tagged(&self, repository: &str) -> Result<Vec<(Image, Vec<Reference>)>> {
        let with_names = self.images()?.into_iter().map(|image| {
            let names = image.names.iter();
            let names = names.filter(|name| name.repository() == repository);
            let names: Vec<_> = names.cloned().collect();
            (image, names)
        });
        Ok(with_names.filter(|(_, names)| !names.is_empty()).collect())
    }
}

/// Without a tag and without a digest. A colon before the last slash is that of a port.
fn is_bare(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    !last.contains([':', '@'])
}

/// What is asked for twice is there once.
fn add<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

/// One entry of an index for each name.
fn described(part: &serde_json::Value, names: &[Reference]) -> Vec<serde_json::Value> {
    if names.is_empty() {
        return vec![part.clone()];
    }
    let named = names.iter().map(|name| {
        let mut part = part.clone();
        part["annotations"] = json!({
            documents::FULL_NAME: name.to_string(),
            documents::NAME: name.tag().unwrap_or_default(),
        });
        part
    });
    named.collect()
}

/// Its media type, and the blobs of its layers.
fn manifest(bytes: &[u8]) -> Result<(String, Vec<Digest>)> {
    let said: serde_json::Value =
        serde_json::from_slice(bytes).context("read an image manifest")?;
    let media_type = said["mediaType"].as_str().unwrap_or(documents::MANIFEST);
    match documents::document(media_type, bytes)? {
        Document::Manifest { layers, .. } => Ok((
            media_type.to_owned(),
            layers.iter().map(|layer| layer.digest).collect(),
        )),
        Document::Index(_) => anyhow::bail!("an index where a manifest should be"),
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A tar archive of files that are nobody's and of no time.
struct Archive<'a> {
    target: &'a mut dyn Write,
}

impl Archive<'_> {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(name, tar::EntryType::Directory, 0o755, 0)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file(name, bytes.len() as u64, bytes)
    }

    fn file(&mut self, name: &str, size: u64, data: impl Read) -> Result<()> {
        self.header(name, tar::EntryType::Regular, 0o644, size)?;
        let count = io::copy(&mut data.take(size), self.target).context("write the archive")?;
        ensure!(
            count == size,
            "'{name}' has {count} bytes instead of {size}"
        );
        let padding = size.next_multiple_of(512) - size;
        self.zeros(padding)
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, mode: u32, size: u64) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.target
            .write_all(header.as_bytes())
            .context("write the archive")
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        io::copy(&mut io::repeat(0).take(count), self.target).context("write the archive")?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.zeros(1024)?;
        self.target.flush().context("write the archive")
    }
}
