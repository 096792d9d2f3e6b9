//! The verbs of the command line, one file each.
//!
//! They run in the parent. Those that only look at things return the text to print.

pub(crate) mod features;
pub(crate) mod list;
pub(crate) mod ps;
pub(crate) mod spec;
pub(crate) mod state;
