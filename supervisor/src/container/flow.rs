//! The two directions of an attached client: output to him, at most [`WINDOW`] ahead of what he has taken, and his input to a process.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use ttrpc::r#async::SSSender;

use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{
    AttachRequest, AttachResponse, ExecRequest, Input, attach_request, attach_response,
    exec_request, input,
};
use crate::requests::Requests;
use crate::shim::Shim;

/// How far output may be ahead of what the client has taken.
const WINDOW: u64 = 1 << 20;

/// To a client.
#[derive(Debug)]
pub(super) struct Output {
    sender: SSSender<AttachResponse>,
    sent: u64,
    taken: watch::Receiver<u64>,
}

impl Output {
    pub(super) fn new(sender: SSSender<AttachResponse>, taken: watch::Receiver<u64>) -> Self {
        Self {
            sender,
            sent: 0,
            taken,
        }
    }

    /// Waits until the client has room.
    pub(super) async fn room(&mut self) -> Result<()> {
        let least = self.sent.saturating_sub(WINDOW);
        let taken = self.taken.wait_for(|taken| *taken >= least).await;
        taken
            .map(drop)
            .map_err(|_| Fault::unknown("the client has left"))
    }

    pub(super) async fn data(&mut self, stderr: bool, data: Vec<u8>) -> Result<()> {
        self.sent += data.len() as u64;
        let of = if stderr {
            attach_response::Of::Stderr(data)
        } else {
            attach_response::Of::Stdout(data)
        };
        send(&self.sender, of).await
    }

    /// With how many bytes of output are missing.
    pub(super) async fn ended(&self, code: i32, lost: u64) -> Result<()> {
        let ended = attach_response::Ended {
            exit_code: code,
            lost_output: lost,
            ..Default::default()
        };
        send(&self.sender, attach_response::Of::Ended(ended)).await
    }
}

pub(super) async fn attached(
    sender: &SSSender<AttachResponse>,
    id: &str,
    terminal: bool,
) -> Result<()> {
    let attached = attach_response::Attached {
        id: id.into(),
        terminal,
        ..Default::default()
    };
    send(sender, attach_response::Of::Attached(attached)).await
}

async fn send(sender: &SSSender<AttachResponse>, of: attach_response::Of) -> Result<()> {
    let response = AttachResponse {
        of: Some(of),
        ..Default::default()
    };
    Ok(sender.send(&response).await?)
}

/// Requests of which all but the first carry input.
pub(super) trait Carries: ttrpc::proto::Codec {
    fn input(self) -> Option<Input>;
}

impl Carries for AttachRequest {
    fn input(self) -> Option<Input> {
        match self.of {
            Some(attach_request::Of::Input(input)) => Some(input),
            _ => None,
        }
    }
}

impl Carries for ExecRequest {
    fn input(self) -> Option<Input> {
        match self.of {
            Some(exec_request::Of::Input(input)) => Some(input),
            _ => None,
        }
    }
}

/// Passes requests on; never comes back.
pub(super) async fn receive<Q>(mut requests: Requests<Q>, to: mpsc::Sender<Input>)
where
    Q: Carries + Send + 'static,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    while let Ok(Some(request)) = requests.next().await {
        if let Some(input) = request.input()
            && to.send(input).await.is_err()
        {
            break;
        }
    }
    std::future::pending().await
}

/// What the client sends, for one process; `exec` is empty for the container's own.
pub(super) struct Inputs<'a> {
    pub(super) shim: &'a Shim,
    pub(super) exec: &'a str,
    /// The process' fifo, if the client is to write to it.
    pub(super) stdin: Option<&'a Path>,
    /// The end of the client's input is not that of the process'.
    pub(super) keep: bool,
    pub(super) sender: SSSender<AttachResponse>,
    pub(super) taken: watch::Sender<u64>,
    pub(super) seen: &'a Seen,
}

/// What a client has sent in all, for whatever process.
#[derive(Debug, Default)]
pub(super) struct Seen {
    bytes: AtomicU64,
    end: AtomicBool,
}

impl Inputs<'_> {
    /// Passes on what comes. Comes back only with an error: the client may have no more to say, and still listens.
    pub(super) async fn run(&self, next: &mut mpsc::Receiver<Input>) -> Result<()> {
        let (to_writer, mut data) = mpsc::unbounded_channel::<Option<Vec<u8>>>();
        // What another process has not taken any more counts as taken, and the end is the end.
        let mut taken = self.seen.bytes.load(Ordering::Relaxed);
        if self.seen.end.load(Ordering::Relaxed) {
            drop(to_writer.send(None));
        }
        let reading = async {
            while let Some(input) = next.recv().await {
                match input.of {
                    // The window bounds what waits here. Without a fifo nobody wants it.
                    Some(input::Of::Data(bytes)) => {
                        let length = bytes.len() as u64;
                        self.seen.bytes.fetch_add(length, Ordering::Relaxed);
                        drop(to_writer.send(Some(bytes)));
                    }
                    Some(input::Of::End(_)) => {
                        self.seen.end.store(true, Ordering::Relaxed);
                        drop(to_writer.send(None));
                    }
                    // A terminal that is gone needs no size.
                    Some(input::Of::Size(size)) => {
                        drop(self.shim.resize(self.exec, size.width, size.height).await)
                    }
                    Some(input::Of::Taken(bytes)) => {
                        self.taken.send_modify(|taken| *taken = bytes.max(*taken));
                    }
                    _ => {}
                }
            }
            std::future::pending::<()>().await;
        };
        let writing = async {
            let mut fifo = match self.stdin {
                Some(path) => Some(
                    pipe::OpenOptions::new()
                        .read_write(true)
                        .open_sender(path)
                        .tried(|| format!("open {}", path.display()))?,
                ),
                None => None,
            };
            while let Some(bytes) = data.recv().await {
                let Some(bytes) = bytes else {
                    // A process that has ended needs no end of input; how it ended is what counts.
                    if fifo.take().is_some() && !self.keep {
                        self.shim.close_stdin(self.exec).await.ok();
                    }
                    send(&self.sender, attach_response::Of::Taken(taken)).await?;
                    continue;
                };
                if let Some(fifo) = &mut fifo {
                    fifo.write_all(&bytes)
                        .await
                        .tried(|| "write to the fifo of stdin".into())?;
                }
                taken += bytes.len() as u64;
                send(&self.sender, attach_response::Of::Taken(taken)).await?;
            }
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            () = reading => Ok(()),
            failed = writing => failed,
        }
    }
}
