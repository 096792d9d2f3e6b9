//! Landlock: puts init under the ruleset of the plan.
//!
//! Runs in init, before the seccomp filter. Paths are of the container and must be there. What only newer kernels know is left out, unless the
//! ruleset is strict. The start fifo gets a rule of its own: init has yet to open it.

use super::{At, Done, Fail, Files, Root, TEXT};
use crate::plan::Op;
use crate::plan::landlock::{FILE_RIGHTS, Ruleset, WRITE_FILE, known};
use crate::sys::landlock::{self, Handled};
use crate::sys::{Errno, Result, fs};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// Applies the ruleset.
pub(crate) fn apply(ruleset: &Ruleset, root: &Root, files: &Files) -> Done {
    let known = known(landlock::abi().at(Op::LandlockMissing)?);
    let wanted = ruleset.handled;
    let handled = Handled {
        fs: wanted.fs & known.fs,
        net: wanted.net & known.net,
        scoped: wanted.scoped & known.scoped,
    };
    if ruleset.strict && handled != wanted {
        return Err(Errno::EOPNOTSUPP).at(Op::LandlockAbi);
    }
    if handled == Handled::default() {
        return Ok(()); // an empty ruleset is none to the kernel
    }
    let made = landlock::create_ruleset(&handled)?;
    for (path, access) in &ruleset.paths {
        let added = allow_path(&made, root, path, access & handled.fs);
        added.map_err(|errno| with_path(errno, path))?;
    }
    for (port, access) in &ruleset.ports {
        if access & handled.net != 0 {
            landlock::allow_port(&made, *port, access & handled.net).at(Op::LandlockRule)?;
        }
    }
    if let Some(fifo) = &files.fifo
        && handled.fs & WRITE_FILE != 0
    {
        landlock::allow_beneath(&made, fifo, WRITE_FILE).at(Op::LandlockRule)?;
    }
    Ok(landlock::restrict_self(&made)?)
}

fn allow_path(ruleset: &OwnedFd, root: &Root, path: &CStr, access: u64) -> Result<()> {
    let file = match root.open(path, libc::O_PATH) {
        // Who has no way there needs no rule.
        Err(Errno::EACCES) => return Ok(()),
        file => file?,
    };
    let directory = fs::stat(&file)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    // The kernel refuses rights over directories in a rule for a file, and a rule without rights.
    match if directory {
        access
    } else {
        access & FILE_RIGHTS
    } {
        0 => Ok(()),
        access => landlock::allow_beneath(ruleset, file, access),
    }
}

/// The failure with the path of the rule.
fn with_path(errno: Errno, path: &CStr) -> Fail {
    let mut fail = Fail {
        op: Op::LandlockRule,
        ..Fail::from(errno)
    };
    let path = path.to_bytes();
    fail.text_len = path.len().min(TEXT);
    fail.text[..fail.text_len].copy_from_slice(&path[..fail.text_len]);
    fail
}
