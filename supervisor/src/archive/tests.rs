use super::*;
use crate::mutants;

/// A header with this type and size, and the data behind it.
fn part(kind: u8, name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
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

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let data = reader.contents(1 << 20, "data")?;
        entries.push((entry, data));
    }
    Ok(entries)
}

fn names(bytes: &[u8]) -> Result<Vec<String>> {
    let name = |(entry, _): (Entry, _)| String::from_utf8(entry.path).unwrap();
    Ok(entries(bytes)?.into_iter().map(name).collect())
}

#[test]
fn the_size_in_a_pax_header_counts() {
    // A reader that goes by the header's size sees an entry `hidden` here.
    let hidden = part(b'0', "hidden", b"");
    let mut outer = part(b'0', "outer", b"");
    outer.extend_from_slice(&hidden);
    let mut bytes = pax(&[("size", "512")]);
    bytes.extend_from_slice(&outer);
    bytes.extend_from_slice(&part(b'0', "last", b"x"));
    assert_eq!(names(&bytes).unwrap(), ["outer", "last"]);
}

#[test]
fn links_and_directories_have_no_data_whatever_they_say() {
    let mut bytes = part(b'2', "link", b"");
    let mut header = tar::Header::from_byte_slice(&bytes).clone();
    header.set_size(512);
    header.set_cksum();
    bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&part(b'0', "file", b"x"));
    assert_eq!(names(&bytes).unwrap(), ["link", "file"]);
}

#[test]
fn long_names_are_those_of_gnu_or_of_pax() {
    let long = "d/".repeat(100) + "name";
    let mut bytes = part(b'L', "././@LongLink", format!("{long}\0").as_bytes());
    bytes.extend_from_slice(&part(b'0', "short", b""));
    bytes.extend_from_slice(&pax(&[("path", &long)]));
    bytes.extend_from_slice(&part(b'0', "short", b""));
    bytes.extend_from_slice(&part(b'0', "short", b""));
    assert_eq!(names(&bytes).unwrap(), [long.as_str(), &long, "short"]);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let name = part(b'L', "x", &[b'a'; PATH_LIMIT + 2]);
    assert!(
        names(&name)
            .unwrap_err()
            .to_string()
            .contains("a name of 4098 bytes")
    );
    let mut bytes = pax(&[("path", &"a".repeat(PATH_LIMIT + 1))]);
    bytes.extend_from_slice(&part(b'0', "x", b""));
    assert!(
        names(&bytes)
            .unwrap_err()
            .to_string()
            .contains("a path of more than")
    );
    let mut huge = tar::Header::from_byte_slice(&part(b'x', "x", b"")).clone();
    huge.set_size(1 << 40);
    huge.set_cksum();
    assert!(
        names(huge.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("a PAX header of")
    );
}

#[test]
fn holes_are_those_of_pax_or_of_gnu() {
    let expected = [
        Segment {
            offset: 512,
            length: 3,
        },
        Segment {
            offset: 2048,
            length: 0,
        },
    ];
    let head: &[_] = &[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "f"),
        ("GNU.sparse.realsize", "2048"),
    ];
    let mut data = b"2\n512\n3\n2048\n0\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abc");
    let mut bytes = pax(head);
    bytes.extend_from_slice(&part(b'0', "GNUSparseFile.0/f", &data));
    bytes.extend_from_slice(&pax(&[
        ("GNU.sparse.size", "2048"),
        ("GNU.sparse.map", "512,3,2048,0"),
    ]));
    bytes.extend_from_slice(&part(b'0', "f", b"abc"));
    let map: &[_] = &[
        ("GNU.sparse.size", "2048"),
        ("GNU.sparse.offset", "512"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "2048"),
        ("GNU.sparse.numbytes", "0"),
    ];
    bytes.extend_from_slice(&pax(map));
    bytes.extend_from_slice(&part(b'0', "f", b"abc"));
    let entries = entries(&bytes).unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, data) in entries {
        assert_eq!(entry.path, b"f");
        assert_eq!(entry.size, 2048);
        assert_eq!(entry.segments.unwrap(), expected);
        assert_eq!(data, b"abc");
    }
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    for map in [
        "512,4",
        "512,3,513,0",
        "2046,3",
        "18446744073709551615,3",
        "512",
        "1,1,1,1,1",
    ] {
        let mut bytes = pax(&[("GNU.sparse.size", "2048"), ("GNU.sparse.map", map)]);
        bytes.extend_from_slice(&part(b'0', "f", b"abc"));
        assert!(entries(&bytes).is_err(), "{map}");
    }
}

