//! Where an archive goes that was asked for: a file, which has its name when it is complete, or standard output.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ttrpc::r#async::{CSReceiver, CSSender};
use ttrpc::proto::Codec;

use super::process::lost;
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

/// Writes what the daemon sends, and tells it how much of that was taken.
pub(super) async fn receive<Q, P>(
    sender: &CSSender<Q>,
    mut receiver: CSReceiver<P>,
    data: impl Fn(P) -> Option<Vec<u8>>,
    request: impl Fn(u64) -> Q,
    target: &mut dyn Write,
) -> Result<()>
where
    Q: Codec<E: Display>,
    P: Codec<E: Display>,
{
    let mut taken = 0;
    loop {
        let cut_off = |error| lost(error, "the archive is not complete");
        let response = match receiver.recv().await {
            Ok(response) => response,
            Err(ttrpc::Error::Eof) => break,
            Err(error) => return Err(cut_off(error)),
        };
        if let Some(data) = data(response) {
            target
                .write_all(&data)
                .tried(|| "write the archive".into())?;
            taken += data.len() as u64;
            sender.send(&request(taken)).await.map_err(cut_off)?;
        }
    }
    target.flush().tried(|| "write the archive".into())
}
