use super::properties::{part, pax, summed_up};
use super::*;

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
fn a_directory_by_the_end_of_its_name_has_no_data_whichever_header_that_is_in() {
    let old = |name| part(0, name, b"text");
    let last = part(b'0', "last", b"x");
    let mut directory = pax(&[("path", "d/")]);
    directory.extend_from_slice(&old("d")[..BLOCK]);
    directory.extend_from_slice(&last);
    let found = entries(&directory).unwrap();
    assert_eq!((found[0].0.kind, found[0].0.size), (Kind::Directory, 0));
    assert_eq!(names(&directory).unwrap(), ["d/", "last"]);
    let file = [pax(&[("path", "f")]), old("f/"), last].concat();
    let found = entries(&file).unwrap();
    assert_eq!((found[0].0.kind, &*found[0].1), (Kind::File, &b"text"[..]));
    assert_eq!(names(&file).unwrap(), ["f", "last"]);
}

#[test]
fn numbers_that_are_left_blank_are_zero() {
    let mut bytes = part(b'3', "null", b"");
    for range in [100..148, 329..345] {
        bytes[range].fill(0);
    }
    bytes[108..116].fill(b' ');
    let (entry, _) = entries(&summed_up(&bytes)).unwrap().remove(0);
    assert_eq!((entry.mode, entry.uid, entry.gid), (0, 0, 0));
    assert_eq!((entry.mtime, entry.device, entry.size), ((0, 0), (0, 0), 0));
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
    let mut both = part(b'L', "././@LongLink", b"gnu");
    both.extend_from_slice(&pax(&[("path", "pax")]));
    both.extend_from_slice(&part(b'0', "short", b""));
    assert_eq!(names(&both).unwrap(), ["gnu"]);
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
