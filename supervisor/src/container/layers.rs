//! Reading single files of a container's tree without mounting it: the layers as overlayfs would put them together. Paths are walked part
//! by part from descriptors, links are followed within the tree: nothing outside of it can be reached.
//!
//! Blocking calls, for a thread that may block.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap, VecDeque, btree_set};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, linkat, openat, readlinkat, statat};

use crate::archive::Segment;
use crate::copy::pack::segments;
use crate::layer::Snapshot;
use crate::layer::implied::is_opaque;
use crate::way::open_child;

/// As the kernel's limit.
const MOST_LINKS: u32 = 40;

#[derive(Debug)]
pub(super) struct Layers {
    /// The topmost first.
    roots: Vec<OwnedFd>,
}

enum Entry {
    File(OwnedFd),
    Directory(Vec<OwnedFd>),
    Link(PathBuf),
    Other,
}

impl Layers {
    /// Of directories, the topmost first. One that is not there is empty.
    pub(super) fn open(directories: &[PathBuf]) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let roots = directories
            .iter()
            .filter_map(|path| openat(CWD, path, flags, Mode::empty()).ok());
        Self {
            roots: roots.collect(),
        }
    }

    /// A container's whole tree.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut directories = vec![snapshot.upper.clone()];
        directories.extend(snapshot.lower.iter().cloned());
        Self::open(&directories)
    }

    /// None if there is no such file.
    pub(super) fn file(&self, path: &str) -> Option<File> {
        match self.find(path)? {
            Entry::File(file) => Some(file.into()),
            _ => None,
        }
    }

    /// Whether there is anything, without following a link at its end.
    pub(super) fn has(&self, path: &Path) -> bool {
        let mut directories = self.all();
        let mut names: Vec<_> = path.components().filter_map(normal).collect();
        let Some(last) = names.pop() else { return true };
        for name in names {
            match look_up(&directories, &name) {
                Some(Entry::Directory(inner)) => directories = inner,
                _ => return false,
            }
        }
        look_up(&directories, &last).is_some()
    }

    /// Such a directory of the root's, as the topmost layer has it; none if there is something else, or nothing.
    pub(super) fn directory(&self, name: &str) -> Option<OwnedFd> {
        match look_up(&self.all(), Path::new(name))? {
            Entry::Directory(directories) => directories.into_iter().next(),
            _ => None,
        }
    }

    /// Copies what is below a directory of the tree into a directory of ours, with owners, attributes, modes, times and links. If there is no
    /// such directory, nothing: false.
    pub(super) fn copy(&self, path: &str, to: &Path) -> io::Result<bool> {
        let Some(Entry::Directory(directories)) = self.find(path) else {
            return Ok(false);
        };
        let to = openat(
            CWD,
            to,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut copy = Copy {
            root: &to,
            linked: HashMap::new(),
        };
        copy.below(directories, to.try_clone()?).map(|()| true)
    }

    fn all(&self) -> Vec<OwnedFd> {
        self.roots
            .iter()
            .filter_map(|root| root.try_clone().ok())
            .collect()
    }

    fn find(&self, path: &str) -> Option<Entry> {
        let mut left: VecDeque<PathBuf> = names(Path::new(path));
        // The way down from the root, for `..`.
        let mut way = vec![self.all()];
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name.as_os_str() == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            match look_up(way.last()?, &name)? {
                Entry::Directory(inner) => way.push(inner),
                Entry::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    if target.is_absolute() {
                        way.truncate(1);
                    }
                    for name in names(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                }
                found => return left.is_empty().then_some(found),
            }
        }
        Some(Entry::Directory(way.pop()?))
    }
}

fn normal(component: std::path::Component<'_>) -> Option<PathBuf> {
    match component {
        std::path::Component::Normal(name) => Some(PathBuf::from(name)),
        std::path::Component::ParentDir => Some("..".into()),
        _ => None,
    }
}

fn names(path: &Path) -> VecDeque<PathBuf> {
    path.components().filter_map(normal).collect()
}

