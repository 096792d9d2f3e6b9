//! Going through a tree that a container may change meanwhile.
//!
//! It goes down by descriptors, follows no link and stays on one file system: what is exchanged for a link meanwhile is left out, and nothing
//! outside of the tree is seen.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat};
use rustix::io::{Errno, Result};

use crate::archive::PATH_LIMIT;
use crate::way::{Way, names, open_child};

/// Has whatever is below a directory seen, by its path below that, each directory once. False if there was more, in directories with paths longer
/// than anybody can name. A directory that is not there is empty.
pub(crate) fn walk(root: &Path, see: &mut dyn FnMut(&Path, &Stat)) -> Result<bool> {
    let Some(root) = opened(CWD, root.as_os_str().as_bytes())? else {
        return Ok(true);
    };
    let stat = rustix::fs::fstat(&root)?;
    // Directories, which somebody may move to where this has yet to come.
    let mut seen = HashSet::from([stat.st_ino]);
    let mut levels = vec![names(root.as_fd())?.into_iter()];
    let (mut way, mut path, mut whole) = (Way::new(root), PathBuf::new(), true);
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.next() else {
            levels.pop();
            path.pop();
            way.up()?;
            continue;
        };
        let found = match rustix::fs::statat(way.here(), &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        path.push(OsStr::from_bytes(name.as_bytes()));
        see(&path, &found);
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            if path.as_os_str().len() >= PATH_LIMIT {
                whole = false;
            } else if let Some(inner) = opened(way.here(), name.as_bytes())? {
                let inside = rustix::fs::fstat(&inner)?;
                if inside.st_dev == stat.st_dev && seen.insert(inside.st_ino) {
                    levels.push(names(inner.as_fd())?.into_iter());
                    way.down(inner)?;
                    continue;
                }
            }
        }
        path.pop();
    }
    Ok(whole)
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
    use crate::fuzz::Scratch;
    use crate::way::tests::nest;
    use rustix::fs::{Mode, mkdirat};
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
    fn it_goes_as_deep_as_paths_can_be_named() {
        let scratch = Scratch::new("walked");
        let innermost = nest(scratch.path(), PATH_LIMIT / 2);
        let mut count = 0;
        assert_eq!(walk(scratch.path(), &mut |_, _| count += 1), Ok(true));
        assert_eq!(count, PATH_LIMIT / 2);
        mkdirat(&innermost, "d", Mode::RWXU).unwrap();
        let mut count = 0;
        assert_eq!(walk(scratch.path(), &mut |_, _| count += 1), Ok(false));
        assert_eq!(count, PATH_LIMIT / 2 + 1);
    }
}
