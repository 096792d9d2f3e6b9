//! `cp`: between the user's files and a container's.
//!
//! The user's files are read and written here, with his rights. What comes from a container is as hostile as the container: nothing in its archive
//! leads out of the target (`copy::unpack`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::unistd::{getegid, geteuid};
use tokio::sync::{mpsc, watch};
use ttrpc::r#async::{CSReceiver, CSSender};

use super::cli::{Cp, Export};
use super::connection::{Daemon, patient};
use super::output;
use super::process::lost;
use crate::chunks::{CHUNK, Incoming, Outgoing};
use crate::copy::find::{What, find};
use crate::copy::pack::Packer;
use crate::copy::rules::{Named, Source};
use crate::copy::target;
use crate::copy::unpack::{Owner, Unpacking};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers as api;
use crate::whole;

/// How far the sender may be ahead.
const WINDOW: u64 = 4 << 20;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// An archive on a standard stream.
    Stream,
    Local(&'a OsStr),
    Container(&'a str, &'a [u8]),
}

impl<'a> Side<'a> {
    /// As Docker has it: what begins with `/` or `.` is a path of ours, whatever it has.
    fn new(word: &'a OsStr) -> Result<Self> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b".")) {
            None => Ok(Self::Local(word)),
            Some(at) => match std::str::from_utf8(&bytes[..at]) {
                Ok(container) if at > 0 && at + 1 < bytes.len() => {
                    Ok(Self::Container(container, &bytes[at + 1..]))
                }
                Ok(container) if at > 0 => Err(Fault::new(format!(
                    "no path is given in container {container}: say '{container}:/' for all of it"
                ))),
                _ => Err(Fault::new(format!(
                    "'{}' names no container",
                    word.display()
                ))),
            },
        }
    }
}

pub(super) async fn copy(daemon: &Daemon, asked: Cp) -> Result<u8> {
    // The current directory is `.`: an empty word is a mistake, such as a variable that is not set.
    for (word, what) in [(&asked.source, "source"), (&asked.target, "destination")] {
        if word.is_empty() {
            return Err(Fault::new(format!("the {what} can not be empty")));
        }
    }
    match (Side::new(&asked.source)?, Side::new(&asked.target)?) {
        (Side::Container(container, path), Side::Stream) => {
            if io::stdout().is_terminal() {
                return Err(Fault::new("an archive is nothing for a terminal: redirect"));
            }
            copy_out(daemon, container, path, asked.follow_link, |_, archive| {
                pass_on(archive)
            })
            .await
        }
        (Side::Container(container, path), Side::Local(target)) => {
            let (target, archive) = (target.to_owned(), asked.archive);
            copy_out(
                daemon,
                container,
                path,
                asked.follow_link,
                move |source, data| unpack(&target, &source, data, archive),
            )
            .await
        }
        (Side::Stream, Side::Container(container, path)) => {
            if io::stdin().is_terminal() {
                return Err(Fault::new(
                    "there is no archive on standard input: it is a terminal",
                ));
            }
            let to = to(container, path);
            copy_in(daemon, to, |outgoing| {
                io::copy(&mut io::stdin().lock(), outgoing)
                    .map(drop)
                    .tried(|| "read standard input".into())
            })
            .await
        }
        (Side::Local(path), Side::Container(container, target)) => {
            let from = Local::open(path, asked.follow_link)?;
            let to = api::copy_in_request::To {
                source: Some(api::CopySource {
                    name: from.source.name.clone(),
                    directory: from.source.directory,
                    contents: from.source.contents,
                    ..Default::default()
                })
                .into(),
                to_root: !asked.archive,
                ..to(container, target)
            };
            copy_in(daemon, to, move |outgoing| from.pack(outgoing)).await
        }
        (Side::Container(..), Side::Container(..)) => Err(Fault::new(
            "files cannot be copied between containers; copy them here first",
        )),
        _ => Err(Fault::new(
            "one of the two must be a container's: CONTAINER:PATH",
        )),
    }
}

fn cut_off(error: ttrpc::Error) -> Fault {
    lost(error, "not all has been copied")
}

fn to(container: &str, path: &[u8]) -> api::copy_in_request::To {
    api::copy_in_request::To {
        container: container.into(),
        path: path.to_vec(),
        ..Default::default()
    }
}

/// A file or directory of the user's.
struct Local {
    source: Source,
    parent: OwnedFd,
    name: Vec<u8>,
    what: What,
}

