//! The directories below `--root`: making, locking, reading and removing them.
//!
//! Every access is relative to a directory's file descriptor and follows no symbolic link below the root. Any command may be
//! killed at any moment: a directory without `state.json` is one that never became a container or ceased to be one, and the next
//! `create` takes it over.
//!
//! The lock is an flock on the directory, which the kernel drops with the last copy of the file descriptor. A cloned process has a copy
//! until it executes something: init must close it first thing, or the lock outlives a killed command.

use super::{ContainerId, Init, State, Status};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, mkfifoat, unlinkat};
use std::cell::OnceCell;
use std::ffi::{CStr, OsStr};
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
const SECCOMP: &str = "seccomp.bpf";
const FIFO: &str = "exec.fifo";
const NOTIFY: &str = "notify";
/// What a file is called while it is written. Only the holder of the lock writes.
const UNFINISHED: &str = ".unfinished";

const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The directory that `--root` names.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    sticky: bool,
    /// Empty while it does not exist: then there are no containers.
    dir: OnceCell<OwnedFd>,
}

/// A container's directory, to read from.
#[derive(Debug)]
pub struct Directory {
    id: ContainerId,
    path: PathBuf,
    dir: OwnedFd,
}

/// The parts of a damaged state that say what there is to be removed.
#[derive(Debug)]
pub struct Salvaged {
    /// The container's first process.
    pub init: Option<Init>,
    /// As in [`State`].
    pub cgroup: serde_json::Value,
    /// As in [`State`].
    pub resctrl: serde_json::Value,
}

/// A container's directory, to change while nobody else does. Dropping it unlocks.
#[derive(Debug)]
pub struct Locked {
    directory: Directory,
    root: OwnedFd,
    _lock: Flock<OwnedFd>,
}

impl Root {
    /// Opens the root and makes nothing. `sticky` keeps it from being pruned in `$XDG_RUNTIME_DIR`, when it is made.
    pub fn open(path: &Path, sticky: bool) -> Result<Root> {
        let path = std::path::absolute(path).context(|| format!("find directory {path:?}"))?;
        let dir = match open(&path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::ENOENT) => OnceCell::new(),
            dir => dir.context(|| format!("open directory {path:?}"))?.into(),
        };
        Ok(Root { path, sticky, dir })
    }

    /// Makes and locks the directory of a new container. The caller saves a state before it does anything that would have to be
    /// cleaned up.
    pub fn create(&self, id: &ContainerId) -> Result<Locked> {
        let root = self.make()?;
        let duplicate = || {
            root.try_clone()
                .context(|| format!("duplicate descriptor of {:?}", self.path))
        };
        let exists = || {
            Error::new(
                Kind::Exists,
                format!("container with given ID already exists: '{id}'"),
            )
        };
        loop {
            let path = self.path.join(id.as_str());
            let wait = match mkdirat(root, id.as_str(), Mode::from_bits_truncate(0o711)) {
                Ok(()) => FlockArg::LockExclusive,
                // Who has it locked is busy with it; who has not was killed over it, or it is a container.
                Err(Errno::EEXIST) => FlockArg::LockExclusiveNonblock,
                Err(errno) => return Err(Error::os(format!("make directory {path:?}"), errno)),
            };
            let Some(directory) = Directory::open(root, id, path)? else {
                continue;
            };
            let Some(lock) = lock(&directory, wait)? else {
                return Err(exists());
            };
            if !is_linked(root, &directory)? {
                continue;
            }
            if directory.exists(STATE)? {
                return Err(exists());
            }
            remove_entries(&directory.dir, &directory.path)?;
            // The umask must not keep a container's user from passing through.
            let mode = Mode::from_bits_truncate(0o711);
            fchmod(&directory.dir, mode).context(|| format!("set mode of {:?}", directory.path))?;
            return Ok(Locked {
                directory,
                root: duplicate()?,
                _lock: lock,
            });
        }
    }

    /// Waits for the container's lock. The directory may be one without a state, which only wants to be removed.
    pub fn lock(&self, id: &ContainerId) -> Result<Locked> {
        loop {
            let directory = self.directory(id)?;
            let Some(lock) = lock(&directory, FlockArg::LockExclusive)? else {
                continue;
            };
            let root = self.dir.get().ok_or_else(|| no_such(id))?;
            // While we waited it may have been removed, and even made again.
            if is_linked(root, &directory)? {
                let root = root
                    .try_clone()
                    .context(|| format!("duplicate descriptor of {:?}", self.path))?;
                return Ok(Locked {
                    directory,
                    root,
                    _lock: lock,
                });
            }
        }
    }

    /// A container's directory, without its lock.
    pub fn directory(&self, id: &ContainerId) -> Result<Directory> {
        let root = self.dir.get().ok_or_else(|| no_such(id))?;
        Directory::open(root, id, self.path.join(id.as_str()))?.ok_or_else(|| no_such(id))
    }

    /// A container's state, without its lock.
    pub fn load(&self, id: &ContainerId) -> Result<State> {
        self.directory(id)?.load()
    }

    /// The names of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let Some(root) = self.dir.get() else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for name in entries(root).context(|| format!("list {:?}", self.path))? {
            // What has no container's name is none of ours.
            ids.extend(
                name.to_str()
                    .ok()
                    .and_then(|name| ContainerId::new(name).ok()),
            );
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn make(&self) -> Result<&OwnedFd> {
        if let Some(root) = self.dir.get() {
            return Ok(root);
        }
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path);
        made.context(|| format!("make directory {:?}", self.path))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&self.path, flags, Mode::empty())
            .context(|| format!("open directory {:?}", self.path))?;
        if self.sticky {
            let mode = Mode::S_IRWXU | Mode::S_ISVTX;
            fchmod(&root, mode).context(|| format!("set mode of {:?}", self.path))?;
        }
        Ok(self.dir.get_or_init(|| root))
    }
}

