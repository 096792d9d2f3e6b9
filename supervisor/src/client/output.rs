//! Where an archive goes that was asked for: a file, which has its name when it is complete, or standard output.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::fault::{Fault, Result, Tried as _};
use crate::whole::{self, Whole};

/// `write` writes all of it.
pub(super) async fn archive(
    path: Option<&Path>,
    write: impl AsyncFnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let Some(path) = path else {
        if io::stdout().is_terminal() {
            return Err(Fault::new(
                "an archive is nothing for a terminal: use -o FILE, or redirect",
            ));
        }
        return write(&mut io::stdout()).await;
    };
    if path.exists() && !path.is_file() {
        let file = File::options().write(true).open(path);
        let mut file = file.tried(|| format!("open {}", path.display()))?;
        return write(&mut file).await;
    }
    let what = || format!("write {}", path.display());
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let name = path.file_name().map(OsStr::as_bytes);
    let name = name.ok_or_else(|| Fault::new(format!("'{}' is no file", path.display())))?;
    let directory = File::open(parent.unwrap_or(Path::new("."))).tried(what)?;
    let descriptors = whole::descriptors();
    let descriptors = descriptors.as_ref().map(|fd| fd.as_fd());
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let mut whole = Whole::begin(directory.as_fd(), descriptors, mode).tried(what)?;
    write(&mut whole.file).await?;
    // With its name: what it is of may be removed next.
    whole.file.sync_all().tried(what)?;
    whole.end(name).tried(what)?;
    directory.sync_all().tried(what)
}
