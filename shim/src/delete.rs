//! `delete`: cleans up after a shim that has died, and says how the container ended as well as can be known.
//!
//! containerd may not be up yet when it runs this, and takes standard output as the answer. If the shim served a pod, containerd asks only
//! for the sandbox: containers of the pod whose shim was the same one are cleaned up with it, or their processes would be nobody's.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protobuf::{Message, MessageField};
use serde::Deserialize;

use crate::bundle::{self, ExitRecord};
use crate::cli::Invocation;
use crate::mounts;
use crate::protos::task::DeleteResponse;
use crate::reaper::{Exit, Reaper};
use crate::runtime::Runtime;

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
    let response = runtime.block_on(async {
        let reaper = Reaper::new()?;
        for sibling in siblings(&bundle) {
            let id = sibling
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            clean(&invocation.namespace, &id, &sibling, reaper.clone()).await?;
        }
        clean(&invocation.namespace, &invocation.id, &bundle, reaper).await
    })?;
    io::stdout()
        .write_all(&response.write_to_bytes()?)
        .context("write the answer")
}

/// Ends the container and undoes its mounts; what is not there needs nothing.
async fn clean(namespace: &str, id: &str, bundle: &Path, reaper: Reaper) -> Result<DeleteResponse> {
    let options =
        bundle::read_options(bundle).with_context(|| format!("read options.json of {id}"))?;
    let runtime = Runtime::new(options, namespace, reaper);
    let deleted = runtime.delete(id, true).await;
    mounts::detach(&bundle.join("rootfs"))?;
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

/// Other bundles whose shim was the one of this bundle, if it is dead.
fn siblings(bundle: &Path) -> Vec<PathBuf> {
    let Some((shared, directory)) = address(bundle).zip(bundle.parent()) else {
        return Vec::new();
    };
    if is_alive(&shared) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(directory) else {
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

fn address(bundle: &Path) -> Option<String> {
    if let Ok(text) = fs::read(bundle.join("bootstrap.json")) {
        return serde_json::from_slice::<Bootstrap>(&text)
            .ok()
            .map(|bootstrap| bootstrap.address);
    }
    // containerd 1.7 has the address alone.
    fs::read_to_string(bundle.join("address")).ok()
}

fn is_alive(address: &str) -> bool {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    match UnixStream::connect(path) {
        Ok(_) => true,
        // A shim that has more connections waiting than it takes is alive.
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        ),
    }
}
