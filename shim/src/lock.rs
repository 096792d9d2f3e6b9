//! How the shim locks what its tasks share: for a moment, never across a wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing panics while it holds one of these, and a panic would end the shim.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