impl Local {
    fn open(path: &OsStr, follow: bool) -> Result<Self> {
        let named = Named::new(path.as_bytes());
        let what = || format!("copy '{}'", path.display());
        let found = find(root()?.as_fd(), &absolute(path)?, follow || named.directory);
        let found = found.tried(what)?;
        let directory = match found.what {
            What::Nothing => Err(Fault::not_found("there is no such file or directory")),
            What::Other if named.directory => Err(Fault::new("it is no directory")),
            What::Other => Ok(false),
            What::Directory(_) => Ok(true),
        };
        Ok(Self {
            source: Source {
                name: named.name(),
                directory: directory.map_err(|fault| fault.during(what()))?,
                contents: named.contents,
            },
            parent: found.parent,
            name: found.name,
            what: found.what,
        })
    }

    fn pack(self, outgoing: &mut Outgoing) -> Result<()> {
        let top = if self.source.contents || self.source.name.is_empty() {
            b"."
        } else {
            self.source.name.as_slice()
        };
        let mut packer = Packer::new(outgoing);
        let packed = match &self.what {
            What::Directory(directory) => packer.directory(directory, top),
            _ => packer.file(self.parent.as_fd(), &self.name, top),
        };
        packed
            .and_then(|()| packer.finish().map(drop))
            .tried(|| "copy".into())
    }
}

fn root() -> Result<File> {
    File::open("/").tried(|| "open /".into())
}

/// With what its end asks for, which `std::path::absolute` would take away.
fn absolute(path: &OsStr) -> Result<Vec<u8>> {
    if path.as_bytes().starts_with(b"/") {
        return Ok(path.as_bytes().to_vec());
    }
    let here = std::env::current_dir().tried(|| "find the current directory".into())?;
    Ok([here.as_os_str().as_bytes(), b"/", path.as_bytes()].concat())
}

/// Makes the files of an archive below what was named.
fn unpack(path: &OsString, source: &Source, archive: Incoming, keep: bool) -> Result<()> {
    let what = || format!("copy to '{}'", path.display());
    let (naming, directory) =
        target(root()?.as_fd(), &absolute(path)?, Some(source)).tried(what)?;
    let unpacking = Unpacking {
        naming,
        owner: if keep {
            Owner::Kept
        } else {
            Owner::Fixed(geteuid().as_raw(), getegid().as_raw())
        },
        ids: None,
        unprivileged: !geteuid().is_root(),
    };
    // A file's mode is what the archive says.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let unpacked = unpacking.run(archive, directory, whole::descriptors());
    nix::sys::stat::umask(mask);
    unpacked.tried(what)
}

fn pass_on(mut archive: Incoming) -> Result<()> {
    let mut output = io::stdout().lock();
    let mut buffer = vec![0; CHUNK];
    let written = || "write the archive".to_owned();
    loop {
        match archive.read(&mut buffer).tried(written)? {
            0 => return output.flush().tried(written),
            count => output.write_all(&buffer[..count]).tried(written)?,
        }
    }
}

/// All of its root file system.
pub(super) async fn export(daemon: &Daemon, asked: Export) -> Result<u8> {
    let from = api::copy_out_request::From {
        container: asked.container,
        root_file_system: true,
        ..Default::default()
    };
    output::archive(asked.output.as_deref(), async |target| {
        write_out(daemon, from, target).await
    })
    .await?;
    Ok(0)
}

async fn write_out(
    daemon: &Daemon,
    from: api::copy_out_request::From,
    target: &mut dyn Write,
) -> Result<()> {
    let (sender, receiver) = daemon.containers.copy_out(patient()).await?.split();
    let request = |of| api::CopyOutRequest {
        of: Some(of),
        ..Default::default()
    };
    sender
        .send(&request(api::copy_out_request::Of::From(from)))
        .await?;
    let data = |response: api::CopyOutResponse| match response.of {
        Some(api::copy_out_response::Of::Data(data)) => Some(data),
        _ => None,
    };
    let taken = |taken| request(api::copy_out_request::Of::Taken(taken));
    output::receive(&sender, receiver, data, taken, target).await
}

