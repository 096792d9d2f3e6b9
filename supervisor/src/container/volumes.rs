//! Directories of volumes: what a new one gets, the files that the image has at the place where it is mounted, and the removal of one whose
//! record has gone.
//!
//! Blocking calls, for a thread that may block.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Supervisor;
use super::create::blocking;
use super::layers::{Layers, same_owner};
use crate::fault::{Result, Tried as _};
use crate::host::Host;
use crate::layer::Snapshot;
use crate::lock::lock;
use crate::protos::containers::{Container as Record, mount::Kind};
use crate::records::Records;
use crate::removal::remove_tree;

/// Volumes that somebody fills, and the news that this has ended: two containers may be the first to use one.
#[derive(Debug, Default)]
pub(super) struct Filling {
    names: Mutex<HashSet<String>>,
    ended: Condvar,
}

/// Nobody else fills the volume until this is dropped.
struct Only<'a>(&'a Filling, &'a str);

impl Filling {
    /// Blocks.
    fn begin<'a>(&'a self, name: &'a str) -> Only<'a> {
        let busy = |names: &mut HashSet<String>| names.contains(name);
        let names = self.ended.wait_while(lock(&self.names), busy);
        names
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned());
        Only(self, name)
    }
}

impl Drop for Only<'_> {
    fn drop(&mut self) {
        lock(&self.0.names).remove(self.1);
        self.0.ended.notify_all();
    }
}

impl Supervisor {
    pub(super) fn fill_volumes(&self, record: &Record, snapshot: &Snapshot) -> Result<()> {
        let config = record.config.get_or_default();
        for mount in &config.mounts {
            let is_volume = mount.kind.enum_value() == Ok(Kind::VOLUME);
            // What has a part to be mounted is no new one.
            if !is_volume || mount.no_copy || !mount.subpath.is_empty() {
                continue;
            }
            let _only = self.filling.begin(&mount.source);
            fill(&self.host, &mount.source, &mount.target, &snapshot.lower).tried(|| {
                format!(
                    "copy the image's files at {} into volume {}",
                    mount.target, mount.source
                )
            })?;
        }
        Ok(())
    }

    /// Of volumes that have no record any more. Those are kept in mind until this has been done.
    pub(crate) async fn clear_volumes(&self, names: Vec<String>) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let (host, records) = (self.host.clone(), self.records.clone());
        blocking(move || remove_volumes(&host, &records, &names)).await
    }
}

/// All of them or none come in, whatever becomes of us and of the machine: they are complete beside the volume before the first is moved into
/// it, and the next start goes on with the moving. The directory itself stays, which others may have mounted. No volume has a name that begins
/// with a dot.
fn fill(host: &Host, name: &str, target: &str, lower: &[PathBuf]) -> io::Result<()> {
    let (volume, part, whole) = (host.volume(name), part(host, name), whole(host, name));
    if whole.exists() {
        return move_in(&whole, &volume);
    }
    if !is_empty(&volume) {
        return Ok(());
    }
    if part.exists() {
        remove_tree(&part)?;
    }
    fs::create_dir(&part)?;
    if !Layers::open(lower).copy(target, &part)? {
        return fs::remove_dir(&part);
    }
    if is_empty(&part) {
        same_owner(&rustix::fs::stat(&part)?, File::open(&volume)?)?;
        return fs::remove_dir(&part);
    }
    let directory = File::open(host.volume(""))?;
    rustix::fs::syncfs(&directory)?;
    fs::rename(&part, &whole)?;
    directory.sync_all()?;
    move_in(&whole, &volume)
}

/// Of volumes that have no record any more: one that cannot be removed keeps no other. Blocks.
pub(super) fn remove_volumes(host: &Host, records: &Records, names: &[String]) -> Result<()> {
    let (mut cleared, mut outcome) = (vec![], Ok(()));
    for name in names {
        let paths = [host.volume(name), part(host, name), whole(host, name)];
        match paths.iter().try_for_each(|path| removed(path)) {
            Ok(()) => cleared.push(name.clone()),
            failed => outcome = outcome.and(failed),
        }
    }
    if !cleared.is_empty() {
        // Or a power cut could bring back a directory that nobody remembers.
        sync(host).tried(|| format!("sync {}", host.volume("").display()))?;
        records.volumes_cleared(&cleared)?;
    }
    outcome
}

/// Has it on the disk which volumes there are.
pub(super) fn sync(host: &Host) -> io::Result<()> {
    File::open(host.volume(""))?.sync_all()
}

/// What is being copied for a volume, and what is complete.
fn part(host: &Host, name: &str) -> PathBuf {
    host.volume(&format!(".{name}.part"))
}

fn whole(host: &Host, name: &str) -> PathBuf {
    host.volume(&format!(".{name}"))
}

/// What somebody else has put there meanwhile stays.
fn move_in(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::open(to)?);
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        match renameat_with(&source, &name, &target, &name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            moved => moved?,
        }
    }
    same_owner(&rustix::fs::fstat(&source)?, &target)?;
    remove_tree(from)
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// It is not there afterwards.
pub(super) fn removed(path: &Path) -> Result<()> {
    remove_tree(path).tried(|| format!("remove {}", path.display()))
}
