//! What an archive or a directory holds, brought into the store: content by its digest, and which name had which.
//!
//! An archive is read from front to back, once its kind is known. Names in it are keys of a map and never paths of the host's.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{DOCUMENT_LIMIT, documents};
use crate::archive::{Entry, Kind, Reader};
use crate::digest::Digest;
use crate::layer::decompressed;
use crate::store::{Operation, Progress, Refusal};

/// Of files in an archive: legacy ones have three for each layer.
const FILE_LIMIT: usize = 100_000;
/// So much of an archive is looked at to find out what it is.
pub(super) const PEEK: usize = 64 << 10;
const BUFFER: usize = 256 << 10;
/// So many bytes between two words about progress.
const STEP: u64 = 4 << 20;

/// What the import makes images of.
pub(super) struct Contents {
    /// Without names in it if the source is a directory.
    files: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
    /// `index.json` and `manifest.json`.
    pub(super) documents: BTreeMap<String, Vec<u8>>,
    directory: Option<PathBuf>,
}

impl Contents {
    pub(super) fn of_directory(path: &Path) -> Result<Self> {
        let mut documents = BTreeMap::new();
        for name in ["oci-layout", "index.json"] {
            let file = path.join(name);
            let mut bytes = Vec::new();
            File::open(&file)
                .and_then(|file| file.take(DOCUMENT_LIMIT).read_to_end(&mut bytes))
                .with_context(|| format!("read {}", file.display()))?;
            documents.insert(name.to_owned(), bytes);
        }
        Ok(Self {
            files: HashMap::new(),
            links: HashMap::new(),
            documents,
            directory: Some(path.to_owned()),
        })
    }

    pub(super) fn of_archive(
        operation: &Operation<'_>,
        archive: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let mut contents = Self {
            files: HashMap::new(),
            links: HashMap::new(),
            documents: BTreeMap::new(),
            directory: None,
        };
        let mut reader = Reader::new(io::BufReader::with_capacity(
            BUFFER,
            decompressed(archive).context("read the archive")?,
        ));
        let mut progress = Steps::new(progress);
        while let Some(entry) = reader.next()? {
            contents.take(operation, &entry, &mut reader, &mut progress)?;
        }
        // Whoever sends it is not to find that nobody reads the end.
        reader.finish()?;
        Ok(contents)
    }

