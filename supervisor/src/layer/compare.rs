//! Whether two directories hold the same files: a layer, and the same layer unpacked once more.
//!
//! Runs in the daemon. It goes by descriptors and follows no link, and says the first difference that it finds.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::wanted::Wanted;

const BUFFER: usize = 64 << 10;

/// What differs, if anything. What directories have that the layer only `implies` is not its own. An error, if it is not `wanted` any more.
pub(crate) fn difference(
    there: &Path,
    fresh: &Path,
    implied: &[Vec<u8>],
    wanted: &Wanted,
) -> Result<Option<String>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (there, fresh) = (open(there)?, open(fresh)?);
    let mut comparison = Comparison {
        implied,
        wanted,
        links: BTreeMap::new(),
    };
    comparison.directories(there.as_fd(), fresh.as_fd(), Path::new("/"))
}

struct Comparison<'a> {
    implied: &'a [Vec<u8>],
    wanted: &'a Wanted,
    /// Which files are the same one, on both sides.
    links: BTreeMap<u64, u64>,
}

impl Comparison<'_> {
    fn directories(
        &mut self,
        there: BorrowedFd<'_>,
        fresh: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<Option<String>> {
        let (names, expected) = (names(there)?, names(fresh)?);
        // Each name once, whoever has it: a directory that is compared twice has its own compared four times, and so on down.
        for name in names.union(&expected) {
            self.wanted.check()?;
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            let found = match (names.contains(name), expected.contains(name)) {
                (true, true) => self.entries(there, fresh, name, path.clone()),
                (true, false) => Ok(Some(format!("{} does not belong there", path.display()))),
                (false, _) => Ok(Some(format!("{} is missing", path.display()))),
            };
            if let Some(what) = found.with_context(|| format!("compare {}", path.display()))? {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    fn entries(
        &mut self,
        there: BorrowedFd<'_>,
        fresh: BorrowedFd<'_>,
        name: &CString,
        path: PathBuf,
    ) -> Result<Option<String>> {
        let (left, right) = (stat(there, name)?, stat(fresh, name)?);
        let implied = FileType::from_raw_mode(left.st_mode) == FileType::Directory
            && FileType::from_raw_mode(right.st_mode) == FileType::Directory
            && self
                .implied
                .iter()
                .any(|other| other[..] == path.as_os_str().as_bytes()[1..]);
        if let Some(what) = differs(&left, &right).filter(|_| !implied) {
            return Ok(Some(format!("{} has another {what}", path.display())));
        }
        let kind = FileType::from_raw_mode(left.st_mode);
        if kind == FileType::Symlink {
            let read = |dir| rustix::fs::readlinkat(dir, name, Vec::new());
            if read(there)? != read(fresh)? {
                return Ok(Some(format!("{} has another target", path.display())));
            }
            return Ok(None);
        }
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(None);
        }
        if kind == FileType::RegularFile && left.st_nlink > 1 {
            match self.links.insert(left.st_ino, right.st_ino) {
                Some(before) if before == right.st_ino => return Ok(None),
                Some(_) => return Ok(Some(format!("{} is linked otherwise", path.display()))),
                None => {}
            }
        }
        let (left, right) = (open(there, name)?, open(fresh, name)?);
        if !implied && attributes(left.as_fd())? != attributes(right.as_fd())? {
            return Ok(Some(format!("{} has other attributes", path.display())));
        }
        if kind == FileType::Directory {
            return self.directories(left.as_fd(), right.as_fd(), &path);
        }
        if same_bytes(left.into(), right.into(), self.wanted)? {
            return Ok(None);
        }
        Ok(Some(format!("{} has other contents", path.display())))
    }
}

fn differs(there: &Stat, fresh: &Stat) -> Option<&'static str> {
    let directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
    [
        ("mode", there.st_mode != fresh.st_mode),
        (
            "owner",
            (there.st_uid, there.st_gid) != (fresh.st_uid, fresh.st_gid),
        ),
        ("device number", there.st_rdev != fresh.st_rdev),
        ("size", !directory && there.st_size != fresh.st_size),
        (
            "number of links",
            !directory && there.st_nlink != fresh.st_nlink,
        ),
        (
            "time",
            // A whiteout has the time at which it was made.
            !is_whiteout(there)
                && (there.st_mtime, there.st_mtime_nsec) != (fresh.st_mtime, fresh.st_mtime_nsec),
        ),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn names(directory: BorrowedFd<'_>) -> Result<std::collections::BTreeSet<CString>> {
    let mut names = std::collections::BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.insert(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn stat(dir: BorrowedFd<'_>, name: &CString) -> Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open(dir: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

pub(crate) fn attributes(fd: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::flistxattr(fd, &mut list)?;
    let mut attributes = BTreeMap::new();
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(fd, name, &mut value)?;
        value.truncate(length);
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

fn same_bytes(mut there: File, mut fresh: File, wanted: &Wanted) -> Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        wanted.check()?;
        let count = there.read(&mut left)?;
        if count == 0 {
            return Ok(fresh.read(&mut right)? == 0);
        }
        match fresh.read_exact(&mut right[..count]) {
            Ok(()) if left[..count] == right[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
