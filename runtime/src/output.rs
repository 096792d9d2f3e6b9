//! What a command prints. Commands make texts; this writes them.

use crate::report::{Context, Result};
use std::io::{self, Write};

/// Writes to standard output. An engine that reads half an answer must learn that it was half.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "write to standard output")
}
