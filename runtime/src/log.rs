//! The log of one run of the runtime: what `--log`, `--log-format` and `--log-level` ask for.

use std::path::PathBuf;

/// Where the log goes and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Absent: standard error.
    pub(crate) file: Option<PathBuf>,
    pub(crate) format: Format,
    /// The least important records that are kept.
    pub(crate) level: Level,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How important a record is, the least important first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    #[default]
    Warning,
    Error,
}
