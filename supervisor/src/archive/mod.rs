//! Tar archives, read once from front to back: which entries there are, and the bytes of each.
//!
//! Used by the daemon for archives of images, and by the confined process for layers: both see the same entries, so nothing can hide from
//! one of them (CVE-2025-62518); and by `copy`. What Go's archive/tar takes is taken: ustar, GNU, PAX with size, names, times and extended attributes, and the
//! sparse files of both. Where a PAX size and that of the header differ, the former counts. No file is made here.

mod pax;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod properties;
mod sparse;
#[cfg(test)]
mod tests;
mod write;

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use properties::ENTRIES;
pub(crate) use sparse::Segment;
pub(crate) use write::Writer;

const BLOCK: usize = 512;
/// Of a name or the target of a link.
pub(crate) const PATH_LIMIT: usize = 4096;
/// Of a PAX header: extended attributes have 64 KiB each.
const PAX_LIMIT: u64 = 1 << 20;
const ENTRY_LIMIT: u64 = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Character,
    Block,
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Of the file, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the bytes of a sparse file belong.
    pub(crate) segments: Option<Vec<Segment>>,
}

pub(crate) struct Reader<R> {
    inner: R,
    /// Bytes of the current entry that were not read yet.
    left: u64,
    padding: u64,
    entries: u64,
    ended: bool,
}

/// What headers before that of an entry say about it.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<pax::Records>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
            entries: 0,
            ended: false,
        }
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// The next entry, whose bytes are then read from `self`. What was left of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut before = Before::default();
        while let Some(header) = self.header()? {
            self.entries += 1;
            ensure!(
                self.entries <= ENTRY_LIMIT,
                "the archive has more than {ENTRY_LIMIT} headers"
            );
            match type_of(&header) {
                b'L' => before.path = Some(self.long_name()?),
                b'K' => before.link = Some(self.long_name()?),
                b'x' => {
                    let bytes = self.contents(PAX_LIMIT, "a PAX header")?;
                    before.pax = Some(pax::Records::parse(&bytes)?);
                }
                // Says something about all that follows, which Go does not apply either.
                b'g' => {}
                _ => return self.entry(&header, before).map(Some),
            }
        }
        ensure!(
            before.path.is_none() && before.link.is_none() && before.pax.is_none(),
            "the archive ends where an entry should be"
        );
        Ok(None)
    }

    /// Reads to the end of what carries the archive, and gives it back.
    pub(crate) fn finish(mut self) -> Result<R> {
        io::copy(&mut self.inner, &mut io::sink()).context("read behind the archive")?;
        Ok(self.inner)
    }

    /// The next header; the position is then that of its data.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        if self.ended {
            return Ok(None);
        }
        self.skip()?;
        let Some(mut block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            let next = self.block()?;
            ensure!(
                next.is_none_or(|next| next.iter().all(|byte| *byte == 0)),
                "the archive goes on behind its end"
            );
            self.ended = true;
            return Ok(None);
        }
        check_sum(&block, tar::Header::from_byte_slice(&block))?;
        fill_in(&mut block);
        let header = tar::Header::from_byte_slice(&block).clone();
        let kind = type_of(&header);
        // As Go has it: these have no data, whatever they say.
        let size = match kind {
            b'1'..=b'6' => 0,
            _ => header.entry_size().context("the size of an entry")?,
        };
        self.data(size)?;
        Ok(Some(header))
    }

    /// The entry's data is so long.
    fn data(&mut self, size: u64) -> Result<()> {
        ensure!(size < 1 << 62, "an entry of {size} bytes");
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn entry(&mut self, header: &tar::Header, before: Before) -> Result<Entry> {
        let pax = before.pax.unwrap_or_default();
        // Where an archive has both names, that of GNU counts, as in Go.
        let path = before
            .path
            .or(pax.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let name = String::from_utf8_lossy(&path).into_owned();
        let of = || format!("entry '{name}'");
        let type_byte = type_of(header);
        let kind = kind(type_byte, &path).with_context(of)?;
        match (kind, pax.size) {
            (Kind::File, Some(size)) => self.data(size).with_context(of)?,
            // In old archives, a directory is one by the end of its name, whichever header that is in: it has no data either.
            (Kind::Directory, _) => self.data(0)?,
            _ => {}
        }
        let link = before
            .link
            .or(pax.link)
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let device = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
        let mtime = match pax.mtime {
            Some(time) => time,
            None => (i64::try_from(header.mtime().with_context(of)?)?, 0),
        };
        let mut entry = Entry {
            path,
            link: link.unwrap_or_default(),
            kind,
            mode: header.mode().with_context(of)? & 0o7777,
            uid: id(pax.uid.map_or_else(|| header.uid(), Ok)).with_context(of)?,
            gid: id(pax.gid.map_or_else(|| header.gid(), Ok)).with_context(of)?,
            mtime,
            device: (0, 0),
            size: self.left,
            xattrs: pax.xattrs,
            segments: None,
        };
        if matches!(kind, Kind::Character | Kind::Block) {
            entry.device = (
                device(header.device_major()).with_context(of)?,
                device(header.device_minor()).with_context(of)?,
            );
        }
        if kind == Kind::File {
            self.sparse(header, pax.sparse, &mut entry)
                .with_context(of)?;
        }
        ensure!(
            entry.path.len() <= PATH_LIMIT && entry.link.len() <= PATH_LIMIT,
            "a path of more than {PATH_LIMIT} bytes: '{}...'",
            String::from_utf8_lossy(&entry.path[..entry.path.len().min(64)])
        );
        ensure!(
            !entry.path.contains(&0) && !entry.link.contains(&0),
            "{} has a NUL in its path",
            of()
        );
        Ok(entry)
    }

    /// What a file with holes is made of, in the four ways of GNU tar.
    fn sparse(&mut self, header: &tar::Header, pax: pax::Sparse, entry: &mut Entry) -> Result<()> {
        let segments = if type_of(header) == b'S' {
            let (size, segments) = self.old_sparse(header)?;
            entry.size = size;
            segments
        } else if pax.major == Some(1) {
            entry.size = pax.size.context("a sparse file without its size")?;
            sparse::map_in_data(self)?
        } else if let Some(segments) = pax.segments {
            entry.size = pax.size.context("a sparse file without its size")?;
            segments
        } else {
            return Ok(());
        };
        if let Some(name) = pax.name {
            entry.path = name;
        }
        sparse::check(&segments, entry.size, self.left)?;
        entry.segments = Some(segments);
        Ok(())
    }

    /// The map in and behind a header of GNU's own format.
    fn old_sparse(&mut self, header: &tar::Header) -> Result<(u64, Vec<Segment>)> {
        let gnu = header.as_gnu().context("a sparse file that is not GNU's")?;
        let size = gnu.real_size()?;
        let mut segments = Vec::new();
        let mut take = |parts: &[tar::GnuSparseHeader]| -> Result<()> {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                sparse::push(&mut segments, part.offset()?, part.length()?)?;
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.context("the archive ends in a header")?;
            let mut extension = tar::GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            take(&extension.sparse)?;
            more = extension.is_extended();
        }
        Ok((size, segments))
    }

    fn long_name(&mut self) -> Result<Vec<u8>> {
        let mut name = self.contents(PATH_LIMIT as u64 + 1, "a name")?;
        name.truncate(
            name.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len()),
        );
        Ok(name)
    }

    /// All of the current data.
    pub(crate) fn contents(&mut self, limit: u64, what: &str) -> Result<Vec<u8>> {
        ensure!(
            self.left <= limit,
            "{what} of {} bytes; at most {limit} are allowed",
            self.left
        );
        let mut bytes = vec![0; usize::try_from(self.left)?];
        self.read_exact(&mut bytes)
            .with_context(|| format!("read {what}"))?;
        Ok(bytes)
    }

    fn skip(&mut self) -> Result<()> {
        let count = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.inner).take(count), &mut io::sink())?;
        // Some write no padding at the very end.
        ensure!(
            skipped == count || count - skipped < BLOCK as u64,
            "the archive ends in an entry"
        );
        Ok(())
    }

    /// The next block, or None at the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => bail!("the archive ends in a header"),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read the archive"),
            }
        }
        Ok(Some(block))
    }
}

