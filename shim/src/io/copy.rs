//! The tasks that copy, one per stream. They wake when there is data, or room for what waits, and at no other time.

use std::io::Result;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{read, write};
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;

use super::sink::{Moved, Sink, Source};

/// How much of what is typed is on its way at once.
const TYPED: usize = 512;

/// From a pipe.
pub(super) async fn from_pipe(pipe: AsyncFd<OwnedFd>, mut sink: Sink) {
    copy(&pipe, |fd| Source::Pipe(fd.as_fd()), &mut sink).await;
}

/// From a terminal.
pub(super) async fn from_terminal(terminal: Arc<AsyncFd<OwnedFd>>, mut sink: Sink) {
    copy(&terminal, |fd| Source::Terminal(fd.as_fd()), &mut sink).await;
}

async fn copy(from: &AsyncFd<OwnedFd>, source: fn(&OwnedFd) -> Source<'_>, sink: &mut Sink) {
    // No readiness any more: the shim ends.
    while let Ok(mut ready) = from.readable().await {
        match sink.take(source(from.get_ref())) {
            Moved::Something => {}
            Moved::Nothing => ready.clear_ready(),
            Moved::Full => sink.room().await,
            Moved::End => return,
        }
        // A container that writes without end must not keep the others waiting.
        consume_budget().await;
    }
}

/// What a client types, to a terminal, until either has ended.
pub(super) async fn to_terminal(fifo: AsyncFd<OwnedFd>, terminal: Arc<AsyncFd<OwnedFd>>) {
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