    fn take<R: Read>(
        &mut self,
        operation: &Operation<'_>,
        entry: &Entry,
        data: &mut Reader<R>,
        progress: &mut Steps<'_>,
    ) -> Result<()> {
        let name = normal(&entry.path);
        ensure!(
            self.files.len() + self.links.len() < FILE_LIMIT,
            "an archive of more than {FILE_LIMIT} files"
        );
        match entry.kind {
            Kind::File if entry.segments.is_some() => {
                return Err(
                    Refusal::invalid(format!("'{name}' of the archive is a sparse file")).into(),
                );
            }
            Kind::File => {}
            // From the link's own directory, and from the root.
            Kind::Symlink => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = format!("{directory}/{}", String::from_utf8_lossy(&entry.link));
                self.links.insert(name, normal(target.as_bytes()));
                return Ok(());
            }
            Kind::HardLink => {
                self.links.insert(name, normal(&entry.link));
                return Ok(());
            }
            _ => return Ok(()),
        }
        let last = name.rsplit('/').next().unwrap_or_default();
        if matches!(name.as_str(), "oci-layout" | "index.json" | "manifest.json") {
            let bytes = data.contents(DOCUMENT_LIMIT, &name)?;
            self.documents.insert(name, bytes);
        } else if matches!(last, "VERSION" | "json" | "repositories") {
            // What Docker wrote before 1.10, and still does for such readers.
        } else {
            // What is called by its digest must have it.
            let expected = name
                .strip_prefix("blobs/sha256/")
                .map(|hex| format!("sha256:{hex}").parse())
                .transpose()?;
            let found = ingest(operation, data, expected, Some(entry.size), progress)
                .with_context(|| format!("read '{name}' of the archive"))?;
            self.files.insert(name, found);
        }
        Ok(())
    }

    /// The content that a name in the archive has, through links too.
    pub(super) fn file(&self, name: &str) -> Result<(Digest, u64)> {
        let mut name = normal(name.as_bytes());
        for _ in 0..8 {
            if let Some(found) = self.files.get(&name) {
                return Ok(*found);
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(Refusal::invalid(format!("the archive has no file '{name}'")).into())
    }

    /// Sees to it that content is in the store; false if it is nowhere.
    pub(super) fn obtain(
        &self,
        operation: &Operation<'_>,
        digest: &Digest,
        size: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool> {
        if operation.hold_existing(digest)? {
            let blob = operation.store().open_blob(digest)?;
            let stored = blob.metadata().context("read a blob")?.len();
            ensure!(
                stored == size,
                Refusal::invalid(format!(
                    "{digest} has {stored} bytes, and should have {size}"
                ))
            );
            return Ok(true);
        }
        let Some(directory) = &self.directory else {
            return Ok(false);
        };
        let path = directory.join("blobs/sha256").join(digest.hex());
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.with_context(|| format!("open {}", path.display()))?,
        };
        ensure!(
            file.metadata().is_ok_and(|metadata| metadata.is_file()),
            "{} is no file",
            path.display()
        );
        let mut ingest = operation.ingest(&digest.to_string())?;
        file.seek(io::SeekFrom::Start(ingest.offset()))
            .and_then(|_| {
                let mut file = operation.reading(file);
                copy(&mut file, &mut ingest, &mut Steps::new(progress))
            })
            .with_context(|| format!("read {}", path.display()))?;
        ingest.commit(Some(size), Some(*digest))?;
        Ok(true)
    }
}

/// Tells of progress now and then.
pub(super) struct Steps<'a> {
    progress: &'a mut dyn FnMut(Progress),
    done: u64,
    said: u64,
}

impl<'a> Steps<'a> {
    pub(super) fn new(progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            progress,
            done: 0,
            said: 0,
        }
    }

    fn add(&mut self, count: usize) {
        self.done += count as u64;
        if self.done >= self.said + STEP {
            self.said = self.done;
            (self.progress)(Progress {
                layer: None,
                done: self.done,
                total: 0,
            });
        }
    }
}

/// All of `data` becomes a blob.
pub(super) fn ingest(
    operation: &Operation<'_>,
    data: &mut impl Read,
    digest: Option<Digest>,
    size: Option<u64>,
    progress: &mut Steps<'_>,
) -> Result<(Digest, u64)> {
    let mut ingest = operation.ingest_once()?;
    copy(data, &mut ingest, progress)?;
    ingest.commit(size, digest)
}

fn copy(from: &mut impl Read, to: &mut impl Write, progress: &mut Steps<'_>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                progress.add(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Brings bytes in that were made here.
pub(super) fn ingest_bytes(operation: &Operation<'_>, bytes: &[u8]) -> Result<(Digest, u64)> {
    ingest(
        operation,
        &mut &bytes[..],
        None,
        None,
        &mut Steps::new(&mut |_| {}),
    )
}

/// A name as its archive's root sees it.
fn normal(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What an archive is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Images,
    /// A root file system, or what is no archive.
    Files,
    /// But perhaps its own root.
    Nothing,
    /// What there was of it did not say.
    Unknown,
}

/// By the first name in it, if that is one of images. Docker's archives may have any names before `manifest.json`, which is often the last; but
/// none of them is in a directory of a directory, and all root file systems soon have such names.
pub(super) fn holds(archive: impl Read, complete: bool) -> Holds {
    let cut = Cell::new(false);
    let until = Until {
        inner: archive,
        over: &cut,
    };
    let Ok(stream) = decompressed(until) else {
        return Holds::Files;
    };
    let mut reader = Reader::new(stream);
    let mut holds = Holds::Nothing;
    let found = loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break holds,
            Err(_) => break Holds::Files,
        };
        let name = normal(&entry.path);
        if name.is_empty() && entry.kind == Kind::Directory {
            continue;
        }
        if holds == Holds::Nothing && begins_images(&name) {
            return Holds::Images;
        }
        holds = Holds::Files;
        if name == "manifest.json" {
            match reader.contents(DOCUMENT_LIMIT, &name) {
                Ok(bytes) if documents::is_saved(&bytes) => return Holds::Images,
                _ => break Holds::Files,
            }
        }
        if name.split('/').count() > 2 {
            return Holds::Files;
        }
    };
    match cut.get() && !complete {
        true => Holds::Unknown,
        false => found,
    }
}

