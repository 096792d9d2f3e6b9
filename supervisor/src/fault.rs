//! What went wrong in the daemon or on the way to it: a kind that callers branch on, and a sentence. The one mapping to and from ttrpc's codes.

use std::fmt;

use ttrpc::Code;

/// What callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    /// The state of the thing does not allow it.
    Precondition,
    Invalid,
    Unimplemented,
    /// The daemon, or a shim, does not answer.
    Unavailable,
    /// The container's program is not there, or cannot be executed. Those who start containers make exit codes of it.
    NoProgram,
    NotExecutable,
    /// What the system refused.
    Unknown,
}

/// An error, with all that was tried in its text.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub text: String,
}

/// Of everything here.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// What was asked for makes no sense.
    pub fn new(text: impl Into<String>) -> Self {
        Self::of(Kind::Invalid, text)
    }

    /// An error of this kind.
    pub fn of(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    pub(crate) fn unknown(text: impl Into<String>) -> Self {
        Self::of(Kind::Unknown, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::of(Kind::NotFound, text)
    }

    pub(crate) fn precondition(text: impl Into<String>) -> Self {
        Self::of(Kind::Precondition, text)
    }

    /// What was tried before what it met with.
    #[must_use]
    pub fn during(self, what: impl fmt::Display) -> Self {
        let text = format!("{what}: {}", self.text);
        Self { text, ..self }
    }
}

/// Says what was tried.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Tried<T> for std::result::Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Fault::unknown(format!("{}: {error:#}", what())))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// Codes of gRPC that nothing else here uses stand for what has none of its own.
const CODES: [(Kind, Code); 9] = [
    (Kind::NotFound, Code::NOT_FOUND),
    (Kind::AlreadyExists, Code::ALREADY_EXISTS),
    (Kind::Precondition, Code::FAILED_PRECONDITION),
    (Kind::Invalid, Code::INVALID_ARGUMENT),
    (Kind::Unimplemented, Code::UNIMPLEMENTED),
    (Kind::Unavailable, Code::UNAVAILABLE),
    (Kind::NoProgram, Code::OUT_OF_RANGE),
    (Kind::NotExecutable, Code::PERMISSION_DENIED),
    (Kind::Unknown, Code::UNKNOWN),
];

impl From<Fault> for ttrpc::Error {
    fn from(fault: Fault) -> Self {
        let code = CODES.iter().find(|(kind, _)| *kind == fault.kind);
        let code = code.map_or(Code::UNKNOWN, |(_, code)| *code);
        Self::RpcStatus(ttrpc::get_status(code, fault.text))
    }
}

/// What ttrpc says, of no kind of its own, where the connection has ended.
const GONE: [&str; 2] = [
    "reserve channel capacity failed",
    "Receive packet from Receiver error",
];

/// Of a request to the daemon.
impl From<ttrpc::Error> for Fault {
    fn from(error: ttrpc::Error) -> Self {
        let gone = "the connection to the daemon is lost: containers go on, and this may have been done or not; look, and try again";
        Self::of_call(error, gone)
    }
}

impl Fault {
    /// The answer to a request, or that there is none: `gone` says what it means that the other end has ended.
    pub(crate) fn of_call(error: ttrpc::Error, gone: &str) -> Self {
        let status = match error {
            ttrpc::Error::RpcStatus(status) => status,
            // It was not in time, or the question was too long.
            ttrpc::Error::Others(why) if !GONE.iter().any(|it| why.starts_with(it)) => {
                return Self::of(Kind::Unavailable, format!("no answer: {why}"));
            }
            ended => return Self::of(Kind::Unavailable, format!("{gone} ({ended})")),
        };
        let code = status.code();
        let kind = CODES.iter().find(|(_, known)| *known == code);
        Self {
            kind: kind.map_or(Kind::Unknown, |(kind, _)| *kind),
            text: status.message,
        }
    }
}
