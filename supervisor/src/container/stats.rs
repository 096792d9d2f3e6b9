//! What a container uses, has running, and has changed.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create::{blocking, of_image};
use super::layers::Layers;
use super::look_up::snapshot;
use super::{Container, Supervisor};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{Container as Record, ContainerSize, StatsResponse, diff_response};
use crate::records::now;

/// Where every container has something mounted.
pub(super) const PLACES: [&str; 7] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/sbin/caisson-init",
];

impl Supervisor {
    pub(crate) async fn stats(&self, container: &Arc<Container>) -> Result<StatsResponse> {
        let shim = container.shim()?;
        let metrics = shim.stats().await?;
        let record = container.record();
        let (rx_bytes, tx_bytes) = network(record.state.pid, &record.config.network);
        let io = &metrics.io.usage;
        let memory = metrics.memory.get_or_default();
        Ok(StatsResponse {
            id: record.id.clone(),
            name: record.name.clone(),
            time: now(),
            cpu_usec: metrics.cpu.usage_usec,
            memory: memory.usage,
            memory_limit: memory.usage_limit,
            memory_inactive_file: memory.inactive_file,
            pids: metrics.pids.current,
            pids_limit: metrics.pids.limit,
            read_bytes: io.iter().map(|device| device.rbytes).sum(),
            write_bytes: io.iter().map(|device| device.wbytes).sum(),
            rx_bytes,
            tx_bytes,
            oom_kills: metrics.memory_events.oom_kill,
            ..StatsResponse::default()
        })
    }

    /// On the disk, as far as it can be read: it changes meanwhile. Blocks.
    pub(crate) fn size(&self, record: &Record) -> Result<ContainerSize> {
        let image = self.store.image(&record.image_id);
        let image = image.map_err(|error| of_image(&error))?;
        let written = crate::store::taken(Path::new(&record.upper))
            .tried(|| format!("count what container {} has written", record.name))?;
        Ok(ContainerSize {
            written,
            image: image.size,
            ..ContainerSize::default()
        })
    }

    pub(crate) async fn diff(
        &self,
        container: &Arc<Container>,
    ) -> Result<Vec<diff_response::Change>> {
        let (store, record) = (self.store.clone(), container.record());
        blocking(move || {
            let snapshot = snapshot(&store, &record)?;
            let lower = Layers::open(&snapshot.lower);
            let mut changes = vec![];
            changed(&snapshot.upper, Path::new(""), &lower, &mut changes)?;
            // Places that only came to be because something is mounted there.
            let config = record.config.get_or_default();
            let targets = config
                .mounts
                .iter()
                .map(|mount| mount.target.trim_end_matches('/'));
            let targets: Vec<&str> = targets.chain(PLACES).collect();
            changes.retain(|change| {
                change.kind != diff_response::change::Kind::ADDED.into()
                    || !targets.contains(&&*change.path)
            });
            changes.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(changes)
        })
        .await
    }
}

/// What the directory of changes has, against the layers below.
fn changed(
    upper: &Path,
    path: &Path,
    lower: &Layers,
    changes: &mut Vec<diff_response::Change>,
) -> Result<()> {
    let directory = upper.join(path);
    for entry in fs::read_dir(&directory).tried(|| format!("read {}", directory.display()))? {
        let entry = entry.tried(|| format!("read {}", directory.display()))?;
        let inner: PathBuf = path.join(entry.file_name());
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Fault::unknown(format!("{}: {error}", inner.display()))),
        };
        let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
        let kind = if whiteout {
            diff_response::change::Kind::DELETED
        } else if lower.has(&inner) {
            diff_response::change::Kind::MODIFIED
        } else {
            diff_response::change::Kind::ADDED
        };
        changes.push(diff_response::Change {
            kind: kind.into(),
            path: format!("/{}", inner.display()),
            ..Default::default()
        });
        if metadata.is_dir() {
            changed(upper, &inner, lower, changes)?;
        }
    }
    Ok(())
}

/// Bytes in and out of all interfaces but the loopback's, of a network namespace that is its own.
fn network(pid: u32, mode: &str) -> (u64, u64) {
    if mode == "host" {
        return (0, 0);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut sums = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        sums.0 += numbers.first().copied().unwrap_or_default();
        sums.1 += numbers.get(8).copied().unwrap_or_default();
    }
    sums
}
