//! The serving shim: one thread, which waits for requests, for children and for signals, and ends when a client says so and nothing is left.
//!
//! Made by `start`, which passes the listening socket as standard input.

use std::fs::{self, OpenOptions};
use std::io::{self, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::sys::prctl;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, geteuid};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::cli::Invocation;
use crate::container::Shim;
use crate::containers::Containers;
use crate::events::Spool;
use crate::log;
use crate::reaper::Reaper;
use crate::task;

/// A shim without containers that nobody gives one ends by itself after this time.
const ABANDONED: Duration = Duration::from_secs(600);

/// How long the end waits for containerd to take the last events; it waits 3 s for us.
const FLUSH: Duration = Duration::from_secs(2);

/// How long it waits for the last replies.
const LAST_REPLIES: Duration = Duration::from_millis(500);

pub(crate) fn run(invocation: &Invocation) -> anyhow::Result<()> {
    prctl::set_child_subreaper(true)?;
    // One huge page would be as large as all of us. Commands that we run are allowed them again.
    prctl::set_thp_disable(true)?;
    let listener = take_standard_streams()?;
    log::open(&invocation.namespace, &invocation.id, invocation.debug);
    let socket = path_of(&listener)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(invocation, listener))?;
    // The next shim of this group makes its own.
    fs::remove_file(socket)?;
    Ok(())
}

async fn serve(invocation: &Invocation, listener: StdListener) -> anyhow::Result<()> {
    let reaper = Reaper::new()?;
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let spool = Spool::new(&address, &invocation.namespace);
    let shim = Shim {
        namespace: invocation.namespace.clone(),
        reaper,
        spool: spool.clone(),
    };
    let containers = Arc::new(Containers::new(shim));
    let shutdown = Arc::new(Notify::new());
    listener.set_nonblocking(true)?;
    let accepted = Accepted(UnixListener::from_std(listener)?);
    let mut server = Server::new()
        .add_listener(Listener::new(accepted))
        .register_service(task::services(containers.clone(), shutdown.clone()));
    server.start().await?;
    log::debug("serving");
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        () = shutdown.notified() => log::debug("ending: asked to"),
        _ = terminate.recv() => log::info("ending: SIGTERM"),
        _ = interrupt.recv() => log::info("ending: SIGINT"),
        () = abandoned(&containers) => log::info("ending: without containers for too long"),
    }
    server.stop_listen().await;
    if !spool.flushed(FLUSH).await {
        log::warn("events were not taken in time, ignoring");
    }
    // Clients that still wait for something keep a connection; the process' end closes it.
    tokio::time::timeout(LAST_REPLIES, server.disconnect())
        .await
        .ok();
    Ok(())
}

/// Comes back when there has been no container for long.
async fn abandoned(containers: &Containers) {
    let mut count = containers.count();
    loop {
        if *count.borrow_and_update() == 0 {
            match tokio::time::timeout(ABANDONED, count.changed()).await {
                Err(_) => return,
                Ok(_) => continue,
            }
        }
        // The sender lives as long as `containers`.
        count.changed().await.ok();
    }
}

/// The listener is standard input; in its place comes /dev/null, as for standard output, and the log for standard error.
fn take_standard_streams() -> Result<StdListener> {
    let listener = StdListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    match open_log(Path::new("log")) {
        Ok(fifo) => dup2_stderr(fifo)?,
        // Started by hand, or by a containerd that has gone already.
        Err(_) => dup2_stderr(null)?,
    }
    Ok(listener)
}

/// For reading too, so that a write never fails for want of a reader.
fn open_log(path: &Path) -> Result<fs::File> {
    if !fs::symlink_metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::other("the log is no fifo"));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
}

fn path_of(listener: &StdListener) -> Result<PathBuf> {
    let address = listener.local_addr()?;
    address
        .as_pathname()
        .map(Path::to_owned)
        .ok_or_else(|| io::Error::other("standard input is no listening socket with a path"))
}

/// The connections of those who may use the shim: its own user. Others are closed at once.
struct Accepted(UnixListener);

impl Stream for Accepted {
    type Item = Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (stream, _) = ready!(self.0.poll_accept(context))?;
            match peer(stream.as_fd()) {
                Ok(uid) if uid == geteuid().as_raw() => return Poll::Ready(Some(Ok(stream))),
                Ok(uid) => log::warn(&format!("refused a connection of uid {uid}")),
                Err(error) => log::warn(&format!("whose connection is it: {error}, ignoring")),
            }
        }
    }
}

fn peer(stream: BorrowedFd<'_>) -> nix::Result<u32> {
    Ok(getsockopt(&stream, PeerCredentials)?.uid())
}
