//! Files → a tar archive.
//!
//! Runs in the confined process, and in the client. It goes down by descriptors and follows no link; what is exchanged for something else while
//! it looks is an error or left out, never followed. Files of a kernel's file systems (`/proc` and its like), which have no size and no end, are
//! left out below what was asked for. As the form of a layer, what overlayfs has in an upper directory becomes whiteouts.

use std::collections::{HashMap, HashSet, btree_set};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::archive::{Entry, Kind, PATH_LIMIT, Segment, Writer};
use crate::way::{Way, names, open_child};

const BUFFER: usize = 128 << 10;
/// Of what has no size, as the files of `/proc`, so much is read.
const SIZELESS: usize = 4 << 20;
/// Holes that are smaller in all are written as zeros: not everybody reads archives with holes.
const HOLES: u64 = 1 << 20;
/// Segments of one file, at most. What is behind them is written with its holes.
const SEGMENTS: usize = 10_000;
/// As the kernel shows ids that a user namespace has no number for.
const NOBODY: u32 = 65534;
const WHITEOUT: &[u8] = b".wh.";
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Magic numbers of file systems that are windows into the kernel: proc, sysfs, cgroup2, cgroup, devpts, mqueue, debugfs, tracefs, securityfs, bpf.
const KERNELS: [i64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x6367_7270,
    0x0027_e0eb,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

pub(crate) struct Packer<W: Write> {
    writer: Writer<W>,
    /// As a layer has it, without these if there is nothing in them.
    layer: Option<HashSet<Vec<u8>>>,
    /// How many ids there are for owners, if not all of them; others are nobody.
    ids: Option<u32>,
    /// Files with more than one name, by device and inode: the first of these names.
    names: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory that is not done yet.
struct Level {
    device: u64,
    names: btree_set::IntoIter<CString>,
    /// The length of its path.
    path: usize,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(target: W) -> Self {
        Self {
            writer: Writer::new(target),
            layer: None,
            ids: None,
            names: HashMap::new(),
            buffer: vec![0; BUFFER],
        }
    }

    /// In the form of a layer.
    pub(crate) fn of_layer(target: W, left_out: Vec<String>) -> Self {
        let left_out = left_out.into_iter().map(String::into_bytes);
        Self {
            layer: Some(left_out.collect()),
            ..Self::new(target)
        }
    }

    #[must_use]
    pub(crate) fn with_ids(self, ids: Option<u32>) -> Self {
        Self { ids, ..self }
    }

    pub(crate) fn finish(self) -> Result<W> {
        self.writer.finish()
    }

    /// A directory and all that is in it, under this path. The root of a layer has none.
    pub(crate) fn directory(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<()> {
        let top = directory.try_clone().with_context(|| of(path))?;
        let mut levels = vec![self.begin(&top, path)?];
        let (mut way, mut path) = (Way::new(top), path.to_vec());
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some(name) = level.names.next() else {
                levels.pop();
                way.up().with_context(|| {
                    format!("go up from {}, which was moved meanwhile", of(&path))
                })?;
                continue;
            };
            path = beside(&path, name.as_bytes());
            let device = level.device;
            if let Some(inner) = self.child(way.here(), name.as_bytes(), &path, device)? {
                levels.push(self.begin(&inner, &path)?);
                way.down(inner).with_context(|| of(&path))?;
            }
        }
        Ok(())
    }

    /// The directory alone.
    fn begin(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<Level> {
        let stat = rustix::fs::fstat(directory).with_context(|| of(path))?;
        let mut entry = self.entry(&stat, path, Kind::Directory);
        let mut opaque = false;
        for (name, value) in attributes(directory.as_fd()).with_context(|| of(path))? {
            match name.strip_prefix(OVERLAY) {
                None => entry.xattrs.push((name, value)),
                Some(b"opaque") => opaque = value == b"y",
                Some(b"redirect" | b"metacopy") if self.layer.is_some() => bail!(
                    "{} has its contents elsewhere in the layers below",
                    of(path)
                ),
                Some(_) => {}
            }
        }
        if !path.is_empty() {
            self.writer.entry(&entry)?;
        }
        if opaque && self.layer.is_some() {
            self.empty(&beside(path, b".wh..wh..opq"), &stat)?;
        }
        let names = names(directory.as_fd()).with_context(|| of(path))?;
        Ok(Level {
            device: stat.st_dev,
            names: names.into_iter(),
            path: path.len(),
        })
    }

    /// What a directory has under this name.
    pub(crate) fn file(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.other(dir, name, path, &stat, true),
            Err(errno) => Err(errno).with_context(|| of(path)),
        }
    }

    /// What is in a directory, unless it is one itself, which comes back.
    fn child(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        device: u64,
    ) -> Result<Option<OwnedFd>> {
        ensure!(
            path.len() <= PATH_LIMIT,
            "a path of more than {PATH_LIMIT} bytes, which is the most that can be archived: {}...",
            of(&path[..64])
        );
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was there a moment ago.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno).with_context(|| of(path)),
        };
        if self.layer.is_some() {
            ensure!(
                !name.starts_with(WHITEOUT),
                "{} would be a whiteout in a layer",
                of(path)
            );
            if self.is_left_out(dir, name, path, &stat)? {
                return Ok(None);
            }
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.other(dir, name, path, &stat, false)?;
            return Ok(None);
        }
        let inner = match open_child(dir, name) {
            Ok(inner) => inner,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno).with_context(|| of(path)),
        };
        if stat.st_dev != device && is_kernels(&inner).with_context(|| of(path))? {
            let entry = self.entry(&stat, path, Kind::Directory);
            self.writer.entry(&entry)?;
            return Ok(None);
        }
        Ok(Some(inner))
    }

    /// A place that only came to be because something was mounted there, or what was made for the container.
    fn is_left_out(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<bool> {
        if !self.layer.as_ref().is_some_and(|out| out.contains(path)) {
            return Ok(false);
        }
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => stat.st_size == 0,
            // /etc/mtab. Nothing is mounted on a link.
            FileType::Symlink => true,
            FileType::Directory => {
                let inner = open_child(dir, name).with_context(|| of(path))?;
                names(inner.as_fd()).with_context(|| of(path))?.is_empty()
            }
            _ => false,
        })
    }

    /// Anything but a directory.
    fn other(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        is_named: bool,
    ) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice if stat.st_rdev == 0 && self.layer.is_some() => {
                let cut = path.len() - name.len();
                return self.empty(&[&path[..cut], WHITEOUT, name].concat(), stat);
            }
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            // A socket is somebody who listens, and cannot be copied.
            _ => return Ok(()),
        };
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.names.get(&key)
        {
            let mut entry = self.entry(stat, path, Kind::HardLink);
            entry.link.clone_from(first);
            return self.writer.entry(&entry);
        }
        if kind == Kind::File {
            if !self.regular(dir, name, path, is_named)? {
                return Ok(());
            }
        } else {
            let mut entry = self.entry(stat, path, kind);
            if kind == Kind::Symlink {
                match rustix::fs::readlinkat(dir, name, Vec::new()) {
                    Ok(target) => entry.link = target.into_bytes(),
                    // It has gone, or become something else.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(errno).with_context(|| of(path)),
                }
            }
            if matches!(kind, Kind::Character | Kind::Block) {
                let (major, minor) = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                entry.device = (major, minor);
            }
            self.writer.entry(&entry)?;
        }
        if stat.st_nlink > 1 {
            self.names.insert(key, path.to_vec());
        }
        Ok(())
    }

    /// Whether it is still there.
    fn regular(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        is_named: bool,
    ) -> Result<bool> {
        // Should it have become a fifo, nobody waits for a writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
            Err(errno) => return Err(errno).with_context(|| of(path)),
        };
        let stat = rustix::fs::fstat(&file).with_context(|| of(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let mut entry = self.entry(&stat, path, Kind::File);
        entry.size = stat.st_size.cast_unsigned();
        for (name, value) in attributes(file.as_fd()).with_context(|| of(path))? {
            match name.strip_prefix(OVERLAY) {
                None => entry.xattrs.push((name, value)),
                Some(b"redirect" | b"metacopy") if self.layer.is_some() => {
                    bail!("{} has its contents in the layers below", of(path))
                }
                Some(_) => {}
            }
        }
        entry.segments = segments(&file, &stat).with_context(|| of(path))?;
        let mut file = File::from(file);
        let small = self
            .small(&mut file, &entry, is_named)
            .with_context(|| of(path))?;
        if let Some(contents) = small {
            entry.size = contents.len() as u64;
            self.writer.entry(&entry)?;
            if !contents.is_empty() {
                self.writer.data(&contents)?;
            }
            return Ok(true);
        }
        self.writer.entry(&entry)?;
        self.contents(&mut file, &entry, is_named)
            .with_context(|| of(path))?;
        Ok(true)
    }

    /// All of a file whose size may be wrong: the kernel's files have a page, or none, whatever is in them. Of the latter, those that somebody
    /// has named are read; what there is below a directory has no end.
    fn small(&mut self, file: &mut File, entry: &Entry, is_named: bool) -> Result<Option<Vec<u8>>> {
        if entry.size == 0 && is_named {
            return self.sizeless(file).map(Some);
        }
        if entry.size > BUFFER as u64 || entry.segments.is_some() {
            return Ok(None);
        }
        let mut contents = Vec::with_capacity(usize::try_from(entry.size)?);
        file.take(entry.size).read_to_end(&mut contents)?;
        Ok(Some(contents))
    }

    /// By the buffer: some of the kernel's files refuse to be read by a few bytes.
    fn sizeless(&mut self, file: &mut File) -> Result<Vec<u8>> {
        let mut contents = Vec::new();
        loop {
            let count = file.read(&mut self.buffer)?;
            if count == 0 {
                return Ok(contents);
            }
            contents.extend_from_slice(&self.buffer[..count]);
            ensure!(
                contents.len() <= SIZELESS,
                "it has no size, and more than {} MiB: read it with exec",
                SIZELESS >> 20
            );
        }
    }

    fn contents(&mut self, file: &mut File, entry: &Entry, is_named: bool) -> Result<()> {
        let whole = [Segment {
            offset: 0,
            length: entry.size,
        }];
        for segment in entry.segments.as_deref().unwrap_or(&whole) {
            if entry.segments.is_some() {
                rustix::fs::seek(&*file, SeekFrom::Start(segment.offset))?;
            }
            let mut left = segment.length;
            while left > 0 {
                let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                let count = file.read(&mut self.buffer[..most])?;
                if count == 0 {
                    // Its length has been announced. In a tree, one that is written all the time is no reason to have nothing: zeros, as GNU
                    // tar has it.
                    ensure!(
                        !is_named,
                        "it ended before its size of {} bytes: it became shorter while it was read",
                        entry.size
                    );
                    self.buffer[..most].fill(0);
                    self.writer.data(&self.buffer[..most])?;
                    left -= most as u64;
                    continue;
                }
                self.writer.data(&self.buffer[..count])?;
                left -= count as u64;
            }
        }
        Ok(())
    }

    /// A file whose name says all.
    fn empty(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let mut entry = self.entry(stat, path, Kind::File);
        (entry.mode, entry.uid, entry.gid) = (0o600, 0, 0);
        self.writer.entry(&entry)
    }

    fn entry(&self, stat: &Stat, path: &[u8], kind: Kind) -> Entry {
        let shown = |id: u32| match self.ids {
            Some(ids) if id >= ids => NOBODY,
            _ => id,
        };
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: shown(stat.st_uid),
            gid: shown(stat.st_gid),
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            segments: None,
        }
    }
}

