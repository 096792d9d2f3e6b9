//! The clock, and words of memory that a process shares with those that it clones.

use super::{Errno, Result};
use std::sync::atomic::AtomicU64;

/// clock_gettime(2): microseconds of CLOCK_MONOTONIC, by the vDSO where there is one; 0 if the clock cannot be read.
pub(crate) fn monotonic_us() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that the call writes.
    match Errno::result(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }) {
        Ok(_) => time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000,
        Err(_) => 0,
    }
}

/// mmap(2) of anonymous memory with MAP_SHARED: a cloned process writes where this one reads. All 0, and there until this process ends.
pub(crate) fn shared_words(count: usize) -> Result<&'static [AtomicU64]> {
    let size = count.max(1) * size_of::<AtomicU64>();
    // SAFETY: new memory at an address of the kernel's choice: nothing that is in use changes.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the memory has `count` aligned words, all bit patterns of which are valid, and is never unmapped.
    Ok(unsafe { std::slice::from_raw_parts(memory.cast(), count) })
}