fn begins_images(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    let is_digest =
        |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match first {
        "blobs" | "oci-layout" | "index.json" | "manifest.json" | "repositories" => true,
        _ => {
            // What go-containerregistry writes begins with `sha256:` and the configuration's digest.
            let name = first.strip_prefix("sha256:").unwrap_or(first);
            is_digest(name.split('.').next().unwrap_or_default())
        }
    }
}

/// Notes that somebody wanted more than there is.
struct Until<'a, R> {
    inner: R,
    over: &'a Cell<bool>,
}

impl<R: Read> Read for Until<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.over.set(self.over.get() || count == 0);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_seen_from_the_archives_root() {
        for (name, expected) in [
            ("./a//b", "a/b"),
            ("/a", "a"),
            ("x/../../y", "y"),
            ("x/../blobs/sha256/0", "blobs/sha256/0"),
        ] {
            assert_eq!(normal(name.as_bytes()), expected);
        }
    }

    #[test]
    fn an_archive_of_images_is_known_by_its_first_names() {
        let archive = |names: &[&str]| {
            let mut builder = tar::Builder::new(Vec::new());
            for name in names {
                let mut header = tar::Header::new_ustar();
                header.set_path(name).unwrap();
                if name.ends_with('/') {
                    header.set_entry_type(tar::EntryType::Directory);
                }
                header.set_size(0);
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                header.set_cksum();
                builder.append(&header, io::empty()).unwrap();
            }
            builder.into_inner().unwrap()
        };
        let digits = "0".repeat(64);
        for (names, expected) in [
            (vec!["./", "./blobs/"], Holds::Images),
            (vec!["manifest.json"], Holds::Images),
            (vec![&format!("{digits}/")[..]], Holds::Images),
            (vec![&format!("{digits}.json")[..]], Holds::Images),
            (vec![&format!("sha256:{digits}")[..]], Holds::Images),
            (vec!["./", "bin/"], Holds::Files),
            // It is none of Docker's.
            (vec!["./", "bin/", "manifest.json"], Holds::Files),
            (vec!["./", "./"], Holds::Nothing),
            (vec![], Holds::Nothing),
        ] {
            let archive = archive(&names);
            assert_eq!(holds(&archive[..], true), expected, "{names:?}");
            // Archives end before their last bytes.
            assert_eq!(holds(&archive[..], false), expected, "{names:?}");
        }
        let deep = archive(&["etc/", "etc/x/y"]);
        let flat = archive(&["l/", "l/layer.tar"]);
        assert_eq!(holds(&deep[..deep.len() - 1024], false), Holds::Files);
        assert_eq!(holds(&flat[..flat.len() - 1024], false), Holds::Unknown);
        assert_eq!(holds(&b"not a tar archive"[..], true), Holds::Files);
        assert_eq!(holds(&[b'x'; PEEK][..], false), Holds::Files);
        assert_eq!(holds(&[0; PEEK][..], false), Holds::Nothing);
        assert_eq!(holds(&b""[..], true), Holds::Nothing);
    }
}
