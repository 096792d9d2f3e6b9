//! The parsers of what strangers send, each with good inputs and with all that has to be true of any input: a parser refuses or takes it, must not
//! panic, which ends a process, and what it takes must have the properties that others rely on.
//!
//! In unit tests, which make mutants of the good inputs, and in the program that `scripts/fuzz` runs (`supervisor/fuzz`); in no other.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::digest::Digest;
use crate::removal::remove_tree;
use crate::{archive, image, layer};

/// A parser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    name: &'static str,
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Says whether anything was taken, and panics if something is not as it should be.
    pub(crate) check: fn(&[u8]) -> bool,
}

impl Target {
    pub(crate) const fn new(
        name: &'static str,
        seeds: fn() -> Vec<Vec<u8>>,
        check: fn(&[u8]) -> bool,
    ) -> Self {
        Self { name, seeds, check }
    }
}

const TARGETS: [Target; 5] = [
    image::REFERENCE,
    image::DOCUMENTS,
    archive::ENTRIES,
    image::ARCHIVE,
    layer::UNPACK,
];

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// Chooses the target that `TARGET` names, and writes its good inputs into the directory `SEEDS`. Fails if there is no such target.
pub fn begin() {
    let name = std::env::var("TARGET").unwrap_or_default();
    let target = TARGETS.into_iter().find(|target| target.name == name);
    let target = CHOSEN.get_or_init(|| target.expect("TARGET names a target"));
    let Some(directory) = std::env::var_os("SEEDS") else {
        return;
    };
    for seed in (target.seeds)() {
        let path = Path::new(&directory).join(Digest::of(&seed).hex());
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        match file.and_then(|mut file| file.write_all(&seed)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                panic!("write a seed: {error}")
            }
            _ => {}
        }
    }
}

/// Checks an input of the target's.
pub fn check(input: &[u8]) {
    let target = CHOSEN.get().expect("`begin` was called");
    (target.check)(input);
}

/// A directory that goes with whoever has it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("caisson-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory for what is made of inputs");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_tree(&self.0).expect("what is made of inputs can be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants;

    /// Of good inputs something is taken, and of some that are nearly good; `count` of these are tried.
    fn holds(target: Target, count: u64) {
        let seeds = (target.seeds)();
        for seed in &seeds {
            assert!((target.check)(seed), "{:?}", String::from_utf8_lossy(seed));
        }
        let mut taken = 0;
        mutants::of(&seeds, count, |bytes| {
            taken += u64::from((target.check)(bytes));
        });
        assert!(taken > 0);
    }

    #[test]
    fn what_is_nearly_a_name_is_refused_or_reads_as_it_is_written() {
        holds(image::REFERENCE, 20_000);
    }

    #[test]
    fn what_is_nearly_a_document_is_refused_or_within_limits() {
        holds(image::DOCUMENTS, 20_000);
    }

    #[test]
    fn what_is_nearly_an_archive_is_refused_or_read_within_limits() {
        holds(archive::ENTRIES, 20_000);
    }

    #[test]
    fn what_is_nearly_an_archive_of_images_is_refused_or_becomes_images() {
        holds(image::ARCHIVE, 200);
    }

    /// As root: of what others make nothing is a device.
    #[test]
    fn what_is_nearly_a_layer_is_refused_or_unpacked_and_changes_nothing_else() {
        holds(layer::UNPACK, 500);
    }
}