async fn copy_out(
    daemon: &Daemon,
    container: &str,
    path: &[u8],
    follow: bool,
    take: impl FnOnce(Source, Incoming) -> Result<()> + Send + 'static,
) -> Result<u8> {
    let (sender, mut receiver) = daemon.containers.copy_out(patient()).await?.split();
    let from = api::copy_out_request::From {
        container: container.into(),
        path: path.to_vec(),
        follow,
        ..Default::default()
    };
    let request = |of| api::CopyOutRequest {
        of: Some(of),
        ..Default::default()
    };
    sender
        .send(&request(api::copy_out_request::Of::From(from)))
        .await?;
    let source = loop {
        // An empty one only asks whether we are here.
        match receiver.recv().await.map_err(cut_off)?.of {
            Some(api::copy_out_response::Of::Source(source)) => break source,
            None => {}
            _ => return Err(Fault::unknown("the daemon does not say what it is")),
        }
    };
    let source = Source {
        name: source.name,
        directory: source.directory,
        contents: source.contents,
    };
    let (chunks, incoming) = mpsc::channel(4);
    let (telling, mut told) = mpsc::unbounded_channel();
    let incoming = Incoming::new(incoming, move |bytes| {
        // One that does not listen any more has no more to say either.
        telling.send(bytes).ok();
    });
    let work = tokio::task::spawn_blocking(move || take(source, incoming));
    let telling = async {
        while let Some(bytes) = told.recv().await {
            let taken = request(api::copy_out_request::Of::Taken(bytes));
            // After the end nobody wants to know.
            sender.send(&taken).await.ok();
        }
        // He has come to his end, or to a fault.
    };
    let received = tokio::select! {
        received = receive(&mut receiver, chunks) => received,
        () = telling => Ok(()),
    };
    let taken = work.await.tried(|| "copy".into())?;
    // If the daemon says why there was no more, that is the reason.
    received.and(taken)?;
    Ok(0)
}

/// Passes the archive on to who takes it, until its end, or until he takes no more.
async fn receive(
    receiver: &mut CSReceiver<api::CopyOutResponse>,
    chunks: mpsc::Sender<Option<Vec<u8>>>,
) -> Result<()> {
    loop {
        let data = match receiver.recv().await {
            Ok(response) => match response.of {
                Some(api::copy_out_response::Of::Data(data)) => Some(data),
                _ => continue,
            },
            Err(ttrpc::Error::Eof) => None,
            Err(error) => return Err(cut_off(error)),
        };
        let last = data.is_none();
        if chunks.send(data).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn copy_in(
    daemon: &Daemon,
    to: api::copy_in_request::To,
    give: impl FnOnce(&mut Outgoing) -> Result<()> + Send + 'static,
) -> Result<u8> {
    let (sender, mut receiver) = daemon.containers.copy_in(patient()).await?.split();
    sender
        .send(&request(api::copy_in_request::Of::To(to)))
        .await?;
    let (chunks, next) = mpsc::channel(4);
    let work = tokio::task::spawn_blocking(move || {
        let mut outgoing = Outgoing::new(chunks);
        give(&mut outgoing)?;
        outgoing.flush().tried(|| "copy".into())
    });
    let (noticing, taken) = watch::channel(0);
    let sending = async {
        send(&sender, next, taken).await?;
        // It has said all, or what was wrong.
        work.await.tried(|| "copy".into())??;
        sender
            .send(&request(api::copy_in_request::Of::End(true)))
            .await
            .map_err(cut_off)?;
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        biased;
        received = received(&mut receiver, &noticing) => received?,
        sent = sending => sent?,
    }
    Ok(0)
}

/// Until all is done.
async fn received(
    receiver: &mut CSReceiver<api::CopyInResponse>,
    noticing: &watch::Sender<u64>,
) -> Result<()> {
    loop {
        match receiver.recv().await {
            Ok(response) => noticing.send_modify(|taken| *taken = response.taken.max(*taken)),
            Err(ttrpc::Error::Eof) => return Ok(()),
            Err(error) => return Err(cut_off(error)),
        }
    }
}

fn request(of: api::copy_in_request::Of) -> api::CopyInRequest {
    api::CopyInRequest {
        of: Some(of),
        ..Default::default()
    }
}

async fn send(
    sender: &CSSender<api::CopyInRequest>,
    mut next: mpsc::Receiver<Vec<u8>>,
    mut taken: watch::Receiver<u64>,
) -> Result<()> {
    let mut sent = 0_u64;
    while let Some(chunk) = next.recv().await {
        sent += chunk.len() as u64;
        sender
            .send(&request(api::copy_in_request::Of::Data(chunk)))
            .await
            .map_err(cut_off)?;
        let least = sent.saturating_sub(WINDOW);
        // The sender of the other end is here.
        taken.wait_for(|taken| *taken >= least).await.ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_whose_it_is() {
        let side = |word: &'static str| Side::new(OsStr::new(word));
        let local = |word: &'static str| Side::Local(OsStr::new(word));
        assert_eq!(side("-").unwrap(), Side::Stream);
        for word in ["file", "/a:b", "./a:b", "../a:b"] {
            assert_eq!(side(word).unwrap(), local(word));
        }
        assert_eq!(side("box:/").unwrap(), Side::Container("box", b"/"));
        assert_eq!(side("box:a:b").unwrap(), Side::Container("box", b"a:b"));
        assert!(side(":a").is_err());
        assert!(side("box:").is_err());
    }
}
