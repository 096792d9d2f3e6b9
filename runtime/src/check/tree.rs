//! The container's tree before it exists: the root directory with the mounts of the config over it, walked as the kernel will walk it.
//!
//! Runs in the runtime command. Every component is opened beneath its directory (openat2(2), RESOLVE_BENEATH, no magic links), links are followed
//! by hand within the tree, and nothing is opened but with O_PATH: no link of an image leads to the host, and no file of it is read or run.

use crate::sys::mount::mount_flags;
use crate::sys::{Errno, Result, fs};
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// As many links as the kernel follows (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: Place,
    /// In their order.
    mounts: Vec<Mounted>,
}

/// A mount of the config, or what is made for one.
#[derive(Debug)]
struct Mounted {
    at: Vec<CString>,
    root: Place,
    /// Its file system is the container's alone. None: this is no mount but a directory or file that will be made.
    own: Option<bool>,
}

/// A file of the tree.
#[derive(Clone, Debug)]
pub(super) enum Place {
    There(Rc<Entry>),
    /// On a file system that will be made for the container: nobody knows what is in it.
    New,
    /// A directory that will be made, and have nothing in it.
    Empty,
}

/// A file that exists.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: OwnedFd,
    pub(super) stat: libc::stat,
    /// It is below a mount where nothing may be executed.
    pub(super) noexec: bool,
    /// Whether nothing may be written, where that will be otherwise than the mount has it that it was found by.
    pub(super) readonly: Option<bool>,
}

/// Where a walk has ended.
#[derive(Debug)]
pub(super) struct Found {
    /// Without links; where a mount there belongs.
    pub(super) path: Vec<CString>,
    /// Every directory that was passed, outermost first, with what was looked for at the end. None: nothing is there.
    pub(super) passed: Vec<Place>,
    pub(super) place: Option<Place>,
}

impl Place {
    /// An open file: see [`Entry`].
    pub(super) fn of(file: OwnedFd, noexec: bool, readonly: Option<bool>) -> Result<Place> {
        let stat = fs::stat(&file)?;
        Ok(Place::There(Rc::new(Entry {
            file,
            stat,
            noexec,
            readonly,
        })))
    }

    /// Makes a directory one that somebody has made with the usual mode.
    pub(super) fn belong_to(&mut self, (uid, gid): (u32, u32)) {
        if let Place::There(entry) = self
            && let Some(entry) = Rc::get_mut(entry)
        {
            (entry.stat.st_uid, entry.stat.st_gid) = (uid, gid);
            entry.stat.st_mode = libc::S_IFDIR | 0o755;
        }
    }
}

impl Entry {
    pub(super) fn kind(&self) -> u32 {
        self.stat.st_mode & libc::S_IFMT
    }
}

impl Tree {
    pub(super) fn new(root: Place) -> Self {
        Tree {
            root,
            mounts: Vec::new(),
        }
    }

    /// Puts a mount where a walk has ended, over those below. `own`: of a file system that only the container has.
    pub(super) fn mount(&mut self, found: Found, root: Place, own: bool) {
        self.make_above(&found);
        self.put(found.path, root, Some(own));
    }

    /// Puts what will be made where a walk has ended at nothing.
    pub(super) fn make(&mut self, found: Found, place: Place) {
        self.make_above(&found);
        self.put(found.path, place, None);
    }

    /// The directories that are missing on the way.
    fn make_above(&mut self, found: &Found) {
        for end in found.passed.len()..found.path.len() {
            self.put(found.path[..end].to_vec(), Place::Empty, None);
        }
    }

    fn put(&mut self, at: Vec<CString>, root: Place, own: Option<bool>) {
        let hidden = |other: &Mounted| other.at.len() > at.len() && other.at.starts_with(&at);
        self.mounts.retain(|other| !hidden(other));
        self.mounts.push(Mounted { at, root, own });
    }

    /// Whether the file system of the mount where a walk has ended is the container's alone. None: no mount is there.
    pub(super) fn is_own(&self, found: &Found) -> Option<bool> {
        self.last(&found.path).and_then(|mount| mount.own)
    }

