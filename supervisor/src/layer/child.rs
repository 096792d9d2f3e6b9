//! The process that unpacks one layer, `caissond unpack-layer PARENT DIRECTORY`.
//!
//! It is this program again, executed so that it has nothing of the daemon's. Descriptors: 0 is the blob, 2 the report: lines with
//! the number of bytes of the blob that are done, then the result as JSON, or a text that says what is wrong. It writes no other file, and
//! can reach none.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::blob::Decompressed;
use super::tree::Tree;
use super::{Unpacked, confine};
use crate::archive::Reader;
use crate::digest::Hashing;

/// So many bytes between two lines about progress.
const STEP: u64 = 2 << 20;

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let [parent, directory] = arguments else {
        bail!("only the daemon unpacks layers");
    };
    // Whoever started the daemon may have left it more.
    crate::sys::close_from(3).context("close descriptors")?;
    let parent = parent.to_str().and_then(|pid| pid.parse().ok());
    confine::confine(Path::new(directory), parent.context("the daemon's pid")?)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let root = File::open("/").context("open the directory")?;
    let unpacked = unpack(
        File::from(stdin.context("open the blob")?),
        root.into(),
        &mut |done| writeln!(io::stderr(), "{done}").context("report"),
    )?;
    let report = serde_json::to_string(&unpacked).context("report")?;
    writeln!(io::stderr(), "{report}").context("report")
}

/// Makes a blob's files in a directory. `report` is told now and then how many bytes of the blob are done.
pub(super) fn unpack(
    blob: impl Read,
    root: OwnedFd,
    report: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Unpacked> {
    let mut tree = Tree::new(root);
    let decompressed = Decompressed::new(blob).context("read the blob")?;
    let mut reader = Reader::new(Hashing::new(io::BufReader::with_capacity(
        256 << 10,
        decompressed,
    )));
    let mut said = 0;
    while let Some(entry) = reader.next()? {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        tree.add(&entry, &mut reader)
            .with_context(|| format!("unpack '{name}'"))?;
        let done = reader.get_ref().inner().get_ref().consumed();
        if done >= said + STEP {
            said = done;
            report(done)?;
        }
    }
    let hashing = reader.finish()?;
    let (mut inner, diff_id, _) = hashing.finish();
    // The end of what is compressed is behind the end of the archive, and has its checksum.
    let rest = inner.read(&mut [0; 1]).context("read the blob")?;
    anyhow::ensure!(rest == 0, "the blob goes on behind its end");
    tree.finish(diff_id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::archive::PATH_LIMIT;
    use crate::archive::properties::{linked, part, pax};
    use crate::fuzz::Scratch;
    use crate::layer::implied;
    use std::path::PathBuf;

    #[test]
    fn a_directory_of_two_paths_has_the_time_that_was_said_last() {
        let scratch = Scratch::new("times");
        let mut layer = linked(b'2', "link", "d", b"");
        for (above, time) in [("d", "1"), ("link", "2")] {
            for name in 0..8 {
                layer.extend(pax(&[("mtime", time)]));
                layer.extend(part(b'5', &format!("{above}/{name}"), b""));
            }
        }
        let root = File::open(scratch.path()).unwrap();
        unpack(&layer[..], root.into(), &mut |_| Ok(())).unwrap();
        for name in 0..8 {
            let path = scratch.path().join(format!("d/{name}"));
            assert_eq!(path.metadata().unwrap().mtime(), 2, "{}", path.display());
        }
    }

    #[test]
    fn what_a_layer_implies_is_known_by_its_own_path_whichever_link_leads_there() {
        let scratch = Scratch::new("implied");
        let file = |name| part(b'0', name, b"text");
        let layer = [
            linked(b'2', "link", "d", b""),
            file("link/e/f"),
            linked(b'2', "d/up", "../none/../g", b""),
            file("link/up/h/i"),
            file("d/said/f"),
            part(b'5', "link/said", b""),
        ];
        let root = File::open(scratch.path()).unwrap();
        let unpacked = unpack(&layer.concat()[..], root.into(), &mut |_| Ok(())).unwrap();
        let expected = ["d", "d/e", "g", "g/h", "none"];
        assert_eq!(unpacked.implied, expected.map(|path| path.as_bytes()));
        for (path, time) in [("d/e", 0), ("g/h", 0), ("d/said", 7)] {
            let found = scratch.path().join(path).metadata().unwrap();
            assert_eq!(found.mtime(), time, "{path}");
        }
    }

    fn directory(scratch: &Scratch, name: &str) -> PathBuf {
        let path = scratch.path().join(name);
        rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU).unwrap();
        path
    }

    /// A file in so many directories.
    fn deep(directories: usize) -> Vec<u8> {
        let path = format!("{}f", "d/".repeat(directories));
        [pax(&[("path", &path)]), part(b'0', "f", b"text")].concat()
    }

    fn unpack_into(layer: &[u8], directory: &Path) -> Result<Unpacked> {
        let root = File::open(directory).unwrap();
        unpack(layer, root.into(), &mut |_| Ok(()))
    }

    #[test]
    fn what_layers_imply_is_made_as_the_topmost_has_it_that_says_something() {
        let scratch = Scratch::new("made");
        let depth = 200;
        let said = |path: &str| [pax(&[("path", path)]), part(b'5', "d", b"")].concat();
        let way = "d/".repeat(depth);
        let lower = [said(&way), said("d/d/"), said("d.d/e/")].concat();
        let upper = [
            deep(depth),
            part(b'0', "d.d/e/f", b""),
            part(b'0', "d/d-d/f", b""),
        ]
        .concat();
        let (low, top) = (directory(&scratch, "low"), directory(&scratch, "top"));
        let of_lower = unpack_into(&lower, &low).unwrap();
        let of_upper = unpack_into(&upper, &top).unwrap();
        let made = directory(&scratch, "implied");
        let layers = [(&*top, &*of_upper.implied), (&*low, &*of_lower.implied)];
        implied::make(&layers, &made).unwrap();
        let time = |path: &str| made.join(path).metadata().unwrap().mtime();
        for (path, expected) in [
            (&*way, 7),
            ("d/d", 7),
            ("d/d/d", 0),
            ("d.d", 0),
            ("d.d/e", 7),
            ("d/d-d", 0),
        ] {
            assert_eq!(time(path), expected, "{path}");
        }
        let mode = made.join(&way).metadata().unwrap().mode();
        let model = low.join(&way).metadata().unwrap().mode();
        assert_eq!(mode, model);
    }

    #[test]
    fn a_layer_is_as_deep_as_paths_can_be_named_and_no_deeper() {
        let scratch = Scratch::new("deep");
        let path = |name| directory(&scratch, name);
        let deepest = PATH_LIMIT / 2 - 1;
        let layer = path("layer");
        let unpacked = unpack_into(&deep(deepest), &layer).unwrap();
        assert_eq!(unpacked.implied.len(), deepest);
        // What is in the place of a directory takes it away, with all that is in it.
        let replaced = [deep(deepest), part(b'0', "d", b"text")].concat();
        let layer = path("replaced");
        unpack_into(&replaced, &layer).unwrap();
        assert!(layer.join("d").is_file());
        let link = linked(b'2', "l", "d/d/d/d", b"");
        let through = pax(&[("path", &format!("l/{}f", "d/".repeat(deepest - 2)))]);
        let through = [link, deep(4), through, part(b'0', "f", b"text")].concat();
        let refused = unpack_into(&through, &path("through")).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("whose own path has"), "{refused}");
    }
}
