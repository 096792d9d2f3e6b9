//! Whether what a thread does is still wanted: it asks between the parts of what takes long, and ends when nobody waits for it any more.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

/// Who waits for it has this.
#[derive(Debug, Default)]
pub(crate) struct Wish(Arc<()>);

/// And who does it, this. By default it is always wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(Option<Weak<()>>);

/// What is read only as long as it is wanted.
pub(crate) struct WhileWanted<R>(pub(crate) R, pub(crate) Wanted);

impl Wish {
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted(Some(Arc::downgrade(&self.0)))
    }
}

impl Wanted {
    /// An error when nobody waits.
    pub(crate) fn check(&self) -> io::Result<()> {
        match &self.0 {
            Some(wish) if wish.strong_count() == 0 => {
                Err(io::Error::other("who asked for it has left"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for WhileWanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.check()?;
        self.0.read(buffer)
    }
}
