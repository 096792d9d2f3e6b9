//! `--pid-file`: whoever waits for the file reads a whole number in it, without a newline.

use crate::report::{Context, Error, Kind, Result};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Writes the pid beside the file and renames it there.
pub(super) fn write(path: &Path, pid: i32) -> Result<()> {
    let story = || format!("write pid file {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            Kind::Usage,
            format!("{}: not a file name", story()),
        ));
    };
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    let unfinished = path.with_file_name(unfinished);
    let attempt = || {
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&unfinished)
        {
            // Left by a command that was killed.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&unfinished)?;
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&unfinished)?
            }
            other => other?,
        };
        file.write_all(pid.to_string().as_bytes())?;
        std::fs::rename(&unfinished, path)
    };
    attempt().context(story)
}
