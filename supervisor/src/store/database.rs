//! The database's file, open. redb takes nothing more after it has met with an error of the disk, a full one among them: it is then opened again
//! by who wants to use it next, as after a crash. What was on the disk is there. What was not is lost: operations that wrote such rows find out
//! by the generation, and fail.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use redb::{DatabaseError, ReadTransaction, ReadableDatabase as _, StorageError, WriteTransaction};

use super::reserve::{Reserve, is_full};

#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    reserve: Reserve,
    /// None if it could not be opened again. Held for writing only then, and for reading as long as there is a transaction.
    open: RwLock<Option<redb::Database>>,
    /// Something has gone wrong that may have been the disk.
    doubtful: AtomicBool,
    /// How often it was opened again.
    generation: AtomicU64,
}

/// Begins, and then ends, before the database is opened again.
pub(crate) struct Transaction<'a> {
    inner: WriteTransaction,
    database: &'a Database,
    _open: Open<'a>,
}

/// Of the thread that has it. One that took it twice would wait for itself, and everybody behind it, as soon as somebody waits for writing.
struct Open<'a>(RwLockReadGuard<'a, Option<redb::Database>>);

thread_local! {
    static HAS_OPEN: Cell<bool> = const { Cell::new(false) };
}

impl Open<'_> {
    fn database(&self) -> Result<&redb::Database> {
        self.0.as_ref().context("the database is closed")
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        HAS_OPEN.set(false);
    }
}

impl Transaction<'_> {
    pub(crate) fn commit(self) -> Result<()> {
        let committed = self.inner.commit();
        let doubtful = &self.database.doubtful;
        doubtful.fetch_or(committed.is_err(), Ordering::Relaxed);
        committed.context("write the database")
    }

    /// Takes back what was written.
    pub(crate) fn abort(self) {
        self.database.doubtful.store(true, Ordering::Relaxed);
        // It does the same when it is dropped, as far as the disk lets it; why is known to who aborts.
        drop(self.inner);
    }
}

impl Deref for Transaction<'_> {
    type Target = WriteTransaction;

    fn deref(&self) -> &WriteTransaction {
        &self.inner
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut WriteTransaction {
        &mut self.inner
    }
}

impl Database {
    /// `first` if there is nothing in the store yet.
    pub(super) fn open(path: PathBuf, first: bool) -> Result<Self> {
        if first {
            forget_unfinished(&path)?;
        }
        let reserve = Reserve(path.with_file_name("reserve"));
        // That one was full when a daemon ended is no reason not to start another.
        let database = with(&reserve, || open(&path))?;
        Ok(Self {
            path,
            reserve,
            open: RwLock::new(Some(database)),
            doubtful: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        })
    }

    /// Stays as it is while there is a transaction.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Writes what makes room on the disk: on a full one, with the room that is kept for this.
    pub(crate) fn freeing<T>(&self, write: impl Fn() -> Result<T>) -> Result<T> {
        with(&self.reserve, write)
    }

    /// Keeps room for that, if there is some again.
    pub(super) fn keep_reserve(&self) {
        self.reserve.keep();
    }

    /// No other may be begun before this one has ended.
    pub(crate) fn begin_write(&self) -> Result<Transaction<'_>> {
        let open = self.usable()?;
        let inner = open.database()?.begin_write();
        let inner = inner.context("write the database")?;
        Ok(Transaction {
            inner,
            database: self,
            _open: open,
        })
    }

    pub(crate) fn read<T>(&self, how: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        let open = self.usable()?;
        let read = open
            .database()?
            .begin_read()
            .map_err(Into::into)
            .and_then(|transaction| how(&transaction));
        self.doubtful.fetch_or(read.is_err(), Ordering::Relaxed);
        read
    }

    /// Opened again if need be.
    fn usable(&self) -> Result<Open<'_>> {
        ensure!(
            !HAS_OPEN.get(),
            "a transaction of the database was to begin within another"
        );
        if self.doubtful.load(Ordering::Relaxed) {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been faster.
            if self.doubtful.load(Ordering::Relaxed) {
                if open.as_ref().is_none_or(has_failed) {
                    // Closes it, too: two cannot have it open.
                    *open = None;
                    self.generation.fetch_add(1, Ordering::Relaxed);
                    *open = Some(self::open(&self.path)?);
                }
                self.doubtful.store(false, Ordering::Relaxed);
            }
        }
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        HAS_OPEN.set(true);
        Ok(Open(open))
    }
}

fn with<T>(reserve: &Reserve, write: impl Fn() -> Result<T>) -> Result<T> {
    match write() {
        Err(error) if is_full(&error) => {
            reserve.give();
            write()
        }
        done => done,
    }
}

/// redb writes the first bytes of a new file last: one without them is of somebody who was killed before that, and had written nothing else.
fn forget_unfinished(path: &Path) -> Result<()> {
    let mut start = [0; 9];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && start == [0; 9] {
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Nobody else reads it: it has the environments of containers.
fn open(path: &Path) -> Result<redb::Database> {
    let story = || format!("open {}", path.display());
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = made.with_context(story)?;
    file.set_permissions(Permissions::from_mode(0o600))
        .with_context(story)?;
    // redb locks it, and has no patience. What a daemon was about to start has a copy of that lock until it executes its program, even if
    // the daemon was killed meanwhile. Nobody else has, for the store's own lock is ours.
    let free = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    drop(free.with_context(story)?);
    // Looked at as a whole, as it is after a crash anyway: redb panics where it trusts what somebody else has written to the file.
    let mut builder = redb::Builder::new();
    builder.set_check_integrity_on_open(true);
    builder.create(path).map_err(|error| damaged(error, path))
}

/// What has happened to the file, and what can be done.
fn damaged(error: DatabaseError, path: &Path) -> anyhow::Error {
    let is_damage = match &error {
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    };
    let open = format!("open {}", path.display());
    let error = anyhow::Error::new(error);
    if !is_damage {
        return error.context(open);
    }
    let all = path.parent().unwrap_or(path).display();
    error.context(format!(
        "{open}: the database is damaged: restore the file, or move {all} away"
    ))
}

/// It refuses to write, and would refuse to read what it does not have in memory.
fn has_failed(database: &redb::Database) -> bool {
    database.begin_write().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_within_another_is_refused_and_waits_for_nobody() {
        let scratch = crate::fuzz::Scratch::new("db");
        let database = Database::open(scratch.path().join("database"), true).unwrap();
        let transaction = database.begin_write().unwrap();
        // As for one whose transaction was undone meanwhile.
        database.doubtful.store(true, Ordering::Relaxed);
        let refused = database.read(|_| Ok(())).unwrap_err().to_string();
        assert!(refused.contains("within another"), "{refused}");
        assert!(database.begin_write().is_err());
        transaction.abort();
        database.read(|_| Ok(())).unwrap();
        database.begin_write().unwrap().commit().unwrap();
    }
}
