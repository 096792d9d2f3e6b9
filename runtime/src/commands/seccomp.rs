//! `seccomp dump`: what a seccomp profile becomes, as text or as the program that is loaded.

use crate::plan::seccomp;
use crate::report::{Context, Error, Result};
use std::io::Write;
use std::path::Path;

/// Compiles the profile in a file and prints the program.
pub(super) fn dump(profile: &Path, raw: bool) -> Result<()> {
    let text = std::fs::read(profile).context(|| format!("read {}", profile.display()))?;
    let profile = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(format!("parse {}: {e}", profile.display())))?;
    let filter = seccomp::compile(&profile)?;
    if raw {
        return std::io::stdout()
            .write_all(&filter.to_bytes())
            .context(|| "write to standard output");
    }
    crate::output::print(&filter.disassemble())
}
