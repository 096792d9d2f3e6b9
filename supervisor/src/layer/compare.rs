//! Whether two directories hold the same files: a layer, and the same layer unpacked once more.
//!
//! Runs in the daemon. It goes by descriptors and follows no link, and says the first difference that it finds.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::walk::DEEPEST;
use crate::wanted::Wanted;

const BUFFER: usize = 64 << 10;

/// What differs, if anything. What directories have that the layer only `implies` is not its own. An error, if it is not `wanted` any more, or
/// deeper than anybody looks: each level takes descriptors and stack, and a layer may have more of them than a thread can go down.
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
    comparison.directories(there.as_fd(), fresh.as_fd(), Path::new("/"), 0)
}

struct Comparison<'a> {
    implied: &'a [Vec<u8>],
    wanted: &'a Wanted,
    /// Which files are the same one, on both sides.
    links: BTreeMap<u64, u64>,
}

/// What two entries of one name are.
enum Compared {
    Same,
    Differs(String),
    Directories(OwnedFd, OwnedFd),
}

impl Comparison<'_> {
    fn directories(
        &mut self,
        there: BorrowedFd<'_>,
        fresh: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<Option<String>> {
        ensure!(
            depth <= DEEPEST,
            "it has directories in more than {DEEPEST} others, and nobody looks so deep"
        );
        let of = |path: &Path| format!("compare {}", path.display());
        let names = |directory| names(directory).with_context(|| of(path));
        let (names, expected) = (names(there)?, names(fresh)?);
        // Each name once, whoever has it: a directory that is compared twice has its own compared four times, and so on down.
        for name in names.union(&expected) {
            self.wanted.check()?;
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            let compared = match (names.contains(name), expected.contains(name)) {
                (true, true) => self.entries(there, fresh, name, &path),
                (true, false) => Ok(Compared::Differs("does not belong there".to_owned())),
                (false, _) => Ok(Compared::Differs("is missing".to_owned())),
            };
            let found = match compared.with_context(|| of(&path))? {
                Compared::Same => None,
                Compared::Differs(what) => Some(format!("{} {what}", path.display())),
                Compared::Directories(there, fresh) => {
                    self.directories(there.as_fd(), fresh.as_fd(), &path, depth + 1)?
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn entries(
        &mut self,
        there: BorrowedFd<'_>,
        fresh: BorrowedFd<'_>,
        name: &CString,
        path: &Path,
    ) -> Result<Compared> {
        let (left, right) = (stat(there, name)?, stat(fresh, name)?);
        let implied = FileType::from_raw_mode(left.st_mode) == FileType::Directory
            && FileType::from_raw_mode(right.st_mode) == FileType::Directory
            && self
                .implied
                .iter()
                .any(|other| other[..] == path.as_os_str().as_bytes()[1..]);
        let differs = |what: &str| Ok(Compared::Differs(what.to_owned()));
        if let Some(what) = self::differs(&left, &right).filter(|_| !implied) {
            return differs(&format!("has another {what}"));
        }
        let kind = FileType::from_raw_mode(left.st_mode);
        if kind == FileType::Symlink {
            let read = |dir| rustix::fs::readlinkat(dir, name, Vec::new());
            return match read(there)? == read(fresh)? {
                true => Ok(Compared::Same),
                false => differs("has another target"),
            };
        }
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(Compared::Same);
        }
        if kind == FileType::RegularFile && left.st_nlink > 1 {
            match self.links.insert(left.st_ino, right.st_ino) {
                Some(before) if before == right.st_ino => return Ok(Compared::Same),
                Some(_) => return differs("is linked otherwise"),
                None => {}
            }
        }
        let (left, right) = (open(there, name)?, open(fresh, name)?);
        if !implied && attributes(left.as_fd())? != attributes(right.as_fd())? {
            return differs("has other attributes");
        }
        if kind == FileType::Directory {
            return Ok(Compared::Directories(left, right));
        }
        match same_bytes(left.into(), right.into(), self.wanted)? {
            true => Ok(Compared::Same),
            false => differs("has other contents"),
        }
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

pub(super) fn attributes(fd: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Scratch;
    use rustix::fs::{mkdirat, openat};

    #[test]
    fn what_is_deeper_than_anybody_looks_is_not_compared() {
        let scratch = Scratch::new("compare");
        for (depth, looks) in [(DEEPEST, true), (DEEPEST + 1, false)] {
            for name in ["there", "fresh"] {
                let mut directory: OwnedFd = File::open(scratch.path()).unwrap().into();
                for name in std::iter::once(name).chain(std::iter::repeat_n("d", depth)) {
                    // The first ones may be there.
                    mkdirat(&directory, name, Mode::RWXU).ok();
                    directory = openat(&directory, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
                }
            }
            let path = |name| scratch.path().join(name);
            let implied: Vec<_> = (1..=DEEPEST + 1)
                .map(|count| vec![&b"d"[..]; count].join(&b'/'))
                .collect();
            let (there, fresh) = (path("there"), path("fresh"));
            let found = difference(&there, &fresh, &implied, &Wanted::default());
            assert_eq!(found.is_ok(), looks, "{found:?}");
        }
    }
}
