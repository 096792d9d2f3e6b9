//! The serving shim: one thread (but see `aside`), which waits for requests, for children and for signals, and ends when a client says so and nothing is left.
//!
//! Made by `start`, which passes the listening socket as standard input.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Result};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, Service};

use crate::accept::{Accepted, Open};
use crate::cli::Invocation;
use crate::container::Shim;
use crate::containers::Containers;
use crate::end::End;
use crate::events::Spool;
use crate::io::Stopping;
use crate::reaper::Reaper;
use crate::{aside, descriptors, log, sandbox, socket, task};

/// How long the end waits for the last replies.
const LAST_REPLIES: Duration = Duration::from_millis(500);

pub(crate) fn run(invocation: &Invocation) -> anyhow::Result<()> {
    prctl::set_child_subreaper(true)?;
    // One huge page would be as large as all of us. Commands that we run are allowed them again.
    prctl::set_thp_disable(true)?;
    descriptors::raise()?;
    let listener = take_standard_streams()?;
    log::open(&invocation.namespace, &invocation.id, invocation.debug);
    let socket = path_of(&listener)?;
    let runtime = aside::runtime()?;
    let served = runtime.block_on(serve(invocation, listener, &socket));
    runtime.shutdown_background();
    served
}

async fn serve(invocation: &Invocation, listener: StdListener, path: &Path) -> anyhow::Result<()> {
    let reaper = Reaper::new()?;
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let changes = watch::Sender::new(());
    let spool = Spool::new(&address, &invocation.namespace, changes.clone());
    let open = Open::new(changes.clone());
    let stopping = Stopping::default();
    let shim = Shim {
        namespace: invocation.namespace.clone(),
        reaper,
        spool: spool.clone(),
        changes,
        stopping: stopping.clone(),
    };
    let containers = Arc::new(Containers::new(shim));
    let end = Arc::new(End::default());
    let services = services(&containers, &end);
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let accepted = Accepted::new(listener, open.clone(), services.keys().cloned().collect());
    let mut server = Server::new()
        .add_listener(Listener::new(accepted))
        .register_service(services);
    server.start().await?;
    log::debug("serving");
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(tell_on_demand(
        containers.clone(),
        open.clone(),
        spool.clone(),
    ));
    tokio::select! {
        why = end.come(&containers, &open) => log::info(&format!("ending: {why}")),
        _ = terminate.recv() => log::info("ending: SIGTERM"),
        _ = interrupt.recv() => log::info("ending: SIGINT"),
    }
    containers.close();
    server.stop_listen().await;
    // The next shim of this group makes its own.
    socket::remove(path)?;
    end.hidden();
    let (told, logged) = tokio::join!(spool.flushed(), stopping.over());
    if !told {
        log::warn("events were not taken in time, ignoring");
    }
    if !logged {
        log::warn("a logger cannot be killed, ignoring");
    }
    // Clients that still wait for something keep a connection; the process' end closes it.
    tokio::time::timeout(LAST_REPLIES, server.disconnect())
        .await
        .ok();
    Ok(())
}

/// All services, by their names. The one without a name and methods stands for those that there are not (see `accept`).
fn services(containers: &Arc<Containers>, end: &Arc<End>) -> HashMap<String, Service> {
    let mut services = task::services(containers.clone(), end.clone());
    services.extend(sandbox::services(containers.clone(), end.clone()));
    let nothing = Service {
        methods: HashMap::new(),
        streams: HashMap::new(),
    };
    services.insert(String::new(), nothing);
    services
}

/// At each SIGUSR1, says in the log what there is.
async fn tell_on_demand(containers: Arc<Containers>, open: Arc<Open>, spool: Spool) {
    let mut demands = match signal(SignalKind::user_defined1()) {
        Ok(demands) => demands,
        Err(error) => return log::warn(&format!("wait for SIGUSR1: {error}, ignoring")),
    };
    while demands.recv().await.is_some() {
        let (connections, events) = (open.count(), spool.waiting());
        log::info(&format!(
            "{connections} connections, {events} events that were not taken"
        ));
        for line in containers.told() {
            log::info(&line);
        }
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
