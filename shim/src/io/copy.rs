//! The tasks that copy, one per stream. They wake when there is data, or room for what waits, and at no other time.

use std::future::pending;
use std::io::Result;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{read, write};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::coop::consume_budget;

use super::sink::{Moved, Sink, Source};
use crate::sys;

/// How much of what is typed is on its way at once.
const TYPED: usize = 512;

/// How much a runtime's command may say before it is copied: half a pipe, since a page of it may be half empty.
const DECENT: libc::c_int = 32 << 10;

/// From a pipe.
pub(super) async fn from_pipe(pipe: AsyncFd<OwnedFd>, mut sink: Sink) {
    copy(&pipe, |fd| Source::Pipe(fd.as_fd()), &mut sink, pending()).await;
}

/// From a pipe that the runtime's command writes to as well, until `made`: if it fails, what it says there is not the process's. Of one
/// that says more than is decent it is copied, lest it wait for us for ever.
pub(super) async fn from_process(
    pipe: AsyncFd<OwnedFd>,
    mut made: watch::Receiver<bool>,
    sink: Sink,
) {
    let mut open = true;
    while !*made.borrow_and_update() {
        tokio::select! {
            changed = made.changed() => if changed.is_err() {
                return;
            },
            ready = pipe.readable(), if open => {
                // The shim ends.
                let Ok(mut ready) = ready else { return };
                if sys::waiting(pipe.as_fd()).is_ok_and(|size| size >= DECENT) {
                    break;
                }
                // An end stays ready.
                open = !ready.ready().is_read_closed();
                ready.clear_ready();
            }
        }
    }
    from_pipe(pipe, sink).await;
}

/// From a terminal, until it or `input` has ended: what is there by then is still copied.
pub(super) async fn from_terminal(
    terminal: Arc<AsyncFd<OwnedFd>>,
    mut sink: Sink,
    mut input: watch::Receiver<()>,
) {
    let hung_up = async { while input.changed().await.is_ok() {} };
    copy(
        &terminal,
        |fd| Source::Terminal(fd.as_fd()),
        &mut sink,
        hung_up,
    )
    .await;
}

async fn copy(
    from: &AsyncFd<OwnedFd>,
    source: fn(&OwnedFd) -> Source<'_>,
    sink: &mut Sink,
    until: impl Future<Output = ()>,
) {
    let mut until = pin!(until);
    loop {
        match sink.take(source(from.get_ref())) {
            Moved::Something => {}
            Moved::Nothing => tokio::select! {
                // What there is belongs before what has been waited for long enough.
                biased;
                ready = from.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    // The shim ends.
                    Err(_) => return,
                },
                () = &mut until => return,
                () = sink.overdue() => sink.flush(),
            },
            Moved::Full => sink.room().await,
            Moved::End => return,
        }
        // A container that writes without end must not keep the others waiting.
        consume_budget().await;
    }
}

/// What a client types, to a terminal, until either has ended. `_input` goes then.
pub(super) async fn to_terminal(
    fifo: AsyncFd<OwnedFd>,
    terminal: Arc<AsyncFd<OwnedFd>>,
    _input: watch::Sender<()>,
) {
    while let Ok(mut ready) = fifo.readable().await {
        let mut typed = [0; TYPED];
        match read(fifo.get_ref(), &mut typed) {
            Ok(0) => return,
            Ok(length) if type_in(&terminal, &typed[..length]).await.is_err() => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(_) => return,
        }
    }
}

async fn type_in(terminal: &AsyncFd<OwnedFd>, mut typed: &[u8]) -> Result<()> {
    while !typed.is_empty() {
        let mut ready = terminal.writable().await?;
        match write(terminal.get_ref(), typed) {
            Ok(length) => typed = &typed[length..],
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
