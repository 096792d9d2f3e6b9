//! Where the shims of groups listen: how a socket is named, made, found alive or dead, and removed.
//!
//! Whoever makes or removes one holds the lock of its directory meanwhile, so that of two at once neither removes what the other has made.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::bundle::{self, Config};
use crate::cli::Invocation;

/// Where sockets are if containerd does not say.
const SOCKETS: &str = "/run/containerd/s";

/// Annotations that name the group of a container; the first that is there counts.
const GROUPS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// The socket of the group that the bundle belongs to.
pub(crate) fn of(
    bundle: &Path,
    directory: Option<&Path>,
    invocation: &Invocation,
) -> Result<PathBuf> {
    let config = Config::read(bundle);
    let group = match &config {
        Ok(config) => GROUPS
            .iter()
            .find_map(|name| config.annotations.get(*name))
            .unwrap_or(&invocation.id),
        // Some sandboxes have none.
        Err(error) if error.kind() == ErrorKind::NotFound => &invocation.id,
        Err(error) => bail!("read config.json: {error}"),
    };
    let noted = || bundle::sockets(bundle).unwrap_or_else(|_| SOCKETS.into());
    let directory = directory.map_or_else(noted, Path::to_owned);
    Ok(named(
        &directory,
        &invocation.address,
        &invocation.namespace,
        group,
    ))
}

/// The name that containerd's tests expect: a digest of what the shim is for.
fn named(directory: &Path, address: &str, namespace: &str, group: &str) -> PathBuf {
    let joined = format!("{address}/{namespace}/{group}");
    let parts = joined.split('/').filter(|part| !part.is_empty());
    let rooted = if joined.starts_with('/') { "/" } else { "" };
    let name = format!("{rooted}{}", parts.collect::<Vec<_>>().join("/"));
    let digest: String = Sha256::digest(name.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    directory.join(digest)
}

/// None if somebody answers there: the group has its shim.
pub(crate) fn bind(socket: &Path) -> Result<Option<UnixListener>> {
    if let Some(directory) = socket.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("make {}", directory.display()))?;
    }
    let _lock = lock(socket)?;
    let listener = match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(socket).is_ok() {
                return Ok(None);
            }
            if !fs::symlink_metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket())
            {
                bail!("{} is in the way", socket.display());
            }
            // Of a shim that was killed.
            fs::remove_file(socket).with_context(|| format!("remove {}", socket.display()))?;
            UnixListener::bind(socket)
        }
        other => other,
    };
    let listener = listener.with_context(|| format!("bind {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {}", socket.display()))?;
    Ok(Some(listener))
}

/// Whether a shim listens there.
pub(crate) fn is_alive(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // A shim that has more connections waiting than it takes is alive.
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        ),
    }
}

/// Removes the socket of the caller, who listens there still.
pub(crate) fn remove(socket: &Path) -> Result<()> {
    let _lock = lock(socket)?;
    fs::remove_file(socket).with_context(|| format!("remove {}", socket.display()))
}

/// Removes the socket of a shim that was killed, if there is one.
pub(crate) fn remove_dead(socket: &Path) -> Result<()> {
    if !fs::symlink_metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(());
    }
    let _lock = lock(socket)?;
    match is_alive(socket) {
        true => Ok(()),
        false => fs::remove_file(socket)
            .or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
            .with_context(|| format!("remove {}", socket.display())),
    }
}

fn lock(socket: &Path) -> Result<Flock<File>> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let file = File::open(directory);
    let mut file = file.with_context(|| format!("open {}", directory.display()))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EINTR)) => file = unlocked,
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("lock {}", directory.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_the_name_that_containerd_computes() {
        let socket = named(
            Path::new("/run/containerd/s"),
            "/run/containerd//containerd.sock",
            "default",
            "web",
        );
        // printf %s /run/containerd/containerd.sock/default/web | sha256sum
        assert_eq!(
            socket.to_str().unwrap(),
            "/run/containerd/s/2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883"
        );
    }
}