/// A name in a directory that several layers may have.
fn look_up(directories: &[OwnedFd], name: &Path) -> Option<Entry> {
    let mut merged = vec![];
    for directory in directories {
        let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        // A whiteout: what is below is not there.
        if kind == FileType::CharacterDevice && found.st_rdev == 0 {
            break;
        }
        match kind {
            FileType::Directory => {
                let inner = open_child(directory.as_fd(), name.as_os_str().as_bytes()).ok()?;
                let opaque = is_opaque(inner.as_fd());
                merged.push(inner);
                if opaque {
                    break;
                }
            }
            // Below a directory, it is hidden.
            _ if !merged.is_empty() => break,
            FileType::RegularFile => {
                return Some(regular(directory, name).map_or(Entry::Other, Entry::File));
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, vec![]).ok()?;
                return Some(Entry::Link(PathBuf::from(std::ffi::OsStr::from_bytes(
                    target.as_bytes(),
                ))));
            }
            _ => return Some(Entry::Other),
        }
    }
    (!merged.is_empty()).then_some(Entry::Directory(merged))
}

/// Opens a file, which a container that runs may replace meanwhile: what else there may be then is not opened, since that alone can have
/// devices do something.
fn regular(directory: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(directory, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    File::open(path).map(OwnedFd::from)
}

/// Into an empty directory, which nobody else has.
struct Copy<'a> {
    root: &'a OwnedFd,
    /// Files of several names, by device and inode, and their first name in the copy.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// A directory that is not done yet, and becomes as the topmost then.
struct Level {
    directories: Vec<OwnedFd>,
    to: OwnedFd,
    names: btree_set::IntoIter<CString>,
}

impl Level {
    fn new(directories: Vec<OwnedFd>, to: OwnedFd) -> io::Result<Self> {
        let names = all_names(&directories)?.into_iter();
        Ok(Self {
            directories,
            to,
            names,
        })
    }
}

impl Copy<'_> {
    fn below(&mut self, directories: Vec<OwnedFd>, to: OwnedFd) -> io::Result<()> {
        let mut path = PathBuf::new();
        let mut levels = vec![Level::new(directories, to)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                let topmost = level.directories.first();
                topmost.map_or(Ok(()), |topmost| resemble(topmost, &level.to))?;
                levels.pop();
                path.pop();
                continue;
            };
            let name = Path::new(OsStr::from_bytes(name.as_bytes()));
            if let Some(inner) = self.entry(&level.directories, &level.to, name, &path)? {
                levels.push(inner);
                path.push(name);
            }
        }
        Ok(())
    }

    /// A directory is made, and comes back to be gone through.
    fn entry(
        &mut self,
        directories: &[OwnedFd],
        to: &OwnedFd,
        name: &Path,
        path: &Path,
    ) -> io::Result<Option<Level>> {
        let Some(entry) = look_up(directories, name) else {
            return Ok(None);
        };
        let found = || {
            let mut directories = directories.iter();
            directories
                .find_map(|directory| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok())
        };
        match entry {
            Entry::Directory(inner) => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let made = open_child(to.as_fd(), name.as_os_str().as_bytes())?;
                return Level::new(inner, made).map(Some);
            }
            Entry::File(file) => self.file(&file, to, name, path)?,
            Entry::Link(target) => {
                rustix::fs::symlinkat(&target, to, name)?;
                found().map_or(Ok(()), |found| same_owner_at(&found, to, name))?;
            }
            Entry::Other => found().map_or(Ok(()), |found| copy_node(&found, to, name))?,
        }
        Ok(None)
    }

    fn file(&mut self, of: &OwnedFd, to: &OwnedFd, name: &Path, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::fstat(of)?;
        if stat.st_nlink > 1 {
            match self.linked.entry((stat.st_dev, stat.st_ino)) {
                MapEntry::Occupied(first) => {
                    let first = first.get();
                    return Ok(linkat(self.root, first, to, name, AtFlags::empty())?);
                }
                MapEntry::Vacant(first) => drop(first.insert(path.join(name))),
            }
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        copy_data(of, &stat, &made)?;
        resemble(of, &made)
    }
}

/// Holes stay holes.
fn copy_data(of: &OwnedFd, stat: &Stat, mut to: &File) -> io::Result<()> {
    let mut from = File::from(of.try_clone()?);
    let Some(segments) = segments(of, stat)? else {
        return io::copy(&mut from, &mut to).map(drop);
    };
    for Segment { offset, length } in segments {
        from.seek(SeekFrom::Start(offset))?;
        to.seek(SeekFrom::Start(offset))?;
        io::copy(&mut (&from).take(length), &mut to)?;
    }
    to.set_len(stat.st_size.cast_unsigned())
}

