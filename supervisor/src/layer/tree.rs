//! A layer's files, made one entry after the other.
//!
//! Runs in the confined process, and for copies in the client too. Every path is resolved by openat2(2) below the directory's descriptor, links included, and what is made is made
//! by the name in its parent's descriptor: an entry cannot reach anything outside. Whiteouts take the form of overlayfs: a character device
//! 0:0, and the attribute `trusted.overlay.opaque`. As the OCI image specification has it, they say nothing about files of the same layer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::Unpacked;
use super::blob::TOTAL;
use super::contents::copy;
use super::metadata::{finish_open, finish_special, times};
use crate::archive::{Entry, Kind, PATH_LIMIT, Reader};
use crate::digest::Digest;
use crate::way::{Way, names, open_child};
use crate::whole::Whole;

const WHITEOUT: &[u8] = b".wh.";
/// What aufs kept for itself, but for the one name that means something.
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
pub(super) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// As many as the kernel follows.
const LINKS: usize = 40;
/// Open parents that are remembered.
const PARENTS: usize = 64;
const BUFFER: usize = 128 << 10;
/// Nobody may run what is not complete.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// A directory that entries are made in.
struct Parent {
    directory: OwnedFd,
    /// Without links in it.
    path: Vec<u8>,
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Parent {
    /// The path of a directory in it. Through links, an archive may lead to where no path does; nobody could look there.
    fn join(&self, name: &[u8]) -> Result<Vec<u8>> {
        let path = match &*self.path {
            b"" => name.to_vec(),
            path => [path, name].join(&b'/'),
        };
        ensure!(
            path.len() < PATH_LIMIT,
            "a directory whose own path has {PATH_LIMIT} bytes or more"
        );
        Ok(path)
    }
}

/// What a part of a path is.
enum Down {
    To(Rc<Parent>),
    Link(Vec<u8>),
}

pub(crate) struct Tree {
    root: Rc<Parent>,
    /// No layer: nothing is a whiteout, and neither takes a directory a file's place nor a file that of a directory.
    copies: bool,
    /// For files that get their names when they are complete.
    descriptors: Option<Rc<OwnedFd>>,
    /// Emptied when anything that exists is replaced.
    parents: HashMap<Vec<u8>, Rc<Parent>>,
    /// Making a file in a directory changes its time, so that these are set at the end. By paths without links in them: one directory has one.
    directories: HashMap<Vec<u8>, (i64, u32)>,
    implied: HashSet<Vec<u8>>,
    opaque: bool,
    size: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(Parent {
                directory: root,
                path: Vec::new(),
            }),
            copies: false,
            descriptors: None,
            parents: HashMap::new(),
            directories: HashMap::new(),
            implied: HashSet::new(),
            opaque: false,
            size: 0,
            entries: 0,
            buffer: vec![0; BUFFER],
        }
    }

    /// A directory that takes copies of files, beside what it has. `descriptors` is as for [`Whole`].
    pub(crate) fn of_copies(root: OwnedFd, descriptors: Option<OwnedFd>) -> Self {
        Self {
            copies: true,
            descriptors: descriptors.map(Rc::new),
            ..Self::new(root)
        }
    }

    /// Makes what the entry says; `data` is at its bytes.
    pub(crate) fn add<R: Read>(&mut self, entry: &Entry, data: &mut Reader<R>) -> Result<()> {
        self.entries += 1;
        let path = clean(&entry.path)?;
        // An archive's idea of its own root is left out, as containerd does: often it is a temporary directory's.
        let Some(name) = path.last().copied() else {
            return Ok(());
        };
        if !self.copies && name != OPAQUE && path.iter().any(|part| part.starts_with(META)) {
            return Ok(());
        }
        let parent = path[..path.len() - 1].join(&b'/');
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| !self.copies) {
            return self.whiteout(name, hidden, &parent);
        }
        match entry.kind {
            Kind::Directory => return self.directory(entry, &parent, name),
            Kind::HardLink => return self.hard_link(entry, &parent, name),
            Kind::File => {
                let size = match self.copies {
                    false => self.file(entry, data, &parent, name)?,
                    true => self.copy_file(entry, data, &parent, name)?,
                };
                self.size += size;
                return Ok(());
            }
            Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => {}
        }
        self.make(&parent, name, |dir| match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(&entry.link, dir, name),
            kind => {
                let (kind, device) = match kind {
                    Kind::Character => (FileType::CharacterDevice, entry.device),
                    Kind::Block => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(entry.mode), device)
            }
        })?;
        let dir = self.parent(&parent)?;
        finish_special(dir.as_fd(), name, entry)
    }

    /// Sets the times of directories, and says what has come out.
    pub(super) fn finish(mut self, diff_id: Digest) -> Result<Unpacked> {
        self.set_times()?;
        let mut implied: Vec<_> = std::mem::take(&mut self.implied).into_iter().collect();
        implied.sort_unstable();
        for path in &implied {
            if let Ok(directory) = self.open_directory(path) {
                rustix::fs::futimens(&directory, &times((0, 0)))
                    .context("set the times of a directory")?;
            }
        }
        rustix::fs::futimens(&self.root, &times((0, 0))).context("set the times of the root")?;
        Ok(Unpacked {
            diff_id,
            size: self.size,
            entries: self.entries,
            opaque: self.opaque,
            implied,
        })
    }

    /// Sets the times of directories that were copied.
    pub(crate) fn finish_copies(self) -> Result<()> {
        self.set_times()
    }

    /// A directory, with those above it, unless it is there.
    pub(crate) fn make_directory(&mut self, path: &[u8]) -> Result<()> {
        self.parent(&clean(path)?.join(&b'/')).map(drop)
    }

    fn set_times(&self) -> Result<()> {
        for (path, mtime) in &self.directories {
            // One that was replaced by something else has no time to be set.
            match self.open_directory(path) {
                Ok(directory) => rustix::fs::futimens(&directory, &times(*mtime)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno),
            }
            .with_context(|| format!("set the times of '{}'", String::from_utf8_lossy(path)))?;
        }
        Ok(())
    }

    /// One whose path has no links in it.
    fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// The directory in which an entry is made; it is made too if it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Parent>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(known) = self.parents.get(path) {
            return Ok(Rc::clone(known));
        }
        let parent = match self.open_directory(path) {
            Ok(directory) => Rc::new(Parent {
                directory,
                path: path.to_vec(),
            }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_parent(path)?,
            Err(errno) => {
                return Err(errno).with_context(|| {
                    format!("open its directory '{}'", String::from_utf8_lossy(path))
                });
            }
        };
        if self.parents.len() >= PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.to_vec(), Rc::clone(&parent));
        Ok(parent)
    }

    /// Goes down part by part, through links as the kernel would, and makes what is missing: also what a link leads to that only the layers
    /// below have.
    fn make_parent(&mut self, path: &[u8]) -> Result<Rc<Parent>> {
        let of = || format!("make its directory '{}'", String::from_utf8_lossy(path));
        let reversed = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.rsplit(|byte| *byte == b'/');
            parts.map(<[u8]>::to_vec).collect()
        };
        let (mut parts, mut links) = (reversed(path), 0);
        let mut at = Rc::clone(&self.root);
        while let Some(name) = parts.pop() {
            match &*name {
                b"" | b"." => continue,
                b".." => at = self.above(&at).with_context(of)?,
                name => match self.go_down(&at, name).with_context(of)? {
                    Down::To(below) => at = below,
                    Down::Link(target) => {
                        links += 1;
                        if links > LINKS {
                            return Err(Errno::LOOP).with_context(of);
                        }
                        if target.starts_with(b"/") {
                            at = Rc::clone(&self.root);
                        }
                        parts.extend(reversed(&target));
                    }
                },
            }
        }
        Ok(at)
    }

    fn go_down(&mut self, at: &Rc<Parent>, name: &[u8]) -> Result<Down> {
        let path = at.join(name)?;
        let opened = open_child(at.as_fd(), name);
        let missing = matches!(opened, Err(Errno::NOENT));
        let directory = match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                if !missing {
                    let there = stat(at.as_fd(), name)?;
                    if is_link(&there) {
                        let target = rustix::fs::readlinkat(at, name, Vec::new())?;
                        return Ok(Down::Link(target.into_bytes()));
                    }
                    if !is_whiteout(&there) {
                        return Err(Errno::NOTDIR.into());
                    }
                    rustix::fs::unlinkat(at, name, AtFlags::empty())?;
                }
                rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
                let made = open_child(at.as_fd(), name)?;
                match missing {
                    true => drop(self.implied.insert(path.clone())),
                    // Of the layers below it is gone, but there is something new in its place.
                    false => {
                        set_opaque(made.as_fd())?;
                        self.directories.insert(path.clone(), (0, 0));
                    }
                }
                made
            }
            opened => opened?,
        };
        Ok(Down::To(Rc::new(Parent { directory, path })))
    }

    /// There is nothing above the root.
    fn above(&self, at: &Parent) -> rustix::io::Result<Rc<Parent>> {
        let Some(cut) = at.path.iter().rposition(|byte| *byte == b'/') else {
            return Ok(Rc::clone(&self.root));
        };
        let path = at.path[..cut].to_vec();
        let directory = self.open_directory(&path)?;
        Ok(Rc::new(Parent { directory, path }))
    }

    /// Makes something that is no directory, in place of what is there.
    fn make<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        how: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let dir = self.parent(parent)?;
        match how(dir.as_fd()) {
            Err(Errno::EXIST) => {
                self.parents.clear();
                if self.copies {
                    no_directory(&stat(dir.as_fd(), name)?)?;
                }
                remove(dir.as_fd(), name).context("replace what is there")?;
                Ok(how(dir.as_fd())?)
            }
            other => Ok(other?),
        }
    }

    fn directory(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let dir = self.parent(parent)?;
        let path = dir.join(name)?;
        let private = Mode::from_raw_mode(0o700);
        let mut covers = false;
        match rustix::fs::mkdirat(&dir, name, private) {
            Err(Errno::EXIST) if !is_directory(&stat(dir.as_fd(), name)?) => {
                ensure!(
                    !self.copies,
                    "a file is there, which a directory does not replace"
                );
                // What was here hid the directory of the layers below, and it stays hidden.
                self.parents.clear();
                rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
                rustix::fs::mkdirat(&dir, name, private)?;
                covers = true;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = open_child(dir.as_fd(), name)?;
        finish_open(made.as_fd(), entry)?;
        if covers {
            set_opaque(made.as_fd())?;
        }
        self.implied.remove(&path);
        self.directories.insert(path, entry.mtime);
        Ok(())
    }

    /// A second name, of what this layer has. What the target's path leads through is resolved inside of the layer; its last part is not followed.
    fn hard_link(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let shown = String::from_utf8_lossy(&entry.link).into_owned();
        let target = clean(&entry.link).with_context(|| format!("link to '{shown}'"))?;
        let (last, above) = target.split_last().context("a hard link to the root")?;
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut path = above.join(&b'/');
        path.insert(0, b'/');
        let from = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
            .with_context(|| format!("link to '{shown}', which is not in the layer"))?;
        let of = stat(from.as_fd(), last)
            .with_context(|| format!("link to '{shown}', which is not in the layer"))?;
        ensure!(
            !is_directory(&of),
            "link to '{shown}', which is a directory"
        );
        let dir = self.parent(parent)?;
        if let Ok(there) = stat(dir.as_fd(), name)
            && (there.st_dev, there.st_ino) == (of.st_dev, of.st_ino)
        {
            return Ok(());
        }
        self.make(parent, name, |dir| {
            rustix::fs::linkat(&from, *last, dir, name, AtFlags::empty())
        })
        .with_context(|| format!("link to '{shown}'"))
    }

    /// A copy has its name when it is complete: whoever is killed meanwhile leaves what was there as it was.
    fn copy_file<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut Reader<R>,
        parent: &[u8],
        name: &[u8],
    ) -> Result<u64> {
        let dir = self.parent(parent)?;
        if let Ok(there) = stat(dir.as_fd(), name) {
            no_directory(&there)?;
            self.parents.clear();
        }
        let descriptors = self.descriptors.clone();
        let descriptors = descriptors.as_ref().map(|fd| fd.as_fd());
        let mut whole = Whole::begin(dir.as_fd(), descriptors, PRIVATE)?;
        let stored = self.fill(&mut whole.file, entry, data)?;
        whole.end(name).context("replace what is there")?;
        Ok(stored)
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut Reader<R>,
        parent: &[u8],
        name: &[u8],
    ) -> Result<u64> {
        // A process that writes more is killed.
        ensure!(
            entry.size <= TOTAL,
            "it has {} bytes, and a file of a layer at most {TOTAL}",
            entry.size
        );
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make(parent, name, |dir| {
            rustix::fs::openat(dir, name, flags, PRIVATE)
        })?;
        self.fill(&mut fd.into(), entry, data)
    }

    fn fill<R: Read>(
        &mut self,
        file: &mut File,
        entry: &Entry,
        data: &mut Reader<R>,
    ) -> Result<u64> {
        let stored = match &entry.segments {
            None => copy(data, file, 0, entry.size, &mut self.buffer)?,
            Some(segments) => {
                let mut stored = 0;
                for segment in segments {
                    let (offset, length) = (segment.offset, segment.length);
                    stored += copy(data, file, offset, length, &mut self.buffer)?;
                }
                stored
            }
        };
        // Holes at the end.
        if stored < entry.size {
            rustix::fs::ftruncate(&*file, entry.size).context("set its size")?;
        }
        finish_open(file.as_fd(), entry)?;
        rustix::fs::futimens(&*file, &times(entry.mtime)).context("set its times")?;
        Ok(stored)
    }

    /// Hides what the layers below have: one name, or all in a directory.
    fn whiteout(&mut self, name: &[u8], hidden: &[u8], parent: &[u8]) -> Result<()> {
        let dir = self.parent(parent)?;
        if name == OPAQUE {
            if parent.is_empty() {
                self.opaque = true;
                return Ok(());
            }
            return set_opaque(dir.as_fd());
        }
        ensure!(
            !matches!(hidden, b"" | b"." | b".."),
            "it is a whiteout of nothing that can be in a directory"
        );
        match stat(dir.as_fd(), hidden) {
            // A directory of this layer has nothing of those below then. Anything else hides what is below anyway.
            Ok(there) if is_directory(&there) => {
                set_opaque(open_child(dir.as_fd(), hidden)?.as_fd())?;
                let path = dir.join(hidden)?;
                if self.implied.remove(&path) {
                    self.directories.insert(path, (0, 0));
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                Ok(
                    rustix::fs::mknodat(&dir, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                        .context("make a whiteout")?,
                )
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The parts of a path, as seen from the root: that of `/a` is `a`. One that leads up is refused.
fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        bail!("its path leads upwards");
    }
    Ok(parts)
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// What a copy asks of what is there before it puts something else in its place.
fn no_directory(there: &Stat) -> Result<()> {
    ensure!(
        !is_directory(there),
        "a directory is there, which a file does not replace"
    );
    Ok(())
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
        .context("make a directory opaque")
}

/// Removes a file, or a directory with all that is in it.
fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return Ok(other?),
    }
    let inner = open_child(dir, name)?;
    let mut levels = vec![names(inner.as_fd())?];
    let mut way = Way::new(inner);
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop_first() {
            match rustix::fs::unlinkat(way.here(), &name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                removed => {
                    removed?;
                    continue;
                }
            }
            let inner = open_child(way.here(), name.as_bytes())?;
            // Once it is empty, it goes.
            level.insert(name);
            levels.push(names(inner.as_fd())?);
            way.down(inner)?;
            continue;
        }
        levels.pop();
        way.up()?;
        if let Some(emptied) = levels.last_mut().and_then(BTreeSet::pop_first) {
            rustix::fs::unlinkat(way.here(), &emptied, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_seen_from_the_root_and_never_leads_up() {
        assert_eq!(clean(b"./a//b/").unwrap(), [b"a", b"b"]);
        assert_eq!(clean(b"/a/./b").unwrap(), [b"a", b"b"]);
        assert!(clean(b"./").unwrap().is_empty());
        for path in ["..", "../a", "a/../b", "/..", "a/.."] {
            assert!(clean(path.as_bytes()).is_err(), "{path}");
        }
        assert_eq!(clean(b"...").unwrap(), [b"..."]);
    }
}
