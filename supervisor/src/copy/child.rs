//! The process that copies, `caissond copy PARENT REQUEST`.
//!
//! It is this program again, executed so that it has nothing of the daemon's, and executes nothing itself. Descriptors: of 0 and 1, that which
//! the task reads or writes is the archive, and the other the container's mount namespace, if it runs; 2 takes a text that says what is wrong.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};

use super::find::{What, find};
use super::pack::Packer;
use super::place::Access;
use super::rules::{Named, Source};
use super::unpack::{Owner, Unpacking};
use super::{Request, Task, place, target};
use crate::layer::{confine, decompressed};
use crate::whole;

const BUFFER: usize = 256 << 10;

/// What looking at files takes beyond what making them does, and giving a complete one its name.
const CALLS: &[i64] = &[
    libc::SYS_flistxattr,
    libc::SYS_fgetxattr,
    libc::SYS_fstatfs,
    libc::SYS_renameat,
    libc::SYS_renameat2,
];

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let [parent, request] = arguments else {
        bail!("only the daemon copies so");
    };
    // Whoever started the daemon may have left it more.
    crate::sys::close_from(3).context("close descriptors")?;
    let parent = parent.to_str().and_then(|pid| pid.parse().ok());
    let request = request.to_str().context("the request")?;
    let Request { root, ids, task } = serde_json::from_str(request).context("the request")?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let reads = !matches!(task, Task::In { .. });
    let parent = parent.context("the daemon's pid")?;
    let descriptors = whole::descriptors();
    confine::apart(parent)?;
    let namespace = if reads { stdin.as_fd() } else { stdout.as_fd() };
    let access = match task {
        Task::In { .. } => Access::Write,
        Task::Out { .. } | Task::Layer { .. } => Access::Read,
        Task::Root => Access::ReadAlone,
    };
    place::enter(&root, ids.as_ref(), namespace, access)?;
    if ids.is_some() {
        // Another identity is not held by what was said before.
        confine::guard(parent)?;
    }
    confine::shut_in(CALLS)?;
    let root: OwnedFd = File::open("/").context("open the root")?.into();
    let ids = ids.map(|ids| ids.size);
    let owned = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let out = || {
        let archive = owned(stdout.as_fd()).context("open the archive")?;
        Ok::<_, anyhow::Error>(BufWriter::with_capacity(BUFFER, archive))
    };
    match task {
        Task::In {
            path,
            source,
            to_root,
        } => {
            let archive = owned(stdin.as_fd()).context("open the archive")?;
            let owner = match to_root {
                true => Owner::Fixed(0, 0),
                false => Owner::Kept,
            };
            let (naming, directory) =
                target(root.as_fd(), &path, source.as_ref()).with_context(|| {
                    let path = String::from_utf8_lossy(&path);
                    format!("copy to '{path}' in the container")
                })?;
            Unpacking {
                naming,
                owner,
                ids,
                unprivileged: false,
            }
            .run(incoming(archive, source.is_none())?, directory, descriptors)
        }
        Task::Out { path, follow } => pack(root.as_fd(), out()?, &path, follow, ids),
        Task::Root => {
            let mut archive = out()?;
            let source = Source {
                name: vec![],
                directory: true,
                contents: true,
            };
            begin(&mut archive, &source)?;
            all(Packer::new(archive).with_ids(ids), &root)
        }
        Task::Layer { left_out } => all(Packer::of_layer(out()?, left_out).with_ids(ids), &root),
    }
}

/// What the client packs is not compressed; what it passes on may be.
fn incoming(archive: File, passed: bool) -> Result<Box<dyn Read>> {
    let archive = BufReader::with_capacity(BUFFER, archive);
    Ok(match passed {
        true => Box::new(decompressed(archive).context("read the archive")?),
        false => Box::new(archive),
    })
}

fn all(mut packer: Packer<impl Write>, root: &OwnedFd) -> Result<()> {
    packer.directory(root, b"")?;
    packer.finish().map(drop)
}

/// Says what comes.
fn begin(archive: &mut impl Write, source: &Source) -> Result<()> {
    writeln!(archive, "{}", serde_json::to_string(source)?).context("report")
}

/// Says what it is before it looks further.
fn pack(
    root: BorrowedFd<'_>,
    mut archive: impl Write,
    path: &[u8],
    follow: bool,
    ids: Option<u32>,
) -> Result<()> {
    let named = Named::new(path);
    let found = find(root, path, follow || named.directory)?;
    let shown = String::from_utf8_lossy(path);
    let source = Source {
        name: named.name(),
        directory: matches!(found.what, What::Directory(_)),
        contents: named.contents,
    };
    ensure!(
        source.directory || !named.directory || matches!(found.what, What::Nothing),
        "'{shown}' is no directory"
    );
    let top = match source.contents || source.name.is_empty() {
        true => b".",
        false => source.name.as_slice(),
    };
    if matches!(found.what, What::Nothing) {
        bail!("there is no '{shown}' in the container");
    }
    begin(&mut archive, &source)?;
    let mut packer = Packer::new(archive).with_ids(ids);
    match &found.what {
        What::Directory(directory) => packer.directory(directory, top)?,
        _ => packer.file(found.parent.as_fd(), &found.name, top)?,
    }
    packer.finish().map(drop)
}
