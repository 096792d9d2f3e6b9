//! Whose the state directory is: one daemon's, and one store's for as long as containers of it may run. Another's daemon would take them for what
//! removals of its own have left, and end them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::fault::{Fault, Result, Tried as _};
use crate::host::{Host, plain};
use crate::store::lock;

/// Until the file is closed.
pub(super) fn take(host: &Host) -> Result<File> {
    let directory = &host.state;
    let story = || format!("take the state directory {}", directory.display());
    let lock = lock::take(&directory.join("lock")).tried(story)?;
    // Layers are named by where it leads.
    let root = plain(host.root.canonicalize().tried(story)?)?;
    let link = directory.join("root");
    match fs::read_link(&link) {
        Ok(other) if other == root => return Ok(lock),
        Ok(other) if has_entries(&host.bundle("")).tried(story)? => {
            return Err(Fault::precondition(format!(
                "{}: it has containers of the store in {}: name another one with --state",
                story(),
                other.display()
            )));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).tried(story),
        Ok(_) => fs::remove_file(&link).tried(story)?,
        Err(_) => {}
    }
    symlink(&root, &link).tried(story)?;
    Ok(lock)
}

fn has_entries(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
