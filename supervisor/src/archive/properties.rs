//! Archives for unit tests and for `fuzz`, and what is true of each entry of any archive: unpacking relies on it, and what is written again is the same.

use super::{BLOCK, Entry, Kind, PATH_LIMIT, Reader, Writer};
use crate::fuzz::Target;

pub(crate) const ENTRIES: Target = Target::new("entries", seeds, |bytes| check(bytes) > 0);

/// A header with this type and size, and the data behind it.
pub(crate) fn part(kind: u8, name: &str, data: &[u8]) -> Vec<u8> {
    linked(kind, name, "", data)
}

/// The same with the target of a link.
pub(crate) fn linked(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[156] = kind;
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    for set in [tar::Header::set_device_major, tar::Header::set_device_minor] {
        set(&mut header, 0).expect("it has room for it");
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

pub(crate) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        data.push_str(&format!("{length} {key}={value}\n"));
    }
    part(b'x', "pax", data.as_bytes())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let sparse = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "4096"),
    ];
    let mut map = b"1\n512\n4\n".to_vec();
    map.resize(BLOCK, 0);
    map.extend_from_slice(b"data");
    let of_all = [
        ("path", "p"),
        ("size", "4"),
        ("uid", "7"),
        ("mtime", "1.5"),
        ("SCHILY.xattr.user.a", "b"),
    ];
    let old_map = [
        ("GNU.sparse.size", "4096"),
        ("GNU.sparse.map", "0,2,1024,2"),
    ];
    let seeds: [&[Vec<u8>]; 5] = [
        &[
            part(b'5', "d/", b""),
            part(b'0', "d/f", b"text"),
            part(0, "old/", b""),
            vec![0; 1024],
        ],
        &[
            part(b'L', "././@LongLink", b"a/long/name\0"),
            part(b'K', "././@LongLink", b"a/target\0"),
            part(b'2', "x", b""),
            part(b'0', "a/target", b""),
            linked(b'1', "y", "a/target", b""),
        ],
        &[
            pax(&of_all),
            part(b'0', "x", b"text"),
            part(b'3', "null", b""),
        ],
        &[pax(&sparse), part(b'0', "GNUSparseFile.0/s", &map)],
        &[pax(&old_map), part(b'0', "s", b"data")],
    ];
    seeds.iter().map(|parts| parts.concat()).collect()
}

/// Headers with the checksum that they should have, so that what is wrong with them is found further on.
pub(crate) fn summed_up(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    bytes
}

/// The number of entries.
fn check(bytes: &[u8]) -> usize {
    let bytes = summed_up(bytes);
    let mut reader = Reader::new(&bytes[..]);
    let mut count = 0;
    while let Ok(Some(entry)) = reader.next() {
        within_limits(&entry, reader.left);
        count += 1;
        // No header is read twice.
        assert!(count <= bytes.len() / BLOCK);
        let Ok(data) = reader.contents(bytes.len() as u64, "data") else {
            break;
        };
        written_again(entry, &data);
    }
    count
}

/// `stored` bytes of it are in the archive.
fn within_limits(entry: &Entry, stored: u64) {
    assert!(entry.path.len() <= PATH_LIMIT && entry.link.len() <= PATH_LIMIT);
    assert!(!entry.path.contains(&0) && !entry.link.contains(&0));
    assert!(entry.mode <= 0o7777 && entry.uid != u32::MAX && entry.gid != u32::MAX);
    assert!(entry.mtime.1 < 1_000_000_000, "{:?}", entry.mtime);
    if let Some(segments) = &entry.segments {
        let bytes: u64 = segments.iter().map(|segment| segment.length).sum();
        assert_eq!(bytes, stored);
        let end = segments.last().map_or(0, |last| last.offset + last.length);
        assert!(end <= entry.size);
    } else {
        assert_eq!(entry.size, stored);
        assert!(entry.kind == Kind::File || stored == 0, "{entry:?}");
    }
}

/// What is written is read as it was, with the bytes behind it.
fn written_again(mut entry: Entry, data: &[u8]) {
    // Whatever ends its path with a slash: who writes knows what is a directory.
    while entry.path.last() == Some(&b'/') {
        entry.path.pop();
    }
    // Nobody writes such an entry, which has no place in the records of a sparse file.
    if entry.path.is_empty() {
        return;
    }
    let mut writer = Writer::new(Vec::new());
    let Ok(()) = writer.entry(&entry) else {
        let (major, minor) = entry.device;
        assert!(major.max(minor) > 0o7_777_777, "{entry:?}");
        return;
    };
    if !data.is_empty() {
        writer.data(data).expect("it has so many bytes");
    }
    let bytes = writer.finish().expect("all bytes were written");
    let mut reader = Reader::new(&bytes[..]);
    let again = reader.next().expect("what was written can be read");
    let mut again = again.expect("there is an entry");
    while again.path.last() == Some(&b'/') {
        again.path.pop();
    }
    assert_eq!(again, entry);
    let read = reader.contents(data.len() as u64, "data");
    assert_eq!(read.expect("its bytes are there"), data);
    assert!(reader.next().is_ok_and(|next| next.is_none()));
}
