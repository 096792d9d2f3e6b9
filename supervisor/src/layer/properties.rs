//! What is true of any layer, for `fuzz`: whatever is unpacked changes nothing beside the layer's directory, has no more in it than the layer says,
//! and comes out the same each time.
//!
//! What is unpacked is unpacked by this process itself, which nothing confines: all of `tree` is there that keeps a layer inside, and nothing of `confine`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};

use super::child::unpack;
use super::compare::{attributes, difference};
use super::tree::OPAQUE_ATTRIBUTE;
use super::{Unpacked, implied};
use crate::archive::properties::{linked, part, pax, summed_up};
use crate::fuzz::{Scratch, Target};
use crate::removal::remove_tree;
use crate::walk::walk;
use crate::wanted::Wanted;
use crate::way::open_child;

pub(crate) const UNPACK: Target = Target::new("unpack", seeds, check);

thread_local! {
    static PLACE: Place = Place::new();
}

/// Two directories for layers and one for what they imply, with something beside them.
struct Place {
    _scratch: Scratch,
    first: PathBuf,
    second: PathBuf,
    implied: PathBuf,
    /// With what was true of it before anything was unpacked.
    beside: Vec<(PathBuf, Vec<i64>)>,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new("unpack");
        let path = |name| scratch.path().join(name);
        let (first, second, implied) = (path("first"), path("second"), path("implied"));
        for directory in [&first, &second, &implied, &path("other")] {
            fs::create_dir(directory).expect("an empty directory");
        }
        for name in ["file", "other/file"] {
            let file = File::create_new(path(name));
            let written = file.and_then(|mut file| file.write_all(b"text"));
            written.expect("a file of this process");
        }
        let beside = ["", "file", "other", "other/file"].map(|name| {
            let path = path(name);
            let seen = seen(&path);
            (path, seen)
        });
        Self {
            _scratch: scratch,
            first,
            second,
            implied,
            beside: beside.to_vec(),
        }
    }

    fn unpack(&self, bytes: &[u8], directory: &Path) -> anyhow::Result<Unpacked> {
        let outcome = unpack(bytes, empty(directory), &mut |_| Ok(()));
        for (path, before) in &self.beside {
            assert_eq!(&seen(path), before, "{} was changed", path.display());
        }
        outcome
    }
}

/// A change of any kind is one of the last time, too.
fn seen(path: &Path) -> Vec<i64> {
    let stat = path.symlink_metadata().expect("what is beside the layer");
    vec![
        i64::from(stat.mode()),
        stat.size().cast_signed(),
        stat.nlink().cast_signed(),
        stat.ctime(),
        stat.ctime_nsec(),
    ]
}

fn empty(directory: &Path) -> OwnedFd {
    for inner in fs::read_dir(directory).expect("the layer's directory") {
        let inner = inner.expect("a name").path();
        let kind = inner.symlink_metadata().expect("something").file_type();
        match kind.is_dir() {
            true => remove_tree(&inner),
            false => fs::remove_file(&inner),
        }
        .expect("what was unpacked can be removed");
    }
    File::open(directory).expect("the layer's directory").into()
}

fn check(input: &[u8]) -> bool {
    PLACE.with(|place| {
        let bytes = summed_up(input);
        let first = place.unpack(&bytes, &place.first);
        let second = place.unpack(&bytes, &place.second);
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            (first, second) => {
                assert!(first.is_err() && second.is_err());
                return false;
            }
        };
        assert_eq!(first, second);
        has_nothing_else(&place.first, &first);
        let differs = difference(
            &place.first,
            &place.second,
            &first.implied,
            &Wanted::default(),
        );
        assert_eq!(differs.expect("it can be compared"), None);
        empty(&place.implied);
        let layers = [(&*place.first, &*first.implied)];
        implied::make(&layers, &place.implied).expect("what it implies can be made");
        first.entries > 0
    })
}

/// As many files as there are entries, or fewer; of what only overlayfs knows, what is made of whiteouts.
fn has_nothing_else(layer: &Path, unpacked: &Unpacked) {
    let root = open_child(CWD, layer.as_os_str().as_bytes()).expect("the layer's directory");
    let mut names = 0;
    let whole = walk(layer, &mut |path, stat| {
        names += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let path = path.as_os_str().as_bytes();
            let directory = open_child(root.as_fd(), path).expect("a directory");
            has_no_other_attributes(directory.as_fd());
        }
    });
    assert_eq!(whole, Ok(true));
    assert!(names <= unpacked.entries + unpacked.implied.len() as u64);
}

fn has_no_other_attributes(directory: BorrowedFd<'_>) {
    for (name, value) in attributes(directory).expect("its attributes") {
        assert!(!name.starts_with(b"user.overlay."));
        assert!(!name.starts_with(b"trusted.overlay.") || name == OPAQUE_ATTRIBUTE.as_bytes());
        assert!(name != OPAQUE_ATTRIBUTE.as_bytes() || value == b"y");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let directory = |name| part(b'5', name, b"");
    let file = |name| part(b'0', name, b"text");
    let of_all = [
        ("mtime", "1.5"),
        ("uid", "7"),
        ("SCHILY.xattr.user.a", "b"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
    ];
    let deep = "d/".repeat(40);
    let seeds: [&[Vec<u8>]; 9] = [
        &[directory("d/"), file("d/f"), linked(b'1', "l", "d/f", b"")],
        // Links that lead out, and what goes through them.
        &[
            linked(b'2', "l", "../..", b""),
            file("l/f"),
            directory("l/d"),
        ],
        &[
            linked(b'2', "l", "/d/e", b""),
            file("l/f"),
            linked(b'1', "h", "l/f", b""),
        ],
        &[
            file("a/b/.wh.c"),
            file("a/.wh.b"),
            file("a/.wh..wh..opq"),
            directory("a/c/"),
            file(".wh.a"),
        ],
        // Nearly upwards.
        &[
            directory("..."),
            file("d/..."),
            linked(b'1', "h", "d/...", b""),
        ],
        // One directory by two paths.
        &[
            directory("d/e"),
            linked(b'2', "l", "d", b""),
            pax(&[("mtime", "9")]),
            directory("l/e"),
        ],
        // Each in place of another.
        &[
            file("x"),
            directory("x"),
            file("x/y"),
            linked(b'2', "x", "y", b""),
            part(b'6', "x", b""),
        ],
        &[
            pax(&of_all),
            directory("d"),
            pax(&of_all),
            file("d/f"),
            part(b'3', "null", b""),
        ],
        &[
            pax(&[("path", &deep)]),
            directory("d"),
            linked(b'2', "d", "e", b""),
        ],
    ];
    let mut seeds: Vec<_> = seeds.iter().map(|parts| parts.concat()).collect();
    seeds.extend(crate::archive::properties::seeds());
    let compressed = zstd::encode_all(&*seeds[0], 3);
    seeds.push(compressed.expect("it can be compressed"));
    seeds
}
