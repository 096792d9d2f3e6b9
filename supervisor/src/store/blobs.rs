//! Blobs: content by its digest, and ingests, which become blobs.
//!
//! One writer at a time for each reference; a second one waits. An ingest that was left is resumed by the next with its reference: what is there is hashed again, and
//! goes on from there.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};

use super::Store;
use super::operation::{ONCE, Operation};
use super::refusal::Refusal;
use super::rows::Graph;
use crate::digest::{Digest, Hashing};
use crate::lock::lock;

impl Store {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn let_write(&self, reference: &str) {
        lock(&self.writers).remove(reference);
        self.written.notify_all();
    }

    pub(super) fn ingest_path(&self, reference: &str) -> PathBuf {
        self.root
            .join("ingests")
            .join(Digest::of(reference.as_bytes()).hex())
    }

    /// A blob's file, if it is there and has the size that it had.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.open_blob_of(&self.read()?, digest)
    }

    fn open_blob_of(&self, graph: &Graph, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        let what = || format!("open blob {digest}");
        // Somebody may have put a fifo there, which nobody is to wait for.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(&path).with_context(what)?;
        let metadata = file.metadata().with_context(what)?;
        ensure!(
            metadata.is_file(),
            "blob {digest} is no regular file: it is damaged"
        );
        let size = metadata.len();
        if let Some(row) = graph.blobs.get(&digest.to_string()) {
            ensure!(
                row.size == size,
                "blob {digest} has {size} bytes instead of {}: it is damaged",
                row.size
            );
        }
        Ok(file)
    }

    /// All of a document, which must be what its digest says.
    pub(crate) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        self.read_blob_of(&self.read()?, digest, limit)
    }

    /// The same for who has read the rows, or is about to write some.
    pub(super) fn read_blob_of(
        &self,
        graph: &Graph,
        digest: &Digest,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_blob_of(graph, digest)?;
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read blob {digest}"))?;
        if bytes.len() as u64 > limit {
            return Err(Refusal::invalid(format!(
                "the document {digest} has more than {limit} bytes"
            ))
            .into());
        }
        ensure!(Digest::of(&bytes) == *digest, "blob {digest} is damaged");
        Ok(bytes)
    }
}

/// Content on its way in.
pub(crate) struct Ingest<'a> {
    operation: &'a Operation<'a>,
    reference: String,
    directory: PathBuf,
    writer: Hashing<File>,
}

impl<'a> Ingest<'a> {
    pub(super) fn open(
        operation: &'a Operation<'a>,
        reference: &str,
        directory: PathBuf,
    ) -> Result<Self> {
        let store = operation.store();
        let busy = |writers: &mut Writers| writers.contains(reference);
        let writers = store.written.wait_while(lock(&store.writers), busy);
        let mut writers = writers.unwrap_or_else(PoisonError::into_inner);
        writers.insert(reference.to_owned());
        drop(writers);
        let writer = resume(&directory);
        let writer = writer
            .inspect_err(|_| store.let_write(reference))
            .with_context(|| format!("write '{reference}'"))?;
        Ok(Self {
            operation,
            reference: reference.to_owned(),
            directory,
            writer,
        })
    }

    /// How many bytes are there already.
    pub(crate) fn offset(&self) -> u64 {
        self.writer.count()
    }

    /// Makes it a blob, if it is what it should be. It is on the disk when the operation is.
    pub(crate) fn commit(self, size: Option<u64>, digest: Option<Digest>) -> Result<(Digest, u64)> {
        let store = self.operation.store();
        let data = self.directory.join("data");
        let (found, count) = self.writer.so_far();
        let outcome = (|| {
            if size.is_some_and(|size| size != count) {
                return Err(Refusal::invalid(format!(
                    "'{}' has {count} bytes, and should have {}",
                    self.reference,
                    size.unwrap_or_default()
                ))
                .into());
            }
            if let Some(digest) = digest.filter(|digest| *digest != found) {
                return Err(Refusal::invalid(format!(
                    "'{}' is {found}, and should be {digest}",
                    self.reference
                ))
                .into());
            }
            let path = store.blob_path(&found);
            let _files = lock(&store.files);
            // One that is there already is replaced too: it may be damaged, and this one was just looked at. But what an image counts on must
            // not become a file whose bytes are not on the disk yet.
            if path.exists() {
                fs::File::open(&data)?.sync_data()?;
            }
            fs::set_permissions(&data, fs::Permissions::from_mode(0o444))?;
            fs::rename(&data, &path).with_context(|| format!("rename to {}", path.display()))?;
            self.operation.hold_blob(found, count)
        })();
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("remove {}", self.directory.display()))?;
        outcome.map(|()| (found, count))
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(buffer);
        // What is read at the same time has errors of its own.
        written.map_err(|error| Error::new(error.kind(), format!("write to the store: {error}")))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        if self.reference.starts_with(ONCE) {
            // After a commit it is gone already; otherwise it goes at the next start, should this fail.
            fs::remove_dir_all(&self.directory).ok();
        }
        self.operation.store().let_write(&self.reference);
    }
}

fn resume(directory: &PathBuf) -> Result<Hashing<File>> {
    fs::create_dir_all(directory)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NOFOLLOW)
        .open(directory.join("data"))?;
    let end = file.seek(SeekFrom::End(0))?;
    if end == 0 {
        return Ok(Hashing::new(file));
    }
    file.rewind()?;
    let mut hashing = Hashing::new(file);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing)
}

/// References that somebody writes to.
pub(super) type Writers = HashSet<String>;
