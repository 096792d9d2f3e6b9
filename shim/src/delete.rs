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
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::with_duration;

use crate::bundle::{self, ExitRecord};
use crate::cli::Invocation;
use crate::mounts;
use crate::pod;
use crate::protos::sandbox::ShutdownSandboxRequest;
use crate::protos::sandbox_ttrpc::SandboxClient;
use crate::protos::task::{DeleteRequest, DeleteResponse, ShutdownRequest};
use crate::protos::task_ttrpc::TaskClient;
use crate::reaper::{Exit, Reaper};
use crate::runtime::Runtime;
use crate::socket;

/// How long a shim that lives may take for each of three answers; containerd waits 5 s for us.
const LIVE: Duration = Duration::from_millis(1500);

pub(crate) fn run(invocation: &Invocation) -> Result<()> {
    let here = if invocation.bundle.is_empty() {
        env::current_dir().context("find the bundle")?
    } else {
        PathBuf::from(&invocation.bundle)
    };
    // It may run in the bundle of another.
    let bundle = here.with_file_name(&invocation.id);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let socket = match address(&bundle) {
        Some(address) => address,
        None => socket::of(&bundle, None, invocation)?,
    };
    let response = runtime.block_on(async {
        let reaper = Reaper::new()?;
        if socket::is_alive(&socket) {
            let cleaned = clean(&invocation.namespace, &invocation.id, &bundle, reaper).await?;
            // It knows better how the container ended.
            return Ok(told(&socket, &invocation.id).await.unwrap_or(cleaned));
        }
        for sibling in siblings(&bundle, &socket) {
            let id = sibling
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            clean(&invocation.namespace, &id, &sibling, reaper.clone()).await?;
        }
        let cleaned = clean(&invocation.namespace, &invocation.id, &bundle, reaper).await?;
        socket::remove_dead(&socket)?;
        anyhow::Ok(cleaned)
    })?;
    io::stdout()
        .write_all(&response.write_to_bytes()?)
        .context("write the answer")
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
    mounts::detach(&bundle.join("rootfs"))?;
    pod::detach(bundle)?;
    // The mounts go in any case; a container that cannot be ended is still worth an error.
    deleted?;
    let pid = bundle::read_pid(&bundle::pid_file(bundle, "")).unwrap_or_default();
    let killed = Exit::now(128 + libc::SIGKILL.cast_unsigned());
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
    let deleted = client.delete(with_duration(LIVE), &delete).await.ok();
    let shutdown = ShutdownSandboxRequest {
        sandbox_id: id.to_owned(),
        ..Default::default()
    };
    // Not found, mostly.
    let pod = pods.shutdown_sandbox(with_duration(LIVE), &shutdown);
    pod.await.ok();
    let shutdown = ShutdownRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    // It may be gone before it has answered.
    client.shutdown(with_duration(LIVE), &shutdown).await.ok();
    deleted
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