#[test]
fn an_archive_that_is_cut_or_damaged_is_refused() {
    let bytes = [part(b'0', "a", &[1; 1000]), part(b'0', "b", b"x")].concat();
    assert_eq!(names(&bytes).unwrap(), ["a", "b"]);
    for end in [100, 600, 1511, 1600] {
        assert!(names(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    assert!(
        names(&damaged)
            .unwrap_err()
            .to_string()
            .contains("wrong checksum")
    );
    let smuggled = [part(b'0', "a", b""), vec![0; 512], part(b'0', "b", b"")].concat();
    assert!(names(&smuggled).is_err());
    let dangling = part(b'L', "x", b"name");
    assert!(names(&dangling).is_err());
}

/// Headers with the checksum that they should have, so that what is wrong with them is found further on.
fn summed_up(bytes: &[u8]) -> Vec<u8> {
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

/// Every entry of what strangers send has properties that unpacking relies on. Gives the number of entries.
fn read_to_the_end(bytes: &[u8]) -> usize {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while let Ok(Some(entry)) = reader.next() {
        assert!(entry.path.len() <= PATH_LIMIT && entry.link.len() <= PATH_LIMIT);
        assert!(!entry.path.contains(&0) && !entry.link.contains(&0));
        assert!(entry.mode <= 0o7777 && entry.uid != u32::MAX && entry.gid != u32::MAX);
        assert!(entry.mtime.1 < 1_000_000_000, "{:?}", entry.mtime);
        if let Some(segments) = &entry.segments {
            let stored: u64 = segments.iter().map(|segment| segment.length).sum();
            assert_eq!(stored, reader.left);
            let end = segments.last().map_or(0, |last| last.offset + last.length);
            assert!(end <= entry.size);
        } else if entry.kind == Kind::File {
            assert_eq!(entry.size, reader.left);
        }
        count += 1;
        // No header is read twice.
        assert!(count <= bytes.len() / BLOCK);
    }
    count
}

#[test]
fn what_is_nearly_an_archive_is_refused_or_read_within_limits() {
    let sparse = |data: &str| {
        let map = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
        let rest = [("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "4096")];
        let mut bytes = pax(&[map, rest].concat());
        let mut contents = b"1\n512\n4\n".to_vec();
        contents.resize(BLOCK, 0);
        contents.extend_from_slice(data.as_bytes());
        bytes.extend_from_slice(&part(b'0', "GNUSparseFile.0/s", &contents));
        bytes
    };
    let seeds = [
        [
            part(b'5', "d/", b""),
            part(b'0', "d/f", b"text"),
            vec![0; 1024],
        ]
        .concat(),
        [
            part(b'L', "././@LongLink", b"a/long/name\0"),
            part(b'K', "././@LongLink", b"a/target\0"),
            part(b'2', "x", b""),
            part(b'1', "y", b""),
        ]
        .concat(),
        [
            pax(&[
                ("path", "p"),
                ("size", "4"),
                ("uid", "7"),
                ("mtime", "1.5"),
                ("SCHILY.xattr.user.a", "b"),
            ]),
            part(b'0', "x", b"text"),
            part(b'3', "null", b""),
        ]
        .concat(),
        sparse("data"),
        [
            pax(&[
                ("GNU.sparse.size", "4096"),
                ("GNU.sparse.map", "0,2,1024,2"),
            ]),
            part(b'0', "s", b"data"),
        ]
        .concat(),
    ];
    let mut entries = 0;
    for seed in &seeds {
        assert!(read_to_the_end(seed) > 0, "{:?}", names(seed));
    }
    mutants::of(&seeds, |bytes| {
        entries += read_to_the_end(&summed_up(bytes))
    });
    assert!(entries > 0);
}
