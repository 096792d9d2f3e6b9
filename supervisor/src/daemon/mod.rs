//! `caissond`: one thread for everything that waits, and threads of tokio's for what blocks (the store, files, a shim's binary).
//!
//! It may be killed at any moment. Containers do not notice, and the next one finds them again.

mod accept;
mod containers;
mod images;
mod metrics;
mod options;
mod shims;
mod state;
mod system;
mod volumes;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{Signal, SignalKind, signal};
use ttrpc::r#async::Server;

use crate::container::Supervisor;
use crate::fault::{Fault, Result, Tried as _};
use crate::host::Host;
use crate::protos::{containers_ttrpc, images_ttrpc, system_ttrpc};
use crate::store::Store;
#[cfg(test)]
pub(crate) use options::HELP;
use options::Options;

/// How long it finishes what it is at, when it is told to end. The next daemon waits for longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until it is told to end. `arguments` are those after the program's name.
pub(crate) fn run(arguments: &[std::ffi::OsString]) -> Result<()> {
    let options = match options::parse(arguments)? {
        Some(options) => options,
        None => {
            return io::stdout()
                .write_all(options::HELP.as_bytes())
                .tried(|| "write".into());
        }
    };
    let host = Host::new(
        options.root.clone(),
        options.state.clone(),
        options.address.clone(),
    )?;
    // What containers find, such as /etc/hosts and volumes, is theirs to read, whoever started the daemon.
    umask(Mode::from_bits_truncate(0o022));
    // A connection to each shim, and to each client.
    let (_, most) = host.descriptors;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .tried(|| "raise the limit of descriptors".into())?;
    make_places(&host)?;
    // Nobody is to connect before it is certain that he will be answered.
    let (_state, supervisor) = open(&host)?;
    let passed = accept::passed(&host.socket)?;
    // A file that is not ours to remove stays.
    let made = passed.is_none().then(|| host.socket.clone());
    let listener = match passed {
        Some(listener) => listener,
        None => accept::bind(&host.socket, options.group)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "start".into())?;
    let served = runtime.block_on(async {
        let mut server = serve(&supervisor, listener, &options).await?;
        let mut told = Told::new()?;
        ready();
        told.next().await;
        // Who comes from now on starts the next one, which waits for the store: that is ours until all is over.
        made.map(fs::remove_file);
        options.metrics.iter().for_each(metrics::remove);
        tokio::select! {
            () = finish(&supervisor, &mut server) => {}
            () = tokio::time::sleep(PATIENCE) => {}
            () = told.next() => {}
        }
        Ok(())
    });
    // Threads may be at something that takes long. It can be cut off, as it is when the daemon is killed.
    runtime.shutdown_background();
    served
}

fn make_places(host: &Host) -> Result<()> {
    let sockets = host.sockets();
    let passable = [Some(&*host.root), Some(&*host.state), sockets.parent()];
    for directory in passable.into_iter().flatten() {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory);
        made.tried(|| format!("make {}", directory.display()))?;
    }
    // What is in there may be anybody's secret, or a set-uid program of a container's (CVE-2021-41091).
    for directory in [host.log(""), host.volume("")] {
        let private = fs::Permissions::from_mode(0o700);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::set_permissions(&directory, private))
            .tried(|| format!("make {}", directory.display()))?;
    }
    Ok(())
}

fn open(host: &Host) -> Result<(fs::File, Arc<Supervisor>)> {
    let store =
        Store::open(&host.root).tried(|| format!("open the store in {}", host.root.display()))?;
    let state = state::take(host)?;
    let tried = store.try_overlay();
    tried.map_err(|error| Fault::precondition(format!("{error:#}")))?;
    Ok((state, Supervisor::open(host.clone(), Arc::new(store))?))
}

async fn serve(
    supervisor: &Arc<Supervisor>,
    listener: std::os::unix::net::UnixListener,
    options: &Options,
) -> Result<Server> {
    let accepted = accept::listener(listener, options.group.is_some()).tried(|| "listen".into())?;
    let mut server = Server::new()
        .add_listener(accepted)
        .register_service(containers_ttrpc::create_containers(Arc::new(
            containers::Service(supervisor.clone()),
        )))
        .register_service(images_ttrpc::create_images(Arc::new(images::Service(
            supervisor.clone(),
        ))))
        .register_service(system_ttrpc::create_system(Arc::new(system::Service(
            supervisor.clone(),
        ))))
        .register_service(system_ttrpc::create_volumes(Arc::new(volumes::Service(
            supervisor.clone(),
        ))))
        .register_service(shims::service(supervisor.clone()));
    if let Some(address) = &options.metrics {
        metrics::serve(address, options.group, supervisor.clone()).await?;
    }
    server.start().await?;
    tokio::spawn(supervisor.clone().recover());
    Ok(server)
}

/// Ends what only waits, finishes the rest, and sends the answers.
async fn finish(supervisor: &Supervisor, server: &mut Server) {
    server.stop_listen().await;
    supervisor.ending.shutdown();
    // Those that send more than a request: without their connections they would not get on. It has no limit of time.
    supervisor.ending.wait_all_exit().await.ok();
    server.disconnect().await;
}

/// The signals that say so.
struct Told([Signal; 2]);

impl Told {
    fn new() -> Result<Self> {
        let what = || "wait for signals".to_owned();
        let terminate = signal(SignalKind::terminate()).tried(what)?;
        let interrupt = signal(SignalKind::interrupt()).tried(what)?;
        // That a terminal is closed, files are rotated, or somebody wants another daemon to say how it is, is no reason to end. Unlike what is
        // ignored, what is caught is not inherited.
        for other in [
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ] {
            signal(other).tried(what).map(drop)?;
        }
        Ok(Self([terminate, interrupt]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Tells who started the daemon that it listens: standard output ends, and a service manager gets its notice.
fn ready() {
    // Somebody who started it and has left needs not know.
    io::stdout()
        .write_all(b"ready\n")
        .and_then(|()| io::stdout().flush())
        .ok();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        // Without it, who waits for this waits on.
        nix::unistd::dup2_stdout(&null).ok();
    }
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(path.as_bytes())
    {
        warn(&Fault::unknown(format!(
            "tell the service manager: {error}"
        )));
    }
}

/// To a socket whose name may be abstract (sd_notify(3)).
fn notify(path: &[u8]) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(b"READY=1", &address)
        .map(drop)
}

/// Does it, whatever becomes of the client who asked for it: ttrpc drops what answers a request when its client leaves.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        // Panics abort, and nobody cancels.
        Err(error) => Err(Fault::unknown(error.to_string())),
    }
}

/// What goes wrong while nobody waits for an answer.
pub(crate) fn warn(fault: &Fault) {
    // There is nobody else to tell.
    writeln!(io::stderr(), "caissond: {fault}").ok();
}
