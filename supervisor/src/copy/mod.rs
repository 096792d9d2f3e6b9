//! Copies between a container's files and a tar archive: for `cp`, and for the layer that `commit` makes.
//!
//! A container's tree is hostile: its processes may exchange any part of a path for a link while it is looked at (CVE-2018-15664), and put
//! libraries where a program of the host's would load them (CVE-2019-14271). So only a process that can reach nothing else touches it:
//! `worker` runs it for the daemon, `child` is it, `place` makes the container's tree its root, in a mount namespace of its own where nothing
//! can be executed and no device opened. It executes nothing once it is there. In it, `find` resolves what the user has named, by openat2(2)
//! from the root's descriptor, and what is below goes by descriptors and names that are no links: `pack` makes an archive of files,
//! `unpack` files of an archive. `rules` decides, by Docker's rules, where what is copied goes to.
//!
//! The client does the same with its user's files; there too, nothing that an archive says leads out of the target.

mod child;
pub(crate) mod find;
pub(crate) mod pack;
mod place;
pub(crate) mod rules;
pub(crate) mod unpack;
pub(crate) mod worker;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub(crate) use child::run as child;
use find::{What, find};
use rules::{Named, Place, Source};
use unpack::Naming;

use crate::way::open_child;

use crate::protos::containers::Container;

/// The action of `caissond` that copies; nobody but the daemon uses it.
pub(crate) const ACTION: &str = "copy";

/// Of every mount of a container's layers: what is in the upper directory is all that has changed, whatever the kernel does by default.
pub(crate) const OVERLAY_OPTIONS: [&str; 2] = ["redirect_dir=off", "metacopy=off"];

/// What the process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) root: Root,
    /// If the container has a user namespace: archives have its ids, not the host's.
    pub(crate) ids: Option<Ids>,
    pub(crate) task: Task,
}

/// A user namespace's: 0, 1 and so on inside are these of the host's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) first_uid: u32,
    pub(crate) first_gid: u32,
    pub(crate) size: u32,
}

impl Ids {
    pub(crate) fn of(record: &Container) -> Option<Self> {
        record.ids.as_ref().map(|ids| Self {
            first_uid: ids.first_uid,
            first_gid: ids.first_gid,
            size: ids.size,
        })
    }
}

/// What becomes its root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Root {
    /// That of the mount namespace whose descriptor it has in the place of the stream that it does not use.
    Running,
    /// Layers that are mounted nowhere.
    Stopped(Overlay),
    /// A directory.
    Directory(PathBuf),
}

/// A container's files while it does not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// Directories of layers, top first.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) binds: Vec<Bind>,
}

/// What the container has mounted when it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    /// What of it, if not all.
    pub(crate) within: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// If the container has a user namespace, its files have the ids that this has on the host.
    pub(crate) shifted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Says what there is, a [`Source`] in one line of JSON, and writes an archive of it.
    Out { path: Vec<u8>, follow: bool },
    /// The same of all of the root file system, with paths from there; nothing that is mounted in it.
    Root,
    /// Reads an archive.
    In {
        path: Vec<u8>,
        /// None for an archive from elsewhere, whose names are as they are.
        source: Option<Source>,
        /// All files become root's.
        to_root: bool,
    },
    /// Writes an archive of what an overlay's upper directory has, in the form of a layer.
    Layer {
        /// Paths of files and directories that are left out if there is nothing in them.
        left_out: Vec<String>,
    },
}

/// What the first part of names becomes, and the directory in which.
pub(crate) fn target(
    root: BorrowedFd<'_>,
    path: &[u8],
    source: Option<&Source>,
) -> Result<(Naming, OwnedFd)> {
    let named = Named::new(path);
    let found = find(root, path, true)?;
    let Some(source) = source else {
        let What::Directory(directory) = found.what else {
            bail!("an archive can only be copied to a directory that is there");
        };
        return Ok((Naming::Kept, directory));
    };
    match (rules::place(source, found.target(), &named)?, found.what) {
        (Place::Inside(None), What::Directory(directory)) => Ok((Naming::Contents, directory)),
        (Place::Inside(Some(name)), What::Directory(directory)) => {
            Ok((Naming::Named(name), directory))
        }
        _ => {
            let parent = open_child(found.parent.as_fd(), b".")?;
            Ok((Naming::Named(found.name), parent))
        }
    }
}
