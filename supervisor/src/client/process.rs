//! A client attached to a process: its output here, our input and signals there.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;

use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use ttrpc::r#async::{CSReceiver, CSSender};

use super::REFUSED;
use super::terminal::{self, DetachKeys, Raw};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{
    AttachRequest, AttachResponse, ExecRequest, Input, attach_request, attach_response,
    exec_request, input,
};

/// What is read at once.
const CHUNK: usize = 32 << 10;
/// How far input may be ahead of what has been taken.
const WINDOW: u64 = 1 << 20;
/// How much output is taken before the daemon is told.
const TOLD: u64 = 128 << 10;

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Ended(i32),
    Detached,
}

/// Requests that can carry input.
pub(super) trait Carries: ttrpc::proto::Codec {
    fn carry(input: Input) -> Self;
}

impl Carries for AttachRequest {
    fn carry(input: Input) -> Self {
        Self {
            of: Some(attach_request::Of::Input(input)),
            ..Self::default()
        }
    }
}

impl Carries for ExecRequest {
    fn carry(input: Input) -> Self {
        Self {
            of: Some(exec_request::Of::Input(input)),
            ..Self::default()
        }
    }
}

/// What is attached of ours.
pub(super) struct Ends<'a> {
    pub(super) stdin: bool,
    pub(super) detach_keys: &'a str,
    /// Signals that we get go to this one.
    pub(super) signals: Option<&'a mpsc::UnboundedSender<i32>>,
}

/// Until the process has ended or the user leaves. The first response has been taken: it says whether there is a terminal.
pub(super) async fn attached<Q>(
    sender: &CSSender<Q>,
    receiver: &mut CSReceiver<AttachResponse>,
    terminal: bool,
    ends: &Ends<'_>,
) -> Result<Over>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let raw = (terminal && ends.stdin && terminal::is_input())
        .then(Raw::new)
        .transpose()?;
    let keys = raw
        .as_ref()
        .map(|_| DetachKeys::parse(ends.detach_keys))
        .transpose()?;
    let (taken_sender, taken) = watch::channel(0);
    let told = Cell::new((0, 0));
    let output = take_output(sender, receiver, &taken_sender);
    let input = async {
        if ends.stdin {
            give_input(sender, keys, taken, &told).await?;
            return Ok(Over::Detached);
        }
        std::future::pending::<Result<Over>>().await
    };
    let sizes = async {
        if terminal {
            give_sizes(sender, &told).await?;
        }
        std::future::pending::<Result<Over>>().await
    };
    let signals = async {
        if let Some(to) = ends.signals.filter(|_| !terminal || raw.is_none()) {
            pass_signals(to).await?;
        }
        std::future::pending::<Result<Over>>().await
    };
    tokio::select! {
        over = output => over,
        over = input => over,
        over = sizes => over,
        over = signals => over,
    }
}

async fn take_output<Q>(
    sender: &CSSender<Q>,
    receiver: &mut CSReceiver<AttachResponse>,
    taken: &watch::Sender<u64>,
) -> Result<Over>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let (mut all, mut told) = (0_u64, 0);
    loop {
        let length = match receiver.recv().await.map_err(lost)?.of {
            Some(attach_response::Of::Stdout(data)) => write(io::stdout().as_fd(), &data).await?,
            Some(attach_response::Of::Stderr(data)) => write(io::stderr().as_fd(), &data).await?,
            Some(attach_response::Of::Ended(ended)) => return Ok(Over::Ended(code(&ended))),
            Some(attach_response::Of::Taken(bytes)) => {
                taken.send_modify(|taken| *taken = bytes);
                0
            }
            _ => 0,
        };
        all += length;
        if all - told >= TOLD {
            told = all;
            let taken = Input {
                of: Some(input::Of::Taken(all)),
                ..Input::default()
            };
            sender.send(&Q::carry(taken)).await?;
        }
    }
}

/// The process' own, unless that would say that all is well with a part of its output missing.
fn code(ended: &attach_response::Ended) -> i32 {
    if ended.lost_output == 0 {
        return ended.exit_code;
    }
    super::say_lost(ended.lost_output);
    match ended.exit_code {
        0 => REFUSED.into(),
        code => code,
    }
}

/// An error of the stream is an answer; its end without one means that the daemon is gone.
pub(super) fn lost(error: ttrpc::Error) -> Fault {
    let fault = Fault::from(error);
    if fault.kind == crate::fault::Kind::Unavailable {
        return fault.during(
            "the connection to the daemon is lost; the container goes on, attach to it again",
        );
    }
    fault
}

