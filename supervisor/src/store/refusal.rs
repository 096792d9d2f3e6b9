//! What the store refuses in a way that callers answer differently to: looked at by kind, never by text.

use std::fmt;

/// What callers branch on; any other error is what the system or the content itself refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    /// More than one thing is meant.
    Ambiguous,
    InUse,
    /// What came in is not what it should be.
    Invalid,
}

/// An error with a kind. `error.downcast_ref::<Refusal>()` finds it below any context.
#[derive(Debug)]
pub struct Refusal {
    pub kind: Kind,
    text: String,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}
