//! The shim's one error type: what a client can do about it, and a sentence. Made where it is known what was tried on what; becomes a
//! ttrpc status here and nowhere else.

use std::fmt;
use std::io;

/// What clients branch on: containerd, CRI and Docker retry, tolerate or give up by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Unimplemented,
    DeadlineExceeded,
    /// Anything else, as Go's shim has it for errors of the runtime.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    pub(crate) story: String,
    /// A command of the runtime was cut short: what it had begun may be there.
    pub(crate) unfinished: bool,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, story: impl Into<String>) -> Self {
        Self {
            kind,
            story: story.into(),
            unfinished: false,
        }
    }

    /// The same, of something that has been begun.
    pub(crate) fn unfinished(self) -> Self {
        Self {
            unfinished: true,
            ..self
        }
    }

    pub(crate) fn not_found(story: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, story)
    }

    pub(crate) fn precondition(story: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, story)
    }

    pub(crate) fn invalid(story: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, story)
    }

    pub(crate) fn unknown(story: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, story)
    }

    /// A system call that failed: `tried` says what, on what.
    pub(crate) fn os(tried: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        Self::unknown(format!("{tried}: {}", error.into()))
    }
}

/// The kernel's error with what was tried, on what: for modules that do not know yet what a client will make of it.
pub(crate) fn told(
    tried: impl fmt::Display,
    error: impl Into<io::Error> + fmt::Display,
) -> io::Error {
    let story = format!("{tried}: {error}");
    io::Error::new(error.into().kind(), story)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story)
    }
}

impl std::error::Error for Error {}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            Kind::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
            Kind::NotFound => ttrpc::Code::NOT_FOUND,
            Kind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
            Kind::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
            Kind::Unimplemented => ttrpc::Code::UNIMPLEMENTED,
            Kind::DeadlineExceeded => ttrpc::Code::DEADLINE_EXCEEDED,
            Kind::Unknown => ttrpc::Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.story))
    }
}