/// All of it. What nobody wants any more (`| head`) is taken all the same, so that the process' end is seen.
async fn write(to: std::os::fd::BorrowedFd<'_>, data: &[u8]) -> Result<u64> {
    let mut rest = data;
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(length) => rest = &rest[length..],
            Err(nix::errno::Errno::EINTR) => {}
            // Standard output may have been made non-blocking by another who has it.
            Err(nix::errno::Errno::EAGAIN) => {
                let to = to.try_clone_to_owned().tried(|| "write".into())?;
                let waited = tokio::task::spawn_blocking(move || {
                    let mut fds = [nix::poll::PollFd::new(
                        to.as_fd(),
                        nix::poll::PollFlags::POLLOUT,
                    )];
                    nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE)
                });
                waited
                    .await
                    .tried(|| "write".into())?
                    .tried(|| "wait for standard output".into())?;
            }
            Err(nix::errno::Errno::EPIPE) => break,
            Err(errno) => return Err(Fault::unknown(format!("write to standard output: {errno}"))),
        }
    }
    Ok(data.len() as u64)
}

/// Comes back only when the user leaves.
async fn give_input<Q>(
    sender: &CSSender<Q>,
    mut keys: Option<DetachKeys>,
    mut taken: watch::Receiver<u64>,
    told: &Cell<(u32, u32)>,
) -> Result<()>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    let mut sent = 0_u64;
    loop {
        let length = stdin
            .read(&mut buffer)
            .await
            .tried(|| "read standard input".into())?;
        let mut data = buffer[..length].to_vec();
        if let Some(keys) = &mut keys {
            match keys.pass(&data) {
                Some(passed) => data = passed,
                None => return Ok(()),
            }
        }
        let of = if length == 0 {
            input::Of::End(true)
        } else {
            input::Of::Data(data)
        };
        if let input::Of::Data(data) = &of {
            sent += data.len() as u64;
        }
        if keys.is_some() {
            // What is typed into a window of another size comes after that.
            tell_size(sender, told).await?;
        }
        sender
            .send(&Q::carry(Input {
                of: Some(of),
                ..Input::default()
            }))
            .await?;
        if length == 0 {
            return std::future::pending().await;
        }
        let least = sent.saturating_sub(WINDOW);
        if taken.wait_for(|taken| *taken >= least).await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn give_sizes<Q>(sender: &CSSender<Q>, told: &Cell<(u32, u32)>) -> Result<()>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let mut changed = signal(SignalKind::window_change()).tried(|| "wait for signals".into())?;
    // Once without a signal: one may have come before we listened.
    loop {
        tell_size(sender, told).await?;
        if changed.recv().await.is_none() {
            break;
        }
    }
    Ok(())
}

/// If it is another than the last one that was told.
async fn tell_size<Q>(sender: &CSSender<Q>, told: &Cell<(u32, u32)>) -> Result<()>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let Some(size) = terminal::size() else {
        return Ok(());
    };
    let new = (size.width, size.height);
    if told.replace(new) == new {
        return Ok(());
    }
    let size = Input {
        of: Some(input::Of::Size(size)),
        ..Input::default()
    };
    Ok(sender.send(&Q::carry(size)).await?)
}

async fn pass_signals(to: &mpsc::UnboundedSender<i32>) -> Result<()> {
    let caught = |kind: SignalKind| signal(kind).tried(|| "wait for signals".into());
    let (mut interrupt, mut terminate, mut hangup) = (
        caught(SignalKind::interrupt())?,
        caught(SignalKind::terminate())?,
        caught(SignalKind::hangup())?,
    );
    let (mut quit, mut first, mut second) = (
        caught(SignalKind::quit())?,
        caught(SignalKind::user_defined1())?,
        caught(SignalKind::user_defined2())?,
    );
    let next = async |signal: &mut Signal| signal.recv().await;
    loop {
        let number = tokio::select! {
            _ = next(&mut interrupt) => libc::SIGINT,
            _ = next(&mut terminate) => libc::SIGTERM,
            _ = next(&mut hangup) => libc::SIGHUP,
            _ = next(&mut quit) => libc::SIGQUIT,
            _ = next(&mut first) => libc::SIGUSR1,
            _ = next(&mut second) => libc::SIGUSR2,
        };
        if to.send(number).is_err() {
            return Ok(());
        }
    }
}
