//! Directories that a layer has entries in and says nothing about: they are as the layers below have them.
//!
//! A layer is unpacked by itself, so such a directory is root's and open to all at first; but in an overlay the topmost one counts, and a layer with
//! `tmp/x` alone would make `/tmp` one that nobody else can write to. What is below differs from image to image, and images share the layer, which
//! therefore stays as it is: one more directory on top of all layers says what those directories are.
//!
//! Runs in the daemon, on what was unpacked; it opens directories by descriptor and follows no link.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::compare::attributes;
use super::metadata::times;
use super::tree::OPAQUE_ATTRIBUTE;
use crate::way::{Way, names, open_child};

/// What a layer has for a path.
#[derive(Clone, Copy)]
enum Seen {
    Directory {
        /// One above it is opaque: those below do not count. What it says of its own children says nothing about itself.
        alone: bool,
    },
    /// Nothing, and those below count.
    Nothing,
    /// Nothing, and those below do not count.
    Hidden,
}

struct Layer<'a> {
    /// To the nearest directory that it has.
    way: Way,
    /// For each directory on the way to where the tree is.
    seen: Vec<Seen>,
    implied: HashSet<&'a [u8]>,
}

/// The tree of all layers and the one that is made, at one directory of both: from one to the next it is a step or two, however deep they are.
struct Tree<'a> {
    /// The topmost first.
    layers: Vec<Layer<'a>>,
    into: Way,
    /// The names that lead here, and the times that these directories get when everything is in them.
    made: Vec<(&'a [u8], Timestamps)>,
}

/// Makes, in an empty directory, those that these layers imply, as they are in the tree of all of them, and has them on the disk. The topmost layer
/// comes first.
pub(crate) fn make(layers: &[(&Path, &[Vec<u8>])], into: &Path) -> Result<()> {
    let mut opened = Vec::new();
    for (path, implied) in layers {
        opened.push(Layer {
            way: Way::new(open(path)?.into()),
            seen: Vec::new(),
            implied: implied.iter().map(Vec::as_slice).collect(),
        });
    }
    let into = open(into)?;
    let mut tree = Tree {
        layers: opened,
        into: Way::new(into.try_clone().context("open a directory again")?.into()),
        made: Vec::new(),
    };
    let implied = layers.iter().flat_map(|(_, implied)| *implied);
    let mut paths: Vec<_> = implied.map(Vec::as_slice).collect();
    // What is in a directory comes behind it, and in front of what is beside it.
    paths.sort_unstable_by(|one, other| parts(one).cmp(parts(other)));
    for path in paths {
        let of = || format!("directory '{}' of a layer", String::from_utf8_lossy(path));
        tree.make(path).with_context(of)?;
    }
    tree.leave(0)?;
    sync(into.into()).context("make a directory durable")
}

/// Each directory of a tree, the times of all of them being set: the first one takes the others to the disk, too, where the file system has a journal.
fn sync(top: OwnedFd) -> Result<()> {
    let mut levels = vec![names(top.as_fd())?];
    let mut way = Way::new(top);
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop_first() {
            let inner = open_child(way.here(), name.as_bytes())?;
            levels.push(names(inner.as_fd())?);
            way.down(inner)?;
        } else {
            rustix::fs::fsync(way.here())?;
            levels.pop();
            way.up()?;
        }
    }
    Ok(())
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

impl<'a> Tree<'a> {
    /// With those above it; as far as there are such directories.
    fn make(&mut self, path: &'a [u8]) -> Result<()> {
        let both = self.made.iter().zip(parts(path));
        let common = both.take_while(|((name, _), part)| name == part).count();
        self.leave(common)?;
        let mut end = 0;
        for (depth, name) in parts(path).enumerate() {
            end += usize::from(depth > 0) + name.len();
            if depth >= common && !self.enter(&path[..end], name)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is such a directory.
    fn enter(&mut self, path: &[u8], name: &'a [u8]) -> Result<bool> {
        for layer in &mut self.layers {
            layer.down(name)?;
        }
        let Some(model) = self.model(path) else {
            for layer in &mut self.layers {
                layer.up()?;
            }
            return Ok(false);
        };
        rustix::fs::mkdirat(self.into.here(), name, Mode::RWXU)?;
        let made = open_child(self.into.here(), name)?;
        // Whatever the umask.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        let times = match model {
            Some(model) => resemble(made.as_fd(), model)?,
            None => times((0, 0)),
        };
        self.into.down(made)?;
        self.made.push((name, times));
        Ok(true)
    }

    /// Goes up, until so many names lead here. What was made in a directory has changed its time.
    fn leave(&mut self, depth: usize) -> Result<()> {
        while self.made.len() > depth
            && let Some((_, times)) = self.made.pop()
        {
            rustix::fs::futimens(self.into.here(), &times).context("set its times")?;
            self.into.up()?;
            for layer in &mut self.layers {
                layer.up()?;
            }
        }
        Ok(())
    }

    /// A directory of the tree of all layers as the topmost layer has it that says something about it, if any does. None if there is no such
    /// directory.
    fn model(&self, path: &[u8]) -> Option<Option<BorrowedFd<'_>>> {
        let mut implied = None;
        for layer in &self.layers {
            match layer.seen() {
                Seen::Directory { .. } if !layer.implied.contains(path) => {
                    return Some(Some(layer.way.here()));
                }
                Seen::Directory { alone } => {
                    implied = Some(None);
                    if alone {
                        break;
                    }
                }
                Seen::Nothing => {}
                Seen::Hidden => break,
            }
        }
        implied
    }
}

impl Layer<'_> {
    fn seen(&self) -> Seen {
        let root = Seen::Directory { alone: false };
        self.seen.last().copied().unwrap_or(root)
    }

    fn down(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        let mut seen = self.seen();
        if let Seen::Directory { mut alone } = seen {
            alone |= is_opaque(self.way.here());
            seen = match open_child(self.way.here(), name) {
                Ok(inner) => {
                    self.way.down(inner)?;
                    Seen::Directory { alone }
                }
                Err(Errno::NOENT) if !alone => Seen::Nothing,
                // A link or a file, a whiteout among them, hides what is below.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Seen::Hidden,
                Err(errno) => return Err(errno),
            };
        }
        self.seen.push(seen);
        Ok(())
    }

    fn up(&mut self) -> rustix::io::Result<()> {
        match self.seen.pop() {
            Some(Seen::Directory { .. }) => self.way.up(),
            _ => Ok(()),
        }
    }
}

fn open(layer: &Path) -> Result<File> {
    File::open(layer).with_context(|| format!("open {}", layer.display()))
}

/// It hides what layers below have of the same name.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value).is_ok_and(|_| value == *b"y")
}

/// Owner, attributes and mode, in this order: a change of owner takes file capabilities and the set-id bits away. Returns the times, which are set
/// last.
pub(crate) fn resemble(directory: BorrowedFd<'_>, model: BorrowedFd<'_>) -> Result<Timestamps> {
    let stat: Stat = rustix::fs::statat(model, "", AtFlags::EMPTY_PATH)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(directory, Some(uid), Some(gid))?;
    for (name, value) in attributes(model)? {
        if !name.starts_with(b"trusted.overlay.") {
            rustix::fs::fsetxattr(directory, name, &value, XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(times((stat.st_mtime, u32::try_from(stat.st_mtime_nsec)?)))
}
