//! What a container's class of service has, and what is monitored of it: the part of `events` that is about Intel RDT, in runc's form.
//!
//! Runs in the parent, of `events` only. Reads files, each of which is there if the machine has what it is about; what is not
//! there is left out.

use super::Group;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// runc's names and order.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<Cache>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mbm_stats: Vec<Transferred>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmt_stats: Vec<Occupied>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cache {
    #[serde(skip_serializing_if = "Option::is_none")]
    cbm_mask: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_cbm_bits: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_closids: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Bandwidth {
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_gran: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_linear: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_closids: Option<u64>,
}

/// Of one memory node.
#[derive(Debug, PartialEq, Serialize)]
struct Transferred {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

/// Of one cache.
#[derive(Debug, PartialEq, Serialize)]
struct Occupied {
    llc_occupancy: u64,
}

impl Group {
    /// What there is to be said now. The root of the file system is where the class is.
    pub(crate) fn stats(&self) -> Stats {
        let Some(root) = self.root() else {
            return Stats::default();
        };
        let (cache, bandwidth) = (root.join("info/L3"), root.join("info/MB"));
        let mut stats = Stats {
            l3_cache_info: cache.is_dir().then(|| Cache {
                cbm_mask: text(&cache, "cbm_mask"),
                min_cbm_bits: number(&cache, "min_cbm_bits"),
                num_closids: number(&cache, "num_closids"),
            }),
            l3_cache_schema_root: schema(root, "L3"),
            l3_cache_schema: schema(&self.class, "L3"),
            mem_bw_info: bandwidth.is_dir().then(|| Bandwidth {
                bandwidth_gran: number(&bandwidth, "bandwidth_gran"),
                delay_linear: number(&bandwidth, "delay_linear"),
                min_bandwidth: number(&bandwidth, "min_bandwidth"),
                num_closids: number(&bandwidth, "num_closids"),
            }),
            mem_bw_schema_root: schema(root, "MB"),
            mem_bw_schema: schema(&self.class, "MB"),
            ..Stats::default()
        };
        let monitored = self.monitor.as_ref().unwrap_or(&self.class);
        for domain in domains(monitored) {
            let total = number(&domain, "mbm_total_bytes");
            let local = number(&domain, "mbm_local_bytes");
            stats
                .mbm_stats
                .extend(total.zip(local).map(|both| Transferred {
                    mbm_total_bytes: both.0,
                    mbm_local_bytes: both.1,
                }));
            let occupied = number(&domain, "llc_occupancy");
            let occupied = occupied.map(|llc_occupancy| Occupied { llc_occupancy });
            stats.cmt_stats.extend(occupied);
        }
        stats
    }
}

/// The line of a group's schemata for one resource, `L3CODE` being the cache too.
fn schema(group: &Path, resource: &str) -> Option<String> {
    let text = text(group, "schemata")?;
    let mut lines = text.lines().map(str::trim);
    lines
        .find(|line| line.starts_with(resource))
        .map(str::to_owned)
}

/// The directories with counters, in the order of their names.
fn domains(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group.join("mon_data")).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("mon_L3_"))
    });
    paths.sort_unstable();
    paths
}

fn text(directory: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn number(directory: &Path, name: &str) -> Option<u64> {
    text(directory, name)?.parse().ok()
}
