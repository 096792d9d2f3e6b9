//! The runtime's one error type: what was tried, on what, and why it failed.
//!
//! Used by every module in the runtime's own processes (never in init, which reports a step number and an errno).
//! Text is made here and nowhere decided upon: callers branch on [`Kind`]. Only `main` prints an error.

use crate::sys::Errno;
use std::fmt;

/// What a caller can do about an error. Maps to exit codes in `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The bundle or another input is wrong.
    Invalid,
    /// There is no such container.
    NotFound,
    /// The container exists already.
    Exists,
    /// The container is in a state that forbids the command.
    State,
    /// The kernel or the host lacks something that was asked for.
    Unsupported,
    /// A system call failed.
    System,
}

/// An error: its kind, a sentence, and the errno if a system call failed.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    story: String,
    errno: Option<Errno>,
}

/// What fallible functions of the runtime return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that no system call caused.
    pub fn new(kind: Kind, story: impl Into<String>) -> Self {
        Error {
            kind,
            story: story.into(),
            errno: None,
        }
    }

    /// A bad input.
    pub fn invalid(story: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, story)
    }

    /// A system call that failed: `story` says what was tried, on what.
    pub fn os(story: impl Into<String>, errno: Errno) -> Self {
        Error {
            kind: Kind::System,
            story: story.into(),
            errno: Some(errno),
        }
    }

    /// The kind to branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno of the failed system call, if one failed.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts the caller's part of the story in front: `mount /proc` becomes `create container 'web': mount /proc`.
    #[must_use]
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.story = format!("{outer}: {}", self.story);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            // In lower case as runc has it: not everybody who looks for a reason in an error ignores case.
            Some(errno) => write!(f, "{}: {}", self.story, errno.desc().to_lowercase()),
            None => f.write_str(&self.story),
        }
    }
}

impl std::error::Error for Error {}

/// Adds the story to a result, where the path and the intent are known.
pub trait Context<T> {
    /// `story` says what was tried, on what. It is made only on failure.
    fn context<S: fmt::Display>(self, story: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: fmt::Display>(self, story: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(story()))
    }
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn context<S: fmt::Display>(self, story: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::os(story().to_string(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: fmt::Display>(self, story: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| match e.raw_os_error() {
            Some(errno) => Error::os(story().to_string(), Errno::from_raw(errno)),
            None => Error::new(Kind::System, format!("{}: {e}", story())),
        })
    }
}
