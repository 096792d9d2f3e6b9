//! `delete`: cleans up after a shim that has died, and says how the container ended as well as can be known.
//!
//! containerd may not be up yet when it runs this, and takes standard output as the answer. If the shim served a pod, containerd asks only
//! for the sandbox: containers of the pod whose shim was the same one are cleaned up with it, or their processes would be nobody's.
//!
//! The shim may live: one that containerd could not talk to in time, or that was started in vain. It is told, so that it does not stay.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use protobuf::{Message, MessageField};
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::with_duration;

use crate::aside::{self, aside};
use crate::bundle::{self, ExitRecord};
use crate::cli::Invocation;
use crate::mounts;
use crate::pod;
use crate::protos::sandbox::ShutdownSandboxRequest;
use crate::protos::sandbox_ttrpc::SandboxClient;
use crate::protos::task::{DeleteRequest, DeleteResponse, ShutdownRequest};
use crate::protos::task_ttrpc::TaskClient;
use crate::reaper::{Exit, KILLED, Reaper};
use crate::runtime::Runtime;
use crate::socket;

/// How long a shim that lives may take for its answers; containerd waits 5 s for us.
const LIVE: Duration = Duration::from_millis(1500);

/// How long it is told something when it has taken all of that: enough to say it. One that was stopped finds it when it goes on.
const SAID: Duration = Duration::from_millis(100);

/// How long, of these, the other containers of a pod may take: the sandbox' own answer must not be lost over one that hangs.
const OTHERS: Duration = Duration::from_secs(4);

pub(crate) fn run(invocation: &Invocation) -> Result<()> {
    let here = if invocation.bundle.is_empty() {
        env::current_dir().context("find the bundle")?
    } else {
        PathBuf::from(&invocation.bundle)
    };
    // It may run in the bundle of another.
    let bundle = here.with_file_name(&invocation.id);
    let runtime = aside::runtime()?;
    let socket = match address(&bundle) {
        Some(address) => address,
        None => socket::of(&bundle, None, invocation)?,
    };
    let response = runtime.block_on(async {
        let reaper = Reaper::new()?;
        if socket::is_alive(&socket) {
            let reaper = reaper.clone();
            let cleaned = clean(&invocation.namespace, &invocation.id, &bundle, reaper).await?;
            // It knows better how the container ended.
            if let Some(told) = told(&socket, &invocation.id).await {
                return Ok(told);
            }
            if socket::is_alive(&socket) {
                return Ok(cleaned);
            }
            // It has died, now or before: what it was about to start has a copy of its socket until it executes its program.
        }
        let cleaned = clean_all(invocation, &bundle, siblings(&bundle, &socket), reaper).await;
        socket::remove_dead(&socket)?;
        cleaned
    });
    runtime.shutdown_background();
    let response = response?;
    io::stdout()
        .write_all(&response.write_to_bytes()?)
        .context("write the answer")
}

/// Cleans up all of a pod at once, the container that is asked for first: its end is the answer, whatever becomes of the others.
async fn clean_all(
    invocation: &Invocation,
    bundle: &Path,
    siblings: Vec<PathBuf>,
    reaper: Reaper,
) -> Result<DeleteResponse> {
    let until = Instant::now() + OTHERS;
    let mut others = JoinSet::new();
    for sibling in siblings {
        let (namespace, reaper) = (invocation.namespace.clone(), reaper.clone());
        others.spawn(async move {
            let id = sibling.file_name().unwrap_or_default().to_string_lossy();
            let cleaned = timeout_at(until, clean(&namespace, &id, &sibling, reaper)).await;
            let failed = match cleaned {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "it takes too long".to_owned(),
            };
            // containerd logs it; that nobody listens nobody can be told.
            writeln!(io::stderr(), "clean up {id}: {failed}, ignoring").ok();
        });
    }
    // The others' tasks run from when this waits for the first time.
    let cleaned = clean(&invocation.namespace, &invocation.id, bundle, reaper).await;
    others.join_all().await;
    cleaned
}

/// Ends the container and undoes its mounts; what is not there needs nothing.
async fn clean(namespace: &str, id: &str, bundle: &Path, reaper: Reaper) -> Result<DeleteResponse> {
    let options =
        bundle::read_options(bundle).with_context(|| format!("read options.json of {id}"))?;
    let deleted = match options {
        Some(options) => {
            let runtime = Runtime::new(options, namespace, reaper);
            runtime.delete(id, true).await
        }
        None => Ok(()),
    };
    let mounted = bundle.to_owned();
    aside(move || {
        mounts::detach(&mounted.join("rootfs"))?;
        pod::detach(&mounted)
    })
    .await?;
    // The mounts go in any case; a container that cannot be ended is still worth an error.
    deleted?;
    let pid = bundle::read_pid(&bundle::pid_file(bundle, "")).unwrap_or_default();
    let killed = Exit::now(KILLED);
    let exit = ExitRecord::read(bundle).map_or(killed, |record| record.exit());
    Ok(DeleteResponse {
        pid: pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: MessageField::some(exit.at.into()),
        ..Default::default()
    })
}

/// What containerd notes in a bundle about its shim.
#[derive(Deserialize)]
struct Bootstrap {
    address: String,
}

/// Has a shim that lives forget the container, and end if it was the last; or end with all of its pod.
async fn told(socket: &Path, id: &str) -> Option<DeleteResponse> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let connection = Client::new(Socket::new(stream));
    let pods = SandboxClient::new(connection.clone());
    let client = TaskClient::new(connection);
    let delete = DeleteRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    let pod = ShutdownSandboxRequest {
        sandbox_id: id.to_owned(),
        ..Default::default()
    };
    let shutdown = ShutdownRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    let until = Instant::now() + LIVE;
    let left = || with_duration((until - Instant::now()).max(SAID));
    let deleted = client.delete(left(), &delete).await;
    // Not found, mostly.
    pods.shutdown_sandbox(left(), &pod).await.ok();
    // It may be gone before it has answered.
    client.shutdown(left(), &shutdown).await.ok();
    deleted.ok()
}

/// Other bundles whose shim listened there.
fn siblings(bundle: &Path, shared: &Path) -> Vec<PathBuf> {
    let Some(Ok(entries)) = bundle.parent().map(fs::read_dir) else {
        return Vec::new();
    };
    let bundles = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path != bundle);
    // containerd renames a bundle that it removes, to a name with a dot.
    let bundles = bundles.filter(|path| {
        !path
            .file_name()
            .unwrap_or_default()
            .as_encoded_bytes()
            .starts_with(b".")
    });
    bundles
        .filter(|path| address(path).is_some_and(|other| other == shared))
        .collect()
}

fn address(bundle: &Path) -> Option<PathBuf> {
    let address = match fs::read(bundle.join("bootstrap.json")) {
        Ok(text) => serde_json::from_slice::<Bootstrap>(&text).ok()?.address,
        // containerd 1.7 has the address alone.
        Err(_) => fs::read_to_string(bundle.join("address")).ok()?,
    };
    Some(address.strip_prefix("unix://").unwrap_or(&address).into())
}
