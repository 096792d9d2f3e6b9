//! Writes tar archives that [`super::Reader`], GNU tar and Go's archive/tar read alike: ustar headers, with PAX records for what has no
//! room in them. The same entries give the same bytes.
//!
//! Used by the confined process, and by the client for files of its user's.

use std::io::{self, Write};

use anyhow::{Context, Result, ensure};

use super::{BLOCK, Entry, Kind, Segment};

/// What seven octal digits can say, and eleven.
const SMALL: u64 = 0o7_777_777;
const LARGE: u64 = 0o77_777_777_777;
/// Of a name in a header.
const NAME: usize = 100;

pub(crate) struct Writer<W: Write> {
    inner: W,
    /// Bytes of the current entry that are yet to come.
    left: u64,
    padding: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
        }
    }

    /// The bytes of a file are written after it: all, or those of its segments.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        ensure!(self.left == 0, "an entry has fewer bytes than it should");
        let map = entry.segments.as_deref().map(sparse_map);
        let stored = match (entry.kind, &entry.segments) {
            (Kind::File, None) => entry.size,
            (Kind::File, Some(segments)) => segments.iter().map(|segment| segment.length).sum(),
            _ => 0,
        };
        let in_data = stored + map.as_ref().map_or(0, |map| map.len() as u64);
        let records = records(entry, in_data)?;
        if !records.is_empty() {
            let header = Entry {
                path: b"PaxHeaders".to_vec(),
                link: Vec::new(),
                kind: Kind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                device: (0, 0),
                size: 0,
                xattrs: Vec::new(),
                segments: None,
            };
            self.header(&header, b'x', records.len() as u64)?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.header(entry, type_of(entry.kind), in_data)?;
        (self.left, self.padding) = (stored, in_data.next_multiple_of(BLOCK as u64) - in_data);
        if let Some(map) = map {
            self.put(&map)?;
        }
        if stored == 0 {
            self.end_entry()?;
        }
        Ok(())
    }

    /// More of the current entry's bytes.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.context("an entry has more bytes than it should")?;
        self.put(bytes)?;
        if self.left == 0 {
            self.end_entry()?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        ensure!(self.left == 0, "an entry has fewer bytes than it should");
        self.put(&[0; 2 * BLOCK])?;
        self.inner.flush().context("write the archive")?;
        Ok(self.inner)
    }

    fn header(&mut self, entry: &Entry, kind: u8, size: u64) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        let path = shown(entry);
        bytes[..path.len().min(NAME)].copy_from_slice(&path[..path.len().min(NAME)]);
        let link = &entry.link[..entry.link.len().min(NAME)];
        bytes[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(entry.mode);
        header.set_uid(u64::from(entry.uid).min(SMALL));
        header.set_gid(u64::from(entry.gid).min(SMALL));
        header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0).min(LARGE));
        header.set_size(size.min(LARGE));
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            let fits = u64::from(entry.device.0.max(entry.device.1)) <= SMALL;
            ensure!(fits, "a device number that tar cannot say");
            header.set_device_major(entry.device.0)?;
            header.set_device_minor(entry.device.1)?;
        }
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn end_entry(&mut self) -> Result<()> {
        let padding = usize::try_from(std::mem::take(&mut self.padding))?;
        self.put(&[0; BLOCK][..padding])
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.put(&[0; BLOCK][..usize::try_from(padding)?])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written: io::Result<()> = self.inner.write_all(bytes);
        written.context("write the archive")
    }
}