impl Directory {
    fn open(root: &OwnedFd, id: &ContainerId, path: PathBuf) -> Result<Option<Directory>> {
        match openat(root, id.as_str(), DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(Directory {
                id: id.clone(),
                path,
                dir,
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::os(format!("open directory {path:?}"), errno)),
        }
    }

    /// The container's name.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// For messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state; a directory without one is no container.
    pub fn load(&self) -> Result<State> {
        let Some(text) = self.read(STATE)? else {
            return Err(no_such(&self.id));
        };
        serde_json::from_slice(&text)
            .map_err(|e| Error::invalid(format!("parse {:?}: {e}", self.path.join(STATE))))
    }

    /// What can still be read of a state that does not load.
    pub fn salvage(&self) -> Result<Salvaged> {
        use serde_json::Value;
        let text = self.read(STATE)?.unwrap_or_default();
        let mut state: Value = serde_json::from_slice(&text).unwrap_or_default();
        let mut field = |name| state.get_mut(name).map(Value::take).unwrap_or_default();
        Ok(Salvaged {
            init: serde_json::from_value(field("init")).unwrap_or_default(),
            cgroup: field("cgroup"),
            resctrl: field("resctrl"),
        })
    }

    /// The status of the container that has this state; `frozen` tells whether its cgroup is frozen.
    pub fn status(
        &self,
        state: &State,
        frozen: impl FnOnce(&State) -> Result<bool>,
    ) -> Result<Status> {
        state.status(|| self.exists(FIFO), frozen)
    }

    /// The bundle's config.json as it was at create.
    pub fn config(&self) -> Result<Vec<u8>> {
        self.read(CONFIG)?
            .ok_or_else(|| Error::os(format!("open {:?}", self.path.join(CONFIG)), Errno::ENOENT))
    }

    /// The compiled seccomp filter, if the container has one.
    pub fn seccomp(&self) -> Result<Option<Vec<u8>>> {
        self.read(SECCOMP)
    }

    /// Opens the directory of the notify socket; `None` if the container has none.
    pub fn notify(&self) -> Result<Option<OwnedFd>> {
        match openat(&self.dir, NOTIFY, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(None),
            dir => dir
                .map(Some)
                .context(|| format!("open {:?}", self.path.join(NOTIFY))),
        }
    }

    /// Opens the start fifo; `None` if there is none, because the container was started.
    pub fn open_fifo(&self, flags: OFlag) -> Result<Option<OwnedFd>> {
        match openat(
            &self.dir,
            FIFO,
            flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::ENOENT) => Ok(None),
            fifo => Ok(Some(
                fifo.context(|| format!("open {:?}", self.path.join(FIFO)))?,
            )),
        }
    }

