//! Whether two directories hold the same files: a layer, and the same layer unpacked once more.
//!
//! Runs in the daemon. It goes by descriptors and follows no link, and says the first difference that it finds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::wanted::Wanted;
use crate::way::{Way, names};

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
        implied: implied.iter().map(Vec::as_slice).collect(),
        wanted,
        links: BTreeMap::new(),
    };
    comparison.directories(there.into(), fresh.into())
}

struct Comparison<'a> {
    implied: HashSet<&'a [u8]>,
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

/// What is left of two directories.
struct Level {
    there: BTreeSet<CString>,
    fresh: BTreeSet<CString>,
}

impl Level {
    fn new(there: BorrowedFd<'_>, fresh: BorrowedFd<'_>) -> Result<Self> {
        let (there, fresh) = (names(there)?, names(fresh)?);
        Ok(Self { there, fresh })
    }

    /// The next name, and whether both have it, or only one of them. Each once, whoever has it: a directory that is compared twice has its own
    /// compared four times, and so on down.
    fn next(&mut self) -> Option<(CString, (bool, bool))> {
        let name = match (self.there.first(), self.fresh.first()) {
            (Some(there), Some(fresh)) => there.min(fresh),
            (there, fresh) => there.or(fresh)?,
        };
        let name = name.clone();
        let whose = (self.there.remove(&name), self.fresh.remove(&name));
        Some((name, whose))
    }
}

impl Comparison<'_> {
    fn directories(&mut self, there: OwnedFd, fresh: OwnedFd) -> Result<Option<String>> {
        let mut path = PathBuf::from("/");
        let of = |path: &Path| format!("compare {}", path.display());
        let level = Level::new(there.as_fd(), fresh.as_fd());
        let mut levels = vec![level.with_context(|| of(&path))?];
        let (mut there, mut fresh) = (Way::new(there), Way::new(fresh));
        while let Some(level) = levels.last_mut() {
            self.wanted.check()?;
            let Some((name, whose)) = level.next() else {
                levels.pop();
                let up = there.up().and_then(|()| fresh.up());
                up.with_context(|| format!("go up from {}", path.display()))?;
                path.pop();
                continue;
            };
            path.push(OsStr::from_bytes(name.as_bytes()));
            let compared = match whose {
                (true, true) => self.entries(there.here(), fresh.here(), &name, &path),
                (true, false) => Ok(Compared::Differs("does not belong there".to_owned())),
                (false, _) => Ok(Compared::Differs("is missing".to_owned())),
            };
            match compared.with_context(|| of(&path))? {
                Compared::Same => drop(path.pop()),
                Compared::Differs(what) => return Ok(Some(format!("{} {what}", path.display()))),
                Compared::Directories(left, right) => {
                    let level = Level::new(left.as_fd(), right.as_fd());
                    levels.push(level.with_context(|| of(&path))?);
                    let down = there.down(left).and_then(|()| fresh.down(right));
                    down.with_context(|| of(&path))?;
                }
            }
        }
        Ok(None)
    }

    fn entries(
        &mut self,
        there: BorrowedFd<'_>,
        fresh: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
    ) -> Result<Compared> {
        let (left, right) = (stat(there, name)?, stat(fresh, name)?);
        let implied = FileType::from_raw_mode(left.st_mode) == FileType::Directory
            && FileType::from_raw_mode(right.st_mode) == FileType::Directory
            && self.implied.contains(&path.as_os_str().as_bytes()[1..]);
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

fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
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
    use crate::archive::PATH_LIMIT;
    use crate::fuzz::Scratch;
    use crate::way::tests::nest;
    use rustix::fs::{fchmod, mkdirat};

    #[test]
    fn what_is_as_deep_as_a_layer_can_be_is_compared_to_its_end() {
        let scratch = Scratch::new("compare");
        let root = File::open(scratch.path()).unwrap();
        let depth = PATH_LIMIT / 2;
        let [there, fresh] = ["there", "fresh"].map(|name| {
            mkdirat(&root, name, Mode::RWXU).unwrap();
            let path = scratch.path().join(name);
            let innermost = nest(&path, depth);
            (path, innermost)
        });
        let implied: Vec<_> = (1..depth)
            .map(|count| vec![&b"d"[..]; count].join(&b'/'))
            .collect();
        let same = [&there, &fresh].map(|(_, innermost)| {
            let time = super::super::metadata::times((0, 0));
            rustix::fs::futimens(innermost, &time)
        });
        assert_eq!(same, [Ok(()), Ok(())]);
        let difference = || difference(&there.0, &fresh.0, &implied, &Wanted::default()).unwrap();
        assert_eq!(difference(), None);
        fchmod(&there.1, Mode::RUSR).unwrap();
        let path = "/d".repeat(depth);
        assert_eq!(difference(), Some(format!("{path} has another mode")));
    }
}