    /// Walks a path from the root. `follow`: a link at its end, too.
    pub(super) fn find(&self, path: &CStr, follow: bool) -> Result<Found> {
        let mut rest = components(path.to_bytes());
        let mut found = Found {
            path: Vec::new(),
            passed: vec![self.at(&[]).unwrap_or(self.root.clone())],
            place: None,
        };
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name.as_c_str() == c".." {
                found.path.pop();
                found.passed.truncate(found.path.len() + 1);
                continue;
            }
            found.path.push(name.clone());
            let next = match self.at(&found.path) {
                Some(place) => Some(place),
                None => step(&found.passed[found.path.len() - 1], &name)?,
            };
            let Some(next) = next else {
                // Whatever comes below is not there either.
                found.path.extend(rest);
                return Ok(found);
            };
            if let Place::There(entry) = &next {
                match entry.kind() {
                    libc::S_IFLNK if follow || !rest.is_empty() => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::ELOOP);
                        }
                        found.path.pop();
                        let target = target(&entry.file)?;
                        if target.starts_with(b"/") {
                            found.path.clear();
                            found.passed.truncate(1);
                        }
                        for part in components(&target).into_iter().rev() {
                            rest.push_front(part);
                        }
                        continue;
                    }
                    libc::S_IFDIR => {}
                    _ if !rest.is_empty() => return Err(Errno::ENOTDIR),
                    _ => {}
                }
            }
            found.passed.push(next);
        }
        found.place = found.passed.last().cloned();
        Ok(found)
    }

    fn at(&self, path: &[CString]) -> Option<Place> {
        self.last(path).map(|mount| mount.root.clone())
    }

    /// The last mount at a place.
    fn last(&self, path: &[CString]) -> Option<&Mounted> {
        self.mounts.iter().rfind(|mount| mount.at == path)
    }
}

/// Whether the file system of an entry is mounted read-only.
pub(super) fn is_readonly(entry: &Entry) -> bool {
    let mounted = || mount_flags(&entry.file).is_ok_and(|flags| flags & libc::ST_RDONLY != 0);
    entry.readonly.unwrap_or_else(mounted)
}

fn components(path: &[u8]) -> VecDeque<CString> {
    let parts = path.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    // A path of the kernel or a C string has no NUL inside.
    parts.filter_map(|part| CString::new(part).ok()).collect()
}

/// One name in a directory; None if nothing has it.
fn step(directory: &Place, name: &CStr) -> Result<Option<Place>> {
    let directory = match directory {
        Place::There(directory) => directory,
        Place::New => return Ok(Some(Place::New)),
        Place::Empty => return Ok(None),
    };
    let opened = fs::openat2(
        &directory.file,
        name,
        libc::O_PATH | libc::O_NOFOLLOW,
        0,
        BENEATH,
    );
    match opened {
        Ok(file) => Place::of(file, directory.noexec, directory.readonly).map(Some),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn target(link: &OwnedFd) -> Result<Vec<u8>> {
    let mut target = vec![0; libc::PATH_MAX as usize];
    let length = fs::readlink(link, c"", &mut target)?;
    target.truncate(length);
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> (std::path::PathBuf, Tree) {
        let dir = std::env::temp_dir().join(format!("caisson-tree-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("usr/bin")).unwrap();
        std::fs::copy("/proc/self/comm", dir.join("usr/bin/sh")).unwrap();
        symlink("/usr/bin", dir.join("bin")).unwrap();
        symlink("../../../../usr", dir.join("up")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        let tree = Tree::new(place(&dir));
        (dir, tree)
    }

    fn place(path: &std::path::Path) -> Place {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        Place::of(
            fs::open_follow(fs::CWD, &path, libc::O_PATH).unwrap(),
            false,
            None,
        )
        .unwrap()
    }

    fn is_there(tree: &Tree, path: &CStr) -> Option<bool> {
        let place = tree.find(path, true).unwrap().place;
        place.map(|place| matches!(place, Place::There(_)))
    }

    #[test]
    fn links_stay_inside_and_mounts_hide_what_is_below() {
        let (dir, mut tree) = scratch("links");
        assert_eq!(is_there(&tree, c"/bin/sh"), Some(true));
        assert_eq!(is_there(&tree, c"/up/bin/sh"), Some(true));
        assert_eq!(is_there(&tree, c"/bin/../bin/./sh"), Some(true));
        assert_eq!(is_there(&tree, c"/no/such"), None);
        assert_eq!(tree.find(c"/loop", true).unwrap_err(), Errno::ELOOP);
        assert_eq!(tree.find(c"/bin/sh/x", true).unwrap_err(), Errno::ENOTDIR);
        let at = tree.find(c"/up", true).unwrap();
        tree.mount(at, Place::New, true);
        assert_eq!(is_there(&tree, c"/bin/anything"), Some(false));
        let at = tree.find(c"/up/local", true).unwrap();
        tree.mount(at, place(&dir), false);
        assert_eq!(is_there(&tree, c"/up/local/usr/bin"), Some(true));
        assert_eq!(is_there(&tree, c"/up/local/no"), None);
        let at = tree.find(c"/up", true).unwrap();
        tree.mount(at, Place::Empty, true);
        assert_eq!(is_there(&tree, c"/usr"), Some(false));
        assert_eq!(is_there(&tree, c"/usr/local"), None);
        let at = tree.find(c"/run/new/x", true).unwrap();
        tree.mount(at, Place::New, true);
        assert_eq!(is_there(&tree, c"/run/new/x/y"), Some(false));
        assert_eq!(is_there(&tree, c"/run/new/y"), None);
        let made = tree.find(c"/run/new", true).unwrap();
        assert_eq!(tree.is_own(&made), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
