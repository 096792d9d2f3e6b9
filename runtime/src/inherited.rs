//! The file descriptors that the caller of this command left open.
//!
//! Runs in the runtime command's process: counted before it opens anything of its own, since by number alone a descriptor of ours looks
//! like one that the caller passed. A stray LISTEN_FDS in the environment would otherwise hand the container our state directory, and
//! with it the host (the way out of CVE-2024-21626). What init does with those to be passed on is [`crate::init`]'s.

use crate::report::{Context, Error, Kind, Result};
use crate::sys::{Errno, fs, process};

/// How many descriptors from 3 on, without a gap, the caller left open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited(u32);

impl Inherited {
    /// To be called before anything is opened that stays open.
    pub(crate) fn count() -> Self {
        let open = |number: &i32| process::is_open(*number);
        Inherited((3..).take_while(open).count() as u32)
    }

    /// Fails unless the caller passed this many to be kept for the container.
    pub(crate) fn check(self, count: u32) -> Result<()> {
        if count <= self.0 {
            return Ok(());
        }
        let text = format!(
            "unable to stat preserved-fd {} (of {count}): it is not open",
            self.0 + 1
        );
        Err(Error::new(Kind::Usage, text))
    }

    /// Keeps all of them, those behind a gap too, from the programs that this command runs: hooks above all. Not before this program
    /// has executed itself anew for the last time.
    pub(crate) fn keep_from_hooks() -> Result<()> {
        let marked = match process::cloexec_from(3) {
            // KERNEL(5.11): drop this.
            Err(Errno::EINVAL | Errno::ENOSYS) => each_cloexec(),
            other => other,
        };
        marked.context(|| "mark inherited file descriptors close-on-exec")
    }
}

fn each_cloexec() -> crate::sys::Result<()> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let directory = fs::open(fs::CWD, c"/proc/self/fd", flags)?;
    fs::for_each_descriptor(&directory, |number| match number {
        ..3 => Ok(()),
        _ => process::set_cloexec(number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_were_passed_is_refused_and_named() {
        assert!(Inherited(2).check(2).is_ok());
        let text = Inherited(1).check(3).unwrap_err().to_string();
        assert!(
            text.starts_with("unable to stat preserved-fd 2 (of 3)"),
            "{text}"
        );
        assert!(Inherited(0).check(u32::MAX).is_err());
    }
}
