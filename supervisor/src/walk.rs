//! Going through a tree that a container may change meanwhile.
//!
//! It goes down by descriptors, follows no link and stays on one file system: what is exchanged for a link meanwhile is left out, and nothing
//! outside of the tree is seen.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Stat};
use rustix::io::{Errno, Result};

use crate::copy::find::open_child;

/// Each level has a descriptor open. No program makes as many by itself.
pub(crate) const DEEPEST: usize = 256;

/// Has whatever is below a directory seen, by its path below that, each directory once. False if there was more, deeper than this goes.
/// A directory that is not there is empty.
pub(crate) fn walk(root: &Path, see: &mut dyn FnMut(&Path, &Stat)) -> Result<bool> {
    let Some(directory) = opened(CWD, root.as_os_str().as_bytes())? else {
        return Ok(true);
    };
    let mut walk = Walk {
        device: rustix::fs::fstat(&directory)?.st_dev,
        seen: HashSet::new(),
        whole: true,
        see,
    };
    walk.below(directory, Path::new(""), 1)?;
    Ok(walk.whole)
}

struct Walk<'a> {
    device: u64,
    /// Directories, which somebody may move to where this has yet to come.
    seen: HashSet<u64>,
    whole: bool,
    see: &'a mut dyn FnMut(&Path, &Stat),
}

impl Walk<'_> {
    fn below(&mut self, directory: OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let stat = rustix::fs::fstat(&directory)?;
        if stat.st_dev != self.device || !self.seen.insert(stat.st_ino) {
            return Ok(());
        }
        let mut entries = Dir::new(directory)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                // The directory has been removed.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let found = rustix::fs::statat(entries.fd()?, name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = match found {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            let inner = path.join(OsStr::from_bytes(name));
            (self.see)(&inner, &stat);
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            if depth == DEEPEST {
                self.whole = false;
            } else if let Some(directory) = opened(entries.fd()?, name)? {
                self.below(directory, &inner, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// None if it is no directory any more.
fn opened(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>> {
    match open_child(dir, name) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the test's own")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_becomes_a_link_while_it_is_looked_at_leads_nowhere() {
        let scratch = std::env::temp_dir().join(format!("caisson-walk-{}", std::process::id()));
        let (tree, outside) = (scratch.join("tree"), scratch.join("outside"));
        fs::create_dir_all(tree.join("directory")).unwrap();
        fs::create_dir_all(tree.join("kept/inner")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        let mut seen = vec![];
        let whole = walk(&tree, &mut |path, _| {
            seen.push(path.to_owned());
            if path == Path::new("directory") {
                fs::rename(tree.join("directory"), scratch.join("away")).unwrap();
                symlink(&outside, tree.join("directory")).unwrap();
            }
        });
        assert_eq!(whole, Ok(true));
        seen.sort();
        let expected = ["directory", "kept", "kept/inner", "link"];
        assert_eq!(seen, expected.map(Path::new));
        assert_eq!(walk(&tree.join("link"), &mut |_, _| panic!()), Ok(true));
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn how_deep_it_goes_has_an_end() {
        let scratch = std::env::temp_dir().join(format!("caisson-deep-{}", std::process::id()));
        let mut deep = scratch.clone();
        (0..DEEPEST).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        let mut count = 0;
        assert_eq!(walk(&scratch, &mut |_, _| count += 1), Ok(false));
        assert_eq!(count, DEEPEST);
        fs::remove_dir_all(scratch).unwrap();
    }
}