fn of(path: &[u8]) -> String {
    format!("'{}'", String::from_utf8_lossy(path))
}

fn beside(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

fn is_kernels(directory: &OwnedFd) -> rustix::io::Result<bool> {
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(KERNELS.contains(&kind))
}

/// But for labels, which belong to a host's policy. What has none says so.
fn attributes(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut attributes = Vec::new();
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
    {
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno),
        }
        attributes.push((name.to_vec(), value));
    }
    attributes.sort();
    Ok(attributes)
}

/// Where there is data, if enough of the file is holes to say so.
pub(crate) fn segments(file: &OwnedFd, stat: &Stat) -> rustix::io::Result<Option<Vec<Segment>>> {
    let size = stat.st_size.cast_unsigned();
    let stored = stat.st_blocks.cast_unsigned().saturating_mul(512);
    if size.saturating_sub(stored) < HOLES {
        return Ok(None);
    }
    let (mut segments, mut at, mut bytes) = (Vec::new(), 0, 0);
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = if segments.len() + 1 < SEGMENTS {
            match rustix::fs::seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(size),
                // It has become shorter.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            }
        } else {
            size
        };
        if start >= end {
            break;
        }
        segments.push(Segment {
            offset: start,
            length: end - start,
        });
        bytes += end - start;
        at = end;
    }
    if size - bytes < HOLES {
        rustix::fs::seek(file, SeekFrom::Start(0))?;
        return Ok(None);
    }
    Ok(Some(segments))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