fn all_names(directories: &[OwnedFd]) -> io::Result<BTreeSet<CString>> {
    let mut names = BTreeSet::new();
    for directory in directories {
        // Roots are open for their paths only.
        let readable = openat(
            directory,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        names.extend(crate::way::names(readable.as_fd())?);
    }
    Ok(names)
}

/// A fifo or a device. A socket is somebody who listens, and cannot be copied.
fn copy_node(of: &Stat, to: &OwnedFd, name: &Path) -> io::Result<()> {
    let kind = FileType::from_raw_mode(of.st_mode);
    if !matches!(
        kind,
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice
    ) {
        return Ok(());
    }
    rustix::fs::mknodat(to, name, kind, Mode::empty(), of.st_rdev)?;
    same_owner_at(of, to, name)
}

/// Of what is not to be opened.
fn same_owner_at(of: &Stat, to: &OwnedFd, name: &Path) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = owner(of);
    rustix::fs::chownat(to, name, Some(uid), Some(gid), flags)?;
    // A link has none.
    if FileType::from_raw_mode(of.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, mode(of), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, name, &times(of), flags)?)
}

/// In all that a file has but its bytes.
pub(super) fn resemble(of: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let times = crate::layer::implied::resemble(to.as_fd(), of.as_fd());
    Ok(rustix::fs::futimens(to, &times.map_err(io::Error::other)?)?)
}

/// The mode last: a change of owner takes the set-id bits away.
pub(super) fn same_owner(of: &Stat, to: impl AsFd) -> io::Result<()> {
    let (uid, gid) = owner(of);
    rustix::fs::fchown(&to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&to, mode(of))?;
    Ok(rustix::fs::futimens(&to, &times(of))?)
}

fn owner(of: &Stat) -> (rustix::fs::Uid, rustix::fs::Gid) {
    (
        rustix::fs::Uid::from_raw(of.st_uid),
        rustix::fs::Gid::from_raw(of.st_gid),
    )
}

fn mode(of: &Stat) -> Mode {
    Mode::from_raw_mode(of.st_mode & 0o7777)
}

pub(super) fn times(of: &Stat) -> rustix::fs::Timestamps {
    let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    rustix::fs::Timestamps {
        last_access: time(of.st_atime, of.st_atime_nsec),
        last_modification: time(of.st_mtime, of.st_mtime_nsec),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the test's own")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn layers_are_one_tree() {
        let scratch = std::env::temp_dir().join(format!("caisson-layers-{}", std::process::id()));
        let (top, low) = (scratch.join("top"), scratch.join("low"));
        for directory in ["top/etc", "low/etc", "low/usr/etc"] {
            fs::create_dir_all(scratch.join(directory)).unwrap();
        }
        fs::write(scratch.join("outside"), "outside").unwrap();
        fs::write(low.join("etc/group"), "low").unwrap();
        fs::write(low.join("etc/both"), "low").unwrap();
        fs::write(top.join("etc/both"), "top").unwrap();
        fs::write(low.join("usr/etc/passwd"), "moved").unwrap();
        symlink("/usr/etc/passwd", top.join("etc/passwd")).unwrap();
        symlink("../../../../outside", top.join("etc/out")).unwrap();
        symlink("loop", top.join("etc/loop")).unwrap();
        let layers = Layers::open(&[top, low]);
        let read = |path| {
            layers
                .file(path)
                .map(|file| std::io::read_to_string(file).unwrap())
        };
        assert_eq!(read("/etc/group").unwrap(), "low");
        assert_eq!(read("/etc/both").unwrap(), "top");
        assert_eq!(read("/etc/passwd").unwrap(), "moved");
        assert_eq!(read("/etc/out"), None);
        assert_eq!(read("/etc/loop"), None);
        assert_eq!(read("/etc"), None);
        assert!(layers.has(Path::new("etc/loop")) && !layers.has(Path::new("etc/nothing")));
        fs::remove_dir_all(scratch).unwrap();
    }
}
