//! A container's bundle, on a file system that does not survive a reboot: config.json, the files of /etc that are its own, the fifo for
//! its input, and the address of its shim. It is there while a shim may be.
//!
//! Blocking calls, for a thread that may block.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::fs::{CWD, FileType};
use rustix::mount::MoveMountFlags;
use serde::Deserialize;

use crate::fault::{Result, Tried as _};
use crate::protos::containers::Ids;

const SHIM: &str = "shim";
const FROZEN: &str = "frozen";
/// Its /dev/shm, if others may have it too.
const SHM: &str = "shm";
/// Parts of volumes that it has mounted.
const PINNED: &str = "volumes";

/// Makes it anew. Nobody on the host goes through it to the container's files, of which programs may be set-id (CVE-2021-41103): but for its
/// own root, if it has ids of its own, as some runtimes find its files, and what is mounted from here, as him.
pub(super) fn make(bundle: &Path, ids: Option<&Ids>) -> Result<()> {
    remove(bundle)?;
    let directory = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
    let made = || -> io::Result<()> {
        bundle.parent().map_or(Ok(()), |it| directory(it, 0o711))?;
        directory(bundle, 0o700)?;
        if let Some(ids) = ids {
            chown(bundle, None, Some(ids.first_gid))?;
            fs::set_permissions(bundle, Permissions::from_mode(0o710))?;
        }
        directory(&bundle.join("rootfs"), 0o711)
    };
    made().tried(|| format!("make {}", bundle.display()))
}

/// One of an earlier version, which all could go through.
pub(super) fn close(bundle: &Path) -> Result<()> {
    let closed = || -> io::Result<()> {
        if fs::symlink_metadata(bundle)?.mode() & 0o007 == 0 {
            return Ok(());
        }
        fs::set_permissions(bundle, Permissions::from_mode(0o700))
    };
    closed().tried(|| format!("keep others out of {}", bundle.display()))
}

/// With what may still be mounted in it, and the socket of its shim, which a shim that was killed leaves.
pub(super) fn remove(bundle: &Path) -> Result<()> {
    if let Some(path) = shim(bundle)
        .as_deref()
        .and_then(|address| address.split_once("unix://"))
    {
        // Usually the shim has removed it.
        fs::remove_file(path.1).ok();
    }
    for place in ["rootfs", SHM] {
        detach(&bundle.join(place));
    }
    unpin(bundle).tried(|| format!("let go of the volumes in {}", bundle.display()))?;
    match fs::remove_dir_all(bundle) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).tried(|| format!("remove {}", bundle.display()))
        }
        _ => Ok(()),
    }
}

/// A file of its own in the bundle.
pub(super) fn write(bundle: &Path, name: &str, content: &str, mode: u32) -> Result<PathBuf> {
    let path = bundle.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&path)
        .and_then(|mut file| file.write_all(content.as_bytes()));
    written.tried(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Where the container's /dev/shm is that others may have too.
pub(super) fn shm(bundle: &Path) -> PathBuf {
    bundle.join(SHM)
}

/// A /dev/shm that others may have too, of so many bytes.
pub(super) fn make_shm(bundle: &Path, size: u64, (uid, gid): (u32, u32)) -> Result<PathBuf> {
    let path = shm(bundle);
    let options = format!("mode=1777,size={size},uid={uid},gid={gid}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir(&path).tried(|| format!("make {}", path.display()))?;
    mount(
        Some("shm"),
        &path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .tried(|| format!("mount a tmpfs on {}", path.display()))?;
    Ok(path)
}

/// Mounts, in the bundle, what a path within a volume leads to, by links to what is in the volume at most. Others who have the volume may
/// exchange its directories for links while a runtime goes that way.
pub(super) fn pin(bundle: &Path, number: usize, volume: &str, path: &str) -> Result<PathBuf> {
    let pinned = || -> io::Result<PathBuf> {
        let tree = crate::copy::find::tree(Path::new(volume), path)?;
        let (directory, kind) = (bundle.join(PINNED), rustix::fs::fstat(&tree)?.st_mode);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)?;
        let place = directory.join(number.to_string());
        match FileType::from_raw_mode(kind) {
            FileType::Directory => fs::create_dir(&place)?,
            _ => fs::File::create_new(&place).map(drop)?,
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", CWD, &place, flags)?;
        Ok(place)
    };
    pinned().tried(|| format!("mount {path} of the volume {volume}"))
}

/// What is mounted cannot be removed: no file of a volume goes with the bundle.
fn unpin(bundle: &Path) -> io::Result<()> {
    let pinned = match fs::read_dir(bundle.join(PINNED)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        pinned => pinned?,
    };
    for place in pinned {
        let place = place?.path();
        detach(&place);
        match fs::remove_dir(&place) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(&place)?,
            removed => removed?,
        }
    }
    Ok(())
}

/// Whatever is mounted there, however often.
fn detach(place: &Path) {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    while umount2(place, flags).is_ok() {}
}

pub(super) fn fifo(path: &Path) -> Result<()> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).tried(|| format!("make {}", path.display()))
}

pub(super) fn note_shim(bundle: &Path, address: &str) -> Result<()> {
    write(bundle, SHIM, address, 0o600).map(drop)
}

/// Of a shim that was started, or was about to be if there is none.
pub(super) fn shim(bundle: &Path) -> Option<String> {
    fs::read_to_string(bundle.join(SHIM)).ok()
}

/// It is frozen for an operation of the daemon's, not for a user.
pub(super) fn mark_frozen(bundle: &Path) -> Result<()> {
    write(bundle, FROZEN, "", 0o600).map(drop)
}

pub(super) fn unmark_frozen(bundle: &Path) -> Result<()> {
    match fs::remove_file(bundle.join(FROZEN)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).tried(|| format!("remove {FROZEN} of {}", bundle.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn is_frozen(bundle: &Path) -> bool {
    bundle.join(FROZEN).exists()
}

/// exit.json, which our shim writes; others do not.
#[derive(Debug, Deserialize)]
pub(super) struct Exit {
    pub(super) status: u32,
    /// Nanoseconds since the epoch.
    pub(super) time: i64,
    #[serde(default)]
    pub(super) oom: bool,
    /// Bytes of output that its log did not take.
    #[serde(default)]
    pub(super) dropped: u64,
}

pub(super) fn exit(bundle: &Path) -> Option<Exit> {
    let text = fs::read(bundle.join("exit.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// What is written there is the process of config.json, for execs.
pub(super) fn process(bundle: &Path) -> Result<serde_json::Value> {
    let read = || -> io::Result<serde_json::Value> {
        let text = fs::read(bundle.join("config.json"))?;
        let mut config: serde_json::Value = serde_json::from_slice(&text)?;
        Ok(config["process"].take())
    };
    read().tried(|| "read the container's config.json".into())
}