mod tests {
    use super::*;
    use crate::archive::Reader;
    use crate::fuzz::Scratch;
    use crate::way::tests::nest;
    use rustix::fs::mkdirat;

    #[test]
    fn an_archive_goes_as_deep_as_it_can_be_read() {
        let scratch = Scratch::new("packed");
        let innermost = nest(scratch.path(), PATH_LIMIT / 2);
        let pack = || {
            let directory = OwnedFd::from(File::open(scratch.path()).unwrap());
            let mut packer = Packer::new(Vec::new());
            packer.directory(&directory, b"")?;
            packer.finish()
        };
        let archive = pack().unwrap();
        let mut reader = Reader::new(&archive[..]);
        let (mut count, mut longest) = (0, 0);
        while let Some(entry) = reader.next().unwrap() {
            count += 1;
            longest = longest.max(entry.path.len());
        }
        assert_eq!((count, longest), (PATH_LIMIT / 2, PATH_LIMIT));
        mkdirat(&innermost, "d", Mode::RWXU).unwrap();
        let refused = pack().unwrap_err().to_string();
        assert!(refused.contains("the most that can be"), "{refused}");
    }

    #[test]
    fn what_has_no_size_is_read_as_far_as_it_can_be_kept() {
        let directory = OwnedFd::from(File::open("/proc/self").unwrap());
        let mut packer = Packer::new(Vec::new());
        packer.file(directory.as_fd(), b"cmdline", b"file").unwrap();
        // Of all that there may be in memory.
        let refused = packer.file(directory.as_fd(), b"pagemap", b"file");
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains("has no size, and more than"), "{refused}");
        let archive = packer.finish().unwrap();
        let command = std::fs::read("/proc/self/cmdline").unwrap();
        let mut parts = archive.windows(command.len());
        assert!(parts.any(|part| part == command));
    }

    #[test]
    fn a_file_that_becomes_shorter_has_zeros_for_what_was_announced_unless_it_was_asked_for() {
        let path = std::env::temp_dir().join(format!("caisson-pack-{}", std::process::id()));
        std::fs::write(&path, vec![b'x'; 2 * BUFFER]).unwrap();
        let mut packer = Packer::new(Vec::new());
        let mut file = File::open(&path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let mut entry = packer.entry(&stat, b"file", Kind::File);
        entry.size = stat.st_size.cast_unsigned();
        packer.writer.entry(&entry).unwrap();
        std::fs::write(&path, "short").unwrap();
        let fault = packer.contents(&mut file, &entry, true).unwrap_err();
        assert!(fault.to_string().contains("became shorter"), "{fault}");
        let mut packer = Packer::new(Vec::new());
        packer.writer.entry(&entry).unwrap();
        rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
        packer.contents(&mut file, &entry, false).unwrap();
        let archive = packer.finish().unwrap();
        let at = archive
            .windows(5)
            .position(|part| part == b"short")
            .unwrap();
        let contents = &archive[at + 5..at + 2 * BUFFER];
        assert!(contents.iter().all(|byte| *byte == 0));
        // With holes, it is as if it ended where it does.
        let mut stat = stat;
        (stat.st_size, stat.st_blocks) = (4 << 20, 0);
        let found = segments(&OwnedFd::from(file), &stat).unwrap().unwrap();
        assert_eq!(found.len(), 1);
        std::fs::remove_file(path).unwrap();
    }
}
