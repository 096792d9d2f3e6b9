//! `--pid-file`: whoever waits for the file reads a whole number in it, without a newline.
//!
//! It is written before it has a name, so that a command that is killed over it leaves nothing beside it: no other command would know.

use crate::report::{Context, Error, Kind, Result};
use crate::sys::{self, Errno};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{linkat, unlink};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Writes the pid to the file, in place of one that is there.
pub(super) fn write(path: &Path, pid: i32) -> Result<()> {
    let story = || format!("write pid file {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            Kind::Usage,
            format!("{}: not a file name", story()),
        ));
    };
    let pid = pid.to_string();
    match nameless(path) {
        Ok(mut file) => {
            file.write_all(pid.as_bytes()).context(story)?;
            link(&file, path).context(story)
        }
        // The file system has no such files (NFS, FUSE); old kernels tell by EISDIR.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => {
            let mut unfinished = OsString::from(".");
            unfinished.push(name);
            replace(&path.with_file_name(unfinished), path, &pid).context(story)
        }
        Err(errno) => Err(Error::os(story(), errno)),
    }
}

/// A file without a name, on the file system of this path.
fn nameless(path: &Path) -> sys::Result<File> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    open(directory, flags, Mode::from_bits_truncate(0o666)).map(File::from)
}

fn link(file: &File, path: &Path) -> sys::Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || {
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, source.as_str(), AT_FDCWD, path, flags)
    };
    match link() {
        Err(Errno::EEXIST) => {
            unlink(path)?;
            link()
        }
        other => other,
    }
}

/// Writes the file under another name, and renames it.
fn replace(unfinished: &Path, path: &Path, pid: &str) -> io::Result<()> {
    let create = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(unfinished)
    };
    let mut file = match create() {
        // Left by a command that was killed.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(unfinished)?;
            create()?
        }
        other => other?,
    };
    file.write_all(pid.as_bytes())?;
    std::fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_replace_what_is_there_and_leave_nothing_beside() {
        let scratch = std::env::temp_dir().join(format!("caisson-pid-file-{}", std::process::id()));
        std::fs::create_dir(&scratch).unwrap();
        let (path, unfinished) = (scratch.join("pid"), scratch.join(".pid"));
        for pid in [1, 23456] {
            write(&path, pid).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), pid.to_string());
        }
        File::create_new(&unfinished).unwrap();
        replace(&unfinished, &path, "7").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1);
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