    fn exists(&self, name: &str) -> Result<bool> {
        match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(false),
            found => found
                .map(|_| true)
                .context(|| format!("look at {:?}", self.path.join(name))),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = || format!("{:?}", self.path.join(name));
        let file = match openat(
            &self.dir,
            name,
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::ENOENT) => return Ok(None),
            file => file.context(|| format!("open {}", path()))?,
        };
        let mut content = Vec::new();
        File::from(file)
            .read_to_end(&mut content)
            .context(|| format!("read {}", path()))?;
        Ok(Some(content))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Deref for Locked {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.directory
    }
}

impl Locked {
    /// The descriptor that holds the lock. A cloned process holds it too, until it closes it.
    pub(crate) fn lock_fd(&self) -> BorrowedFd<'_> {
        self._lock.as_fd()
    }

    /// Replaces the state.
    pub fn save(&self, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state)
            .map_err(|e| Error::invalid(format!("write {:?}: {e}", self.path.join(STATE))))?;
        self.write(STATE, &text)
    }

    /// Keeps the bundle's config.json as it is now.
    pub fn save_config(&self, config: &[u8]) -> Result<()> {
        self.write(CONFIG, config)
    }

    /// Keeps the compiled seccomp filter.
    pub fn save_seccomp(&self, program: &[u8]) -> Result<()> {
        self.write(SECCOMP, program)
    }

    /// Makes the directory of the notify socket, which the container's users may enter, and returns its path.
    pub fn make_notify(&self) -> Result<PathBuf> {
        let path = self.path.join(NOTIFY);
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&self.dir, NOTIFY, mode).context(|| format!("make directory {path:?}"))?;
        fchmodat(&self.dir, NOTIFY, mode, FchmodatFlags::FollowSymlink)
            .context(|| format!("set mode of {path:?}"))?;
        Ok(path)
    }

    /// Makes the start fifo, which belongs to the container's root: it opens it to wait for `start`.
    pub fn make_fifo(&self, uid: Uid, gid: Gid) -> Result<()> {
        let path = || format!("{:?}", self.path.join(FIFO));
        let mode = Mode::from_bits_truncate(0o622);
        mkfifoat(&self.dir, FIFO, mode).context(|| format!("make fifo {}", path()))?;
        // The umask has taken from the mode. Only we may change names here, so the name still means the fifo.
        fchmodat(&self.dir, FIFO, mode, FchmodatFlags::FollowSymlink)
            .context(|| format!("set mode of {}", path()))?;
        let given = fchownat(
            &self.dir,
            FIFO,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        match given {
            // An unprivileged user gives nothing away. Whoever gets at the fifo may write to it, and that is the container's process alone.
            Err(Errno::EPERM) => Ok(()),
            other => other,
        }
        .context(|| format!("change owner of {} to {uid}:{gid}", path()))
    }

    /// Removes the start fifo and opens it to read; `None` if there is none, because the container was started. In this order: opened,
    /// it lets init go, and a command that is killed in between must not leave a running container that counts as created.
    pub fn take_fifo(&self) -> Result<Option<OwnedFd>> {
        let path = || format!("{:?}", self.path.join(FIFO));
        let Some(fifo) = self.open_fifo(OFlag::O_PATH)? else {
            return Ok(None);
        };
        unlinkat(&self.dir, FIFO, UnlinkatFlags::NoRemoveDir)
            .context(|| format!("remove {}", path()))?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = open(
            format!("/proc/self/fd/{}", fifo.as_raw_fd()).as_str(),
            flags,
            Mode::empty(),
        );
        opened.map(Some).context(|| format!("open {}", path()))
    }

    /// Removes the directory and all in it. The state goes last: until then a delete that was interrupted can be repeated.
    pub fn remove(self) -> Result<()> {
        remove_entries(&self.dir, &self.path)?;
        unlinkat(&self.root, self.id.as_str(), UnlinkatFlags::RemoveDir)
            .context(|| format!("remove directory {:?}", self.path))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = || format!("{:?}", self.path.join(name));
        match unlinkat(&self.dir, UNFINISHED, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => {
                return Err(Error::os(
                    format!("remove {:?}", self.path.join(UNFINISHED)),
                    errno,
                ));
            }
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.dir, UNFINISHED, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .context(|| format!("make {}", path()))?;
        File::from(file)
            .write_all(content)
            .context(|| format!("write {}", path()))?;
        renameat(&self.dir, UNFINISHED, &self.dir, name).context(|| format!("replace {}", path()))
    }
}

/// Engines look for these words.
fn no_such(id: &ContainerId) -> Error {
    Error::new(Kind::NotFound, format!("container does not exist: '{id}'"))
}

/// `None` if somebody else has the lock and we are not to wait.
fn lock(directory: &Directory, how: FlockArg) -> Result<Option<Flock<OwnedFd>>> {
    let story = || format!("lock {:?}", directory.path);
    // Not a duplicate: the lock belongs to the open file, and init, which closes the descriptor of the lock, has a copy of the other.
    let mut dir = openat(&directory.dir, ".", DIRECTORY, Mode::empty()).context(story)?;
    loop {
        match Flock::lock(dir, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((unlocked, Errno::EINTR)) => dir = unlocked,
            Err((_, errno)) => return Err(Error::os(story(), errno)),
        }
    }
}

/// Whether the directory that is open is still the one of this name.
fn is_linked(root: &OwnedFd, directory: &Directory) -> Result<bool> {
    let story = || format!("look at {:?}", directory.path);
    let same = |a: FileStat, b: FileStat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let open = fstat(&directory.dir).context(story)?;
    match fstatat(root, directory.id.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(false),
        named => Ok(same(open, named.context(story)?)),
    }
}

/// Empties a directory, of directories too (a notify socket has one of its own), the state last.
fn remove_entries(dir: &OwnedFd, path: &Path) -> Result<()> {
    let names = entries(dir).context(|| format!("list {path:?}"))?;
    let (last, first): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| name.to_bytes() == STATE.as_bytes());
    for name in first.into_iter().chain(last) {
        let path = || path.join(OsStr::from_bytes(name.to_bytes()));
        match unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(Error::os(format!("remove {:?}", path()), errno)),
        }
        let below = openat(dir, name.as_c_str(), DIRECTORY, Mode::empty())
            .context(|| format!("open {:?}", path()))?;
        remove_entries(&below, &path())?;
        unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir)
            .context(|| format!("remove directory {:?}", path()))?;
    }
    Ok(())
}

/// The names in a directory, read through a descriptor of its own: the position belongs to the open file.
fn entries(dir: &OwnedFd) -> std::result::Result<Vec<std::ffi::CString>, Errno> {
    let mut dir = Dir::openat(dir, ".", DIRECTORY, Mode::empty())?;
    let names = dir
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    names
        .filter(|name| !matches!(name.as_deref().map(CStr::to_bytes), Ok(b"." | b"..")))
        .collect()
}

#[cfg(test)]
mod tests;