fn type_of(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Character => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// The path in the header. What is cut must not look like a directory's.
fn shown(entry: &Entry) -> Vec<u8> {
    let mut path = entry.path.clone();
    if entry.segments.is_some() {
        path.splice(0..0, *b"GNUSparseFile.0/");
    }
    path.truncate(NAME);
    if entry.kind != Kind::Directory {
        while path.last() == Some(&b'/') {
            path.pop();
        }
    } else if path.len() < NAME && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path
}

/// What the header has no room for.
fn records(entry: &Entry, stored: u64) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut say = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    let text = |number: u64| number.to_string().into_bytes();
    if entry.segments.is_some() {
        say(b"GNU.sparse.major", b"1");
        say(b"GNU.sparse.minor", b"0");
        say(b"GNU.sparse.name", &entry.path);
        say(b"GNU.sparse.realsize", &text(entry.size));
    } else if entry.path.len() >= NAME {
        let end: &[u8] = match entry.kind {
            Kind::Directory if !entry.path.ends_with(b"/") => b"/",
            _ => b"",
        };
        say(b"path", &[&entry.path, end].concat());
    }
    if entry.link.len() > NAME {
        say(b"linkpath", &entry.link);
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > SMALL {
            say(key, &text(id.into()));
        }
    }
    if stored > LARGE {
        say(b"size", &text(stored));
    }
    if entry.mtime.1 != 0 || entry.mtime.0 < 0 || entry.mtime.0.cast_unsigned() > LARGE {
        say(b"mtime", time(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        // A key ends with the first of these.
        ensure!(
            !name.contains(&b'='),
            "tar cannot say the attribute '{}'",
            String::from_utf8_lossy(name)
        );
        say(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    Ok(records)
}

/// Its length is a part of what is counted.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction. Before 1970 the fraction goes the other way.
fn time((seconds, nanoseconds): (i64, u32)) -> String {
    let (sign, whole, fraction) = if seconds >= 0 {
        ("", seconds.cast_unsigned(), nanoseconds)
    } else if nanoseconds == 0 {
        ("-", seconds.unsigned_abs(), 0)
    } else {
        ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Of GNU's format 1.0: the map in front of the bytes, a number a line, padded to a block.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for segment in segments {
        map.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::Reader;
    use super::*;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o640,
            uid: 1000,
            gid: 100,
            mtime: (1_000_000_000, 0),
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            segments: None,
        }
    }

    fn there_and_back(entry: &Entry, data: &[u8]) {
        let mut writer = Writer::new(Vec::new());
        writer.entry(entry).unwrap();
        if !data.is_empty() {
            writer.data(data).unwrap();
        }
        let last = self::entry(b"last", Kind::File);
        writer.entry(&last).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        let mut read = reader.next().unwrap().unwrap();
        if read.kind == Kind::Directory {
            assert_eq!(read.path.pop(), Some(b'/'));
        }
        assert_eq!(read, *entry);
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        assert_eq!(found, data);
        assert_eq!(reader.next().unwrap().unwrap(), last);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn what_is_written_is_read() {
        let file = Entry {
            size: 3,
            ..entry(b"a/file", Kind::File)
        };
        there_and_back(&file, b"abc");
        there_and_back(&entry(b"a", Kind::Directory), b"");
        let link = |kind, target: &[u8]| Entry {
            link: target.to_vec(),
            ..entry(b"link", kind)
        };
        there_and_back(&link(Kind::Symlink, b"../x"), b"");
        there_and_back(&link(Kind::HardLink, &[b'y'; 300]), b"");
        there_and_back(&entry(b"fifo", Kind::Fifo), b"");
        let device = Entry {
            device: (259, 1_000_000),
            ..entry(b"disk", Kind::Block)
        };
        there_and_back(&device, b"");
    }

    #[test]
    fn what_has_no_room_in_a_header_is_said_before_it() {
        for length in [98, 99, 100, 101, 155, 4000] {
            there_and_back(&entry(&vec![b'n'; length], Kind::File), b"");
            there_and_back(&entry(&vec![b'n'; length], Kind::Directory), b"");
        }
        let mut path = vec![b'd'; 99];
        path.extend_from_slice(b"/file");
        there_and_back(&entry(&path, Kind::File), b"");
        for mtime in [(5, 1), (-1, 0), (-2, 500_000_000), (LARGE as i64 + 1, 7)] {
            let odd = Entry {
                mtime,
                uid: u32::MAX - 1,
                gid: 3_000_000,
                xattrs: vec![
                    (b"security.capability".to_vec(), vec![0, b'\n', 255, b'=']),
                    (b"user.empty".to_vec(), vec![]),
                ],
                ..entry("n\u{e4}me".as_bytes(), Kind::File)
            };
            there_and_back(&odd, b"");
        }
    }

    #[test]
    fn a_file_with_holes_keeps_them() {
        let segment = |offset, length| Segment { offset, length };
        let sparse = Entry {
            size: 1 << 40,
            segments: Some(vec![segment(0, 3), segment(1 << 30, 600)]),
            ..entry(b"sparse", Kind::File)
        };
        there_and_back(&sparse, &[7; 603]);
        let nothing = Entry {
            segments: Some(vec![]),
            ..sparse
        };
        there_and_back(&nothing, b"");
    }

    #[test]
    fn too_few_or_too_many_bytes_are_noticed() {
        let file = Entry {
            size: 3,
            ..entry(b"file", Kind::File)
        };
        let mut writer = Writer::new(Vec::new());
        writer.entry(&file).unwrap();
        assert!(writer.data(b"abcd").is_err());
        let mut writer = Writer::new(Vec::new());
        writer.entry(&file).unwrap();
        writer.data(b"ab").unwrap();
        assert!(writer.finish().is_err());
    }
}
