//! What the serving shim's allocator keeps of what a peak needed: nothing, when that has been freed.
//!
//! glibc gives back pages in which nothing is in use when it is asked to (malloc_trim(3)), which is done after each Delete. But it has small pieces
//! at hand, which count as used and keep a page each: hundreds of KiB after a hundred processes at once. That it has none can
//! only be said in the environment, by who executes a program (glibc's manual, "Tunables").

use std::env;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
const NONE_AT_HAND: &str = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0";

/// Has what the command becomes keep nothing at hand, if nobody has said otherwise.
pub(crate) fn prepare(command: &mut Command) {
    if env::var_os(VARIABLE).is_none() {
        command.env(VARIABLE, NONE_AT_HAND);
    }
}

/// Undoes it for what the serving shim executes.
pub(crate) fn leave(command: &mut Command) {
    if env::var_os(VARIABLE).is_some_and(|value| value == NONE_AT_HAND) {
        command.env_remove(VARIABLE);
    }
}
