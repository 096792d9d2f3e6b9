//! How threads lock what they share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing is left half done where one of these is held: a panic elsewhere does not make the rest unusable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
