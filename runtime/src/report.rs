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

/// An error: its kind, a sentence, the errno if a system call failed, and the field of the config that is to blame, if one is.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    story: String,
    errno: Option<Errno>,
    field: String,
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
            field: String::new(),
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
            field: String::new(),
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

    /// The field of the config that is to blame, as `linux.resources.memory.limit` or `mounts[2]`; empty if none is.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Blames a field, or says what is around the one that is blamed: `limit`, then `memory`, then `linux.resources`.
    #[must_use]
    pub fn in_field(mut self, outer: impl fmt::Display) -> Self {
        let dot = match self.field.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.field = format!("{outer}{dot}{}", self.field);
        self
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

    /// The same error with another that followed from it, or from what was done about it.
    #[must_use]
    pub fn and(self, second: &Error) -> Self {
        Error {
            story: format!("{self}; {second}"),
            errno: None,
            ..self
        }
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

/// What is wrong with one config, in the order in which it was found. A command fails with the first; `check` shows all.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Error>);

impl Faults {
    /// Notes a failure. What did not fail is handed through.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// The same with the field around what was looked at.
    pub(crate) fn keep_in<T>(&mut self, field: impl fmt::Display, result: Result<T>) -> Option<T> {
        self.keep(result.map_err(|error| error.in_field(field)))
    }

    /// Notes what another look has found, with the field around that.
    pub(crate) fn extend(&mut self, field: impl fmt::Display, others: Faults) {
        let others = others.0.into_iter();
        self.0.extend(others.map(|error| error.in_field(&field)));
    }

    /// Fails with the first.
    pub(crate) fn settle(self) -> Result<()> {
        self.0.into_iter().next().map_or(Ok(()), Err)
    }

    /// All of them.
    pub(crate) fn all(self) -> Vec<Error> {
        self.0
    }
}

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

/// The end of what somebody has written, for a message, and how much is missing of it.
pub(crate) fn tail(dropped: usize, end: &[u8]) -> String {
    let text = String::from_utf8_lossy(end);
    match dropped {
        0 => text.trim_end().to_owned(),
        dropped => format!("[{dropped} bytes before] {}", text.trim_end()),
    }
}
