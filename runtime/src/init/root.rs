//! The container's root as a capability: the only way to reach a file in the container's tree.
//!
//! Runs in init. Every path is resolved by openat2(2) from one descriptor with RESOLVE_IN_ROOT and without magic links, so neither a link in
//! the image nor one that another container swaps in meanwhile leads out of it (CVE-2021-30465, CVE-2024-21626, CVE-2024-45310).
//! What comes back is a descriptor; nothing here hands out a path.

use super::{At, Digits, Done, Fail, Files};
use crate::plan::Op;
use crate::sys::{Errno, Result, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// As many links as the kernel itself follows (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

const PATH_MAX: usize = libc::PATH_MAX as usize;

/// The root directory of the container.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

/// What to create where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Directory,
    File,
}

impl Root {
    /// Takes an open directory as the root.
    pub(crate) fn new(directory: OwnedFd) -> Self {
        Root(directory)
    }

    /// The root of the mount namespace that this process is in.
    pub(crate) fn here() -> Done<Self> {
        fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY)
            .at(Op::Resolve)
            .map(Root)
    }

    /// Opens an existing file, following links inside the root.
    pub(crate) fn open(&self, path: &CStr, flags: i32) -> Result<OwnedFd> {
        fs::openat2(&self.0, path, flags, 0, IN_ROOT)
    }

    /// Opens a character device for reading and writing if it is this one, else ENODEV. What it is is known before it is opened: in the
    /// container's tree, anything may be in a device's place, and opening a fifo or a file of FUSE can block for ever.
    pub(crate) fn open_device(&self, path: &CStr, number: u64, files: &Files) -> Result<OwnedFd> {
        let found = self.open(path, libc::O_PATH)?;
        let stat = fs::stat(&found)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != number {
            return Err(Errno::ENODEV);
        }
        let reopen = Digits::fd_path(found.as_fd());
        fs::open_follow(&files.proc, reopen.as_c_str(), libc::O_RDWR)
    }

    /// Opens an existing file without following a link in the last component.
    pub(crate) fn open_last(&self, path: &CStr) -> Result<OwnedFd> {
        fs::openat2(&self.0, path, libc::O_PATH | libc::O_NOFOLLOW, 0, IN_ROOT)
    }

    /// The directory, created with its parents if missing.
    pub(crate) fn make_directory(&self, path: &CStr) -> Done<OwnedFd> {
        self.make(path, Missing::Directory)
    }

    /// The file at `path`, for use as a mount target: created if nothing is there.
    pub(crate) fn make(&self, path: &CStr, missing: Missing) -> Done<OwnedFd> {
        match self.open(path, libc::O_PATH) {
            Err(Errno::ENOENT) => self.create(path, missing).at(Op::Create),
            other => other.at(Op::Resolve),
        }
    }

    /// The directory that holds the last component, created if missing, and that component.
    pub(crate) fn parent<'a>(&self, path: &'a CStr) -> Done<(OwnedFd, &'a CStr)> {
        let bytes = path.to_bytes();
        let at = bytes
            .iter()
            .rposition(|b| *b == b'/')
            .map_or(0, |at| at + 1);
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[at..])
            .map_err(|_| Fail::from(Errno::EINVAL))?;
        if name.is_empty() {
            return Err(Fail::from(Errno::EINVAL));
        }
        let mut buffer = PathBuffer::new();
        buffer.set(&bytes[..at]).at(Op::Resolve)?;
        Ok((self.make_directory(buffer.as_c_str())?, name))
    }

    /// Walks `path`, creating what is missing. A link whose target does not exist is followed, and the target created inside the root:
    /// images have dangling links (/etc/resolv.conf) where engines mount files.
    fn create(&self, path: &CStr, missing: Missing) -> Result<OwnedFd> {
        let mut rest = PathBuffer::new();
        rest.set(path.to_bytes())?;
        let mut current = fs::openat2(&self.0, c"/", libc::O_PATH | libc::O_DIRECTORY, 0, IN_ROOT)?;
        let mut walked = PathBuffer::new();
        let mut links = 0;
        loop {
            let mut name = PathBuffer::new();
            let last = rest.take_component(&mut name)?;
            if name.is_empty() {
                return Ok(current);
            }
            let mut next = PathBuffer::new();
            next.set(walked.bytes())?;
            next.push(name.bytes())?;
            let kind = if last { missing } else { Missing::Directory };
            match self.step(&current, &next, &name, kind) {
                Err(Errno::ELOOP) if links < MAX_LINKS => {
                    links += 1;
                    let mut target = [0; PATH_MAX];
                    let length = fs::readlink(&current, name.as_c_str(), &mut target)?;
                    if target[0] == b'/' {
                        walked = PathBuffer::new();
                        current = fs::openat2(
                            &self.0,
                            c"/",
                            libc::O_PATH | libc::O_DIRECTORY,
                            0,
                            IN_ROOT,
                        )?;
                    }
                    rest.prepend(&target[..length])?;
                }
                Err(errno) => return Err(errno),
                Ok(opened) => {
                    current = opened;
                    walked = next;
                }
            }
        }
    }

    /// One component: what is there, or a new file or directory. ELOOP stands for a link to nothing.
    fn step(
        &self,
        current: &OwnedFd,
        path: &PathBuffer,
        name: &PathBuffer,
        kind: Missing,
    ) -> Result<OwnedFd> {
        match fs::openat2(&self.0, path.as_c_str(), libc::O_PATH, 0, IN_ROOT) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let name = name.as_c_str();
        let made = match kind {
            Missing::Directory => fs::mkdir(current, name, 0o755),
            Missing::File => fs::create(current, name, libc::O_RDONLY, 0o644).map(drop),
        };
        match made {
            // Either a dangling link, or somebody was faster, which the next open shows.
            Err(Errno::EEXIST) => match fs::stat_at(current, name, libc::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFLNK => {
                    return Err(Errno::ELOOP);
                }
                _ => {}
            },
            Err(errno) => return Err(errno),
            Ok(()) => {}
        }
        fs::openat2(
            current,
            name,
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS,
        )
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path on the stack, always NUL-terminated.
struct PathBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl PathBuffer {
    fn new() -> Self {
        PathBuffer {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    fn set(&mut self, path: &[u8]) -> Result<()> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[..path.len()].copy_from_slice(path);
        self.bytes[path.len()..].fill(0);
        self.length = path.len();
        Ok(())
    }

    /// Appends `/` and a component.
    fn push(&mut self, name: &[u8]) -> Result<()> {
        let length = self.length + 1 + name.len();
        if length >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.length] = b'/';
        self.bytes[self.length + 1..length].copy_from_slice(name);
        self.length = length;
        Ok(())
    }

    /// Moves the first component into `name`; true if it was the last.
    fn take_component(&mut self, name: &mut PathBuffer) -> Result<bool> {
        let start = self
            .bytes()
            .iter()
            .position(|b| *b != b'/')
            .unwrap_or(self.length);
        let end = self.bytes()[start..]
            .iter()
            .position(|b| *b == b'/')
            .map_or(self.length, |n| start + n);
        name.set(&self.bytes[start..end])?;
        let length = self.length - end;
        self.bytes.copy_within(end..self.length, 0);
        self.bytes[length..].fill(0);
        self.length = length;
        Ok(self.bytes().iter().all(|b| *b == b'/'))
    }

    /// Puts a link's target in front of what is left to walk.
    fn prepend(&mut self, target: &[u8]) -> Result<()> {
        let length = target.len() + 1 + self.length;
        if length >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes.copy_within(0..self.length, target.len() + 1);
        self.bytes[..target.len()].copy_from_slice(target);
        self.bytes[target.len()] = b'/';
        self.length = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> (std::path::PathBuf, Root) {
        let dir = std::env::temp_dir().join(format!("caisson-root-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = CString::new(dir.to_str().unwrap()).unwrap();
        let root = Root::new(fs::open(fs::CWD, &path, libc::O_PATH | libc::O_DIRECTORY).unwrap());
        (dir, root)
    }

    #[test]
    fn missing_directories_are_created_and_links_stay_inside() {
        let (dir, root) = scratch("links");
        symlink("/run", dir.join("abs")).unwrap();
        symlink("../../../../run/x", dir.join("up")).unwrap();
        root.make(c"/abs/a/b", Missing::Directory).unwrap();
        assert!(dir.join("run/a/b").is_dir());
        root.make(c"/up", Missing::File).unwrap();
        assert!(dir.join("run/x").is_file());
        root.make(c"/abs/../abs/c", Missing::File).unwrap();
        assert!(dir.join("run/c").is_file());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_loop_of_links_ends_in_an_error() {
        let (dir, root) = scratch("loop");
        symlink("b", dir.join("a")).unwrap();
        symlink("a", dir.join("b")).unwrap();
        assert!(root.make(c"/a/x", Missing::File).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_parent_of_a_name_at_the_root_is_the_root() {
        let (dir, root) = scratch("parent");
        let (_, name) = root.parent(c"/dev/null").unwrap();
        assert_eq!(name, c"null");
        assert!(dir.join("dev").is_dir());
        assert_eq!(root.parent(c"/x").unwrap().1, c"x");
        assert!(root.parent(c"/").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
