//! What a container uses, has running, and has changed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::create::{blocking, of_image};
use super::ids::on_disk;
use super::layers::Layers;
use super::look_up::snapshot;
use super::{Container, Supervisor, mtab};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{Container as Record, ContainerSize, StatsResponse, diff_response};
use crate::records::now;
use crate::walk::walk;

/// Where every container has something mounted.
const PLACES: [&str; 7] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/sbin/caisson-init",
];

/// Directories of the root's that hold some of them: one in which there is nothing else is no change either.
const HOLDERS: [&str; 2] = ["etc", "sbin"];

/// Places in a container that are no change of its own, if its image does not have them: where something is mounted, and what was made for it.
pub(super) fn given(record: &Record, upper: &Path) -> Vec<String> {
    let config = record.config.get_or_default();
    let targets = config.mounts.iter().map(|mount| mount.target.as_str());
    let mtab = mtab::is_ours(upper).then_some(mtab::PATH);
    let all = targets.chain(PLACES).chain(mtab);
    all.map(|path| path.trim_end_matches('/').to_owned())
        .collect()
}

impl Supervisor {
    pub(crate) async fn stats(&self, container: &Arc<Container>) -> Result<StatsResponse> {
        let shim = container.shim()?;
        let metrics = match shim.stats().await {
            Err(_) if shim.has_ended().await => return Err(container.not_running()),
            metrics => metrics?,
        };
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
            let mut changes = changed(&snapshot.upper, &lower)?;
            let given = given(&record, &snapshot.upper);
            changes.retain(|change| {
                change.kind != diff_response::change::Kind::ADDED.into()
                    || !given.contains(&change.path)
            });
            for name in HOLDERS {
                let path = format!("/{name}");
                let within = format!("{path}/");
                let has_more = changes.iter().any(|it| it.path.starts_with(&within));
                if !has_more && is_alike(name, &record, &snapshot.upper, &lower) {
                    changes.retain(|change| change.path != path);
                }
            }
            changes.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(changes)
        })
        .await
    }
}

/// Whether such a directory has the owner and the mode that it has in the image, if it has it.
fn is_alike(name: &str, record: &Record, upper: &Path, lower: &Layers) -> bool {
    let of = |layers: &Layers| rustix::fs::fstat(layers.directory(name)?).ok();
    let Some(own) = of(&Layers::open(&[upper.to_owned()])) else {
        return false;
    };
    let Some(image) = of(lower) else {
        return !lower.has(Path::new(name));
    };
    let ids = record.ids.clone().unwrap_or_default();
    (own.st_uid, own.st_gid) == on_disk(&image, &ids) && own.st_mode == image.st_mode
}

/// What the directory of changes has, against the layers below.
fn changed(upper: &Path, lower: &Layers) -> Result<Vec<diff_response::Change>> {
    let mut changes = vec![];
    let mut add = |path: &Path, stat: &Stat| {
        let whiteout =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
        let kind = if whiteout {
            diff_response::change::Kind::DELETED
        } else if lower.has(path) {
            diff_response::change::Kind::MODIFIED
        } else {
            diff_response::change::Kind::ADDED
        };
        changes.push(diff_response::Change {
            kind: kind.into(),
            path: format!("/{}", path.display()),
            ..Default::default()
        });
    };
    let whole = walk(upper, &mut add).tried(|| format!("read {}", upper.display()))?;
    if !whole {
        return Err(Fault::precondition(format!(
            "{} has directories in each other that are too many to be looked through",
            upper.display()
        )));
    }
    Ok(changes)
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