/// The data of the current entry, as it is stored.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in an entry",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// As it is there: `tar` does not tell the NUL of old archives from a file's.
fn type_of(header: &tar::Header) -> u8 {
    header.as_bytes()[156]
}

fn kind(byte: u8, path: &[u8]) -> Result<Kind> {
    Ok(match byte {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => bail!("of an unknown type, {other:#04x}"),
    })
}

fn id(id: io::Result<u64>) -> Result<u32> {
    u32::try_from(id?)
        .ok()
        .filter(|id| *id != u32::MAX)
        .context("its owner is no id of Linux")
}

/// Numbers that are left blank are 0, as in Go.
fn fill_in(block: &mut [u8; BLOCK]) {
    for field in [
        100..108,
        108..116,
        116..124,
        124..136,
        136..148,
        329..337,
        337..345,
    ] {
        let field = &mut block[field];
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            field.fill(b'0');
        }
    }
}

/// Old programs summed up signed bytes.
fn check_sum(block: &[u8; BLOCK], header: &tar::Header) -> Result<()> {
    let said = header
        .cksum()
        // That error has the field, which may be a line of a file that is none of the reader's business.
        .ok()
        .context("a header without a checksum: this is no tar archive, or it is damaged")?;
    let bytes = |index: usize| {
        if (148..156).contains(&index) {
            b' '
        } else {
            block[index]
        }
    };
    let unsigned: u32 = (0..BLOCK).map(|index| u32::from(bytes(index))).sum();
    let signed: i64 = (0..BLOCK).map(|index| i64::from(bytes(index) as i8)).sum();
    ensure!(
        unsigned == said || signed == i64::from(said),
        "a header has the wrong checksum: this is no tar archive, or it is damaged"
    );
    Ok(())
}
