//! Room on the disk for what makes room: a file of no use but its size. When the disk is full, what removes things takes it away, so that the
//! database can be told of the removal.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// For the pages of the database that a few removals write anew, and the records in them.
const SIZE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Reserve(pub(super) PathBuf);

impl Reserve {
    /// Made if it is not there. A disk without room for it, or one that keeps none, has none until the next time.
    pub(super) fn keep(&self) {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.0);
        let Ok(file) = made else {
            return;
        };
        if fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err() {
            self.give();
        }
    }

    /// To who needs it.
    pub(super) fn give(&self) {
        // That it is not there is as good, and whether it is enough will be seen.
        fs::remove_file(&self.0).ok();
    }
}

/// Whether it is for want of room.
pub(super) fn is_full(error: &anyhow::Error) -> bool {
    let full = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    };
    error
        .chain()
        .any(|cause| of_the_disk(cause).is_some_and(full))
}

/// redb has no sources of its errors.
fn of_the_disk<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};
    let begun = |error: &'a TransactionError| match error {
        TransactionError::Storage(error) => Some(error),
        _ => None,
    };
    let opened = |error: &'a DatabaseError| match error {
        DatabaseError::Storage(error) => Some(error),
        _ => None,
    };
    let table = |error: &'a TableError| match error {
        TableError::Storage(error) => Some(error),
        _ => None,
    };
    let committed = |error: &'a CommitError| match error {
        CommitError::Storage(error) => Some(error),
        _ => None,
    };
    let storage = cause.downcast_ref::<StorageError>();
    let storage = storage
        .or_else(|| cause.downcast_ref().and_then(begun))
        .or_else(|| cause.downcast_ref().and_then(opened))
        .or_else(|| cause.downcast_ref().and_then(table))
        .or_else(|| cause.downcast_ref().and_then(committed));
    match storage? {
        StorageError::Io(error) => Some(error),
        _ => None,
    }
}
