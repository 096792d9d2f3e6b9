//! A file that has its name when it is complete, so that whoever is killed while he writes it leaves what was there as it was. Until then it has
//! none at all, where the file system can do that (O_TMPFILE), and nothing is left of it; elsewhere it has another one.
//!
//! Runs in the confined process that copies, and in the client.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, Result};

pub(crate) struct Whole<'a> {
    directory: BorrowedFd<'a>,
    pub(crate) file: File,
    descriptors: Option<BorrowedFd<'a>>,
    /// What it is called meanwhile, if it has to have a name.
    part: String,
    named: bool,
}

/// Where a process that is about to lose sight of /proc finds its own descriptors; nothing if it has lost it.
pub(crate) fn descriptors() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty()).ok()
}

impl<'a> Whole<'a> {
    /// A file without a name takes `descriptors` to get one.
    pub(crate) fn begin(
        directory: BorrowedFd<'a>,
        descriptors: Option<BorrowedFd<'a>>,
        mode: Mode,
    ) -> Result<Self> {
        let part = format!(".caisson-{}.part", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if descriptors.is_some() {
            match rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
                // KERNEL(6.1): overlayfs has none. Some file systems never do.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
                opened => {
                    return Ok(Self {
                        directory,
                        file: opened?.into(),
                        descriptors,
                        part,
                        named: false,
                    });
                }
            }
        }
        // Of one that was killed.
        unless_missing(rustix::fs::unlinkat(directory, &part, AtFlags::empty()))?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(directory, &part, flags, mode)?.into();
        Ok(Self {
            directory,
            file,
            descriptors: None,
            part,
            named: true,
        })
    }

    /// It is complete, and takes the place of what has this name.
    pub(crate) fn end(mut self, name: &[u8]) -> Result<()> {
        if let Some(descriptors) = self.descriptors {
            let own = self.file.as_fd().as_raw_fd().to_string();
            let link = |name: &[u8]| {
                let follow = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(descriptors, &own, self.directory, name, follow)
            };
            match link(name) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
            // There is no call that links over what is there.
            unless_missing(rustix::fs::unlinkat(
                self.directory,
                &self.part,
                AtFlags::empty(),
            ))?;
            link(self.part.as_bytes())?;
            self.named = true;
        }
        rustix::fs::renameat(self.directory, &self.part, self.directory, name)?;
        self.named = false;
        Ok(())
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if self.named {
            // What has led here is what is reported.
            rustix::fs::unlinkat(self.directory, &self.part, AtFlags::empty()).ok();
        }
    }
}

fn unless_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;

    #[test]
    fn a_file_has_its_name_at_its_end_only_and_nothing_is_left_of_another() {
        let path = std::env::temp_dir().join(format!("caisson-whole-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let directory = File::open(&path).unwrap();
        let names = || -> Vec<_> {
            let entries = fs::read_dir(&path).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let descriptors = descriptors();
        let begin = |way| Whole::begin(directory.as_fd(), way, Mode::from_raw_mode(0o600)).unwrap();
        // Without a name, where that works, and with another.
        for way in [descriptors.as_ref().map(|fd| fd.as_fd()), None] {
            for text in ["new", "over what is there"] {
                let mut whole = begin(way);
                whole.file.write_all(text.as_bytes()).unwrap();
                assert_eq!(
                    names().len(),
                    usize::from(whole.named) + usize::from(text != "new")
                );
                whole.end(b"file").unwrap();
                assert_eq!(names(), ["file"]);
                assert_eq!(fs::read_to_string(path.join("file")).unwrap(), text);
            }
            drop(begin(way));
            assert!(begin(way).end(b".").is_err());
            assert_eq!(names(), ["file"]);
            fs::remove_file(path.join("file")).unwrap();
        }
        fs::remove_dir(&path).unwrap();
    }
}
