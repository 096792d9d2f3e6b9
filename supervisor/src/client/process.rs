//! A client attached to a process: its output here, our input and signals there.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
/// How long who leaves waits until all that he has typed has been taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much output is taken before the daemon is told.
const TOLD: u64 = 128 << 10;

/// What ends a program that does nothing about it, asked for by its user.
pub(super) const DEADLY: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Ended(i32),
    Detached,
    /// Nobody reads our output any more; the process goes on, as with Docker.
    Unwanted,
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
    /// Other output is taken and dropped.
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) detach_keys: &'a DetachKeys,
    /// Signals that we get go to this one.
    pub(super) signals: Option<&'a mpsc::UnboundedSender<i32>>,
}

/// Until the process has ended or the user leaves. The first response has been taken: it says whether there is a terminal.
pub(super) async fn attached<Q>(
    sender: &CSSender<Q>,
    receiver: &mut CSReceiver<AttachResponse>,
    terminal: bool,
    ends: &Ends<'_>,
    mut caught: Caught,
) -> Result<Over>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let is_raw = terminal && ends.stdin && terminal::is_input();
    // One with a terminal gets its signals from there, as Docker has it.
    let passed = ends.signals.filter(|_| !terminal);
    if is_raw || passed.is_some() {
        // Before the terminal is raw, which none of them is to leave so.
        caught.add(&DEADLY)?;
    }
    if passed.is_some() {
        caught.add(&[libc::SIGUSR1, libc::SIGUSR2])?;
    }
    let raw = is_raw.then(Raw::new).transpose()?;
    let keys = raw.as_ref().map(|_| ends.detach_keys.clone());
    let (taken_sender, taken) = watch::channel(0);
    let told = Cell::new((0, 0));
    let output = take_output(sender, receiver, &taken_sender, ends);
    let input = async {
        if ends.stdin {
            let leaves = !ends.stdout && !ends.stderr;
            give_input(sender, keys, taken, &told, leaves).await?;
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
        loop {
            let number = caught.next().await;
            if passed.is_none_or(|to| to.send(number).is_err()) {
                return number;
            }
        }
    };
    tokio::select! {
        over = output => over,
        over = input => over,
        over = sizes => over,
        number = signals => {
            drop(raw);
            terminal::end_by(number)
        }
    }
}

async fn take_output<Q>(
    sender: &CSSender<Q>,
    receiver: &mut CSReceiver<AttachResponse>,
    taken: &watch::Sender<u64>,
    ends: &Ends<'_>,
) -> Result<Over>
where
    Q: Carries,
    <Q as ttrpc::proto::Codec>::E: std::fmt::Display,
{
    let (mut all, mut told) = (0_u64, 0);
    loop {
        let length = match receiver.recv().await.map_err(left)?.of {
            Some(attach_response::Of::Stdout(data)) => {
                let length = data.len() as u64;
                if ends.stdout && !write(false, data).await? {
                    return Ok(Over::Unwanted);
                }
                length
            }
            Some(attach_response::Of::Stderr(data)) => {
                let length = data.len() as u64;
                // What counts is standard output.
                if ends.stderr {
                    write(true, data).await?;
                }
                length
            }
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

/// Of a stream: its end without an answer means that the daemon is gone. `then` says what that means.
pub(super) fn lost(error: ttrpc::Error, then: &str) -> Fault {
    Fault::of_call(
        error,
        &format!("the connection to the daemon is lost: {then}"),
    )
}

/// That of one who was not told yet that it has begun.
pub(super) fn unknown(error: ttrpc::Error) -> Fault {
    lost(error, "what was to begin may have, see 'caissonctl ps -a'")
}

/// That of one who was attached.
pub(super) fn left(error: ttrpc::Error) -> Fault {
    lost(error, "the container goes on, attach to it again")
}

/// All of it; false if nobody wants it any more (`| head`). Not in the way of signals, however long a reader takes.
async fn write(is_stderr: bool, data: Vec<u8>) -> Result<bool> {
    let writing = tokio::task::spawn_blocking(move || {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let to = match is_stderr {
            true => stderr.as_fd(),
            false => stdout.as_fd(),
        };
        let mut rest = &data[..];
        while !rest.is_empty() {
            match nix::unistd::write(to, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::EINTR) => {}
                // Standard output may have been made non-blocking by another who has it.
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(to, PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::NONE).map(drop)?;
                }
                Err(Errno::EPIPE) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    });
    let written = writing.await.tried(|| "write".into())?;
    written.tried(|| "write to standard output".into())
}

/// Comes back only when the user leaves, or at the end of input if he then does.
async fn give_input<Q>(
    sender: &CSSender<Q>,
    mut keys: Option<DetachKeys>,
    mut taken: watch::Receiver<u64>,
    told: &Cell<(u32, u32)>,
    leaves: bool,
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
        let typed = &buffer[..length];
        let (data, left) = match &mut keys {
            Some(keys) => keys.pass(typed),
            None => (typed.to_vec(), false),
        };
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
        if length == 0 && leaves && taken.wait_for(|taken| *taken >= sent).await.is_err() {
            return std::future::pending().await;
        }
        sender
            .send(&Q::carry(Input {
                of: Some(of),
                ..Input::default()
            }))
            .await?;
        if length == 0 {
            // The end is taken as soon as it is said once more how much that was in all.
            if leaves && taken.changed().await.is_ok() {
                return Ok(());
            }
            return std::future::pending().await;
        }
        if left {
            // What was typed before is in the container first, unless nothing there reads it.
            let all = taken.wait_for(|taken| *taken >= sent);
            tokio::time::timeout(PATIENCE, all).await.ok();
            return Ok(());
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

/// Signals that we get, by number; those that came since they were added.
#[derive(Default)]
pub(super) struct Caught(Vec<(i32, Signal)>);

impl Caught {
    pub(super) fn add(&mut self, numbers: &[i32]) -> Result<()> {
        for number in numbers {
            if self.0.iter().all(|(known, _)| known != number) {
                let caught = signal(SignalKind::from_raw(*number));
                self.0
                    .push((*number, caught.tried(|| "wait for signals".into())?));
            }
        }
        Ok(())
    }

    pub(super) async fn next(&mut self) -> i32 {
        let next = |context: &mut Context<'_>| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        };
        poll_fn(next).await
    }
}
