//! The tables of the store and their rows, and all of them at once as a graph.
//!
//! Rows are JSON: what a later version adds, an earlier one passes over.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Of the tables below; others have their own.
const SCHEMA: u64 = 1;

pub(super) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const STORE: TableDefinition<'static, &'static str, u64> = TableDefinition::new("store");
/// Digest → [`BlobRow`].
pub(super) const BLOBS: Table = Table::new("blobs");
/// Digest of the manifest → [`ImageRow`].
pub(super) const IMAGES: Table = Table::new("images");
/// Complete reference → digest of a manifest.
pub(super) const NAMES: Table = Table::new("names");
/// Digest of the uncompressed layer → [`LayerRow`].
pub(super) const LAYERS: Table = Table::new("layers");
/// Container → [`SnapshotRow`].
pub(super) const SNAPSHOTS: Table = Table::new("snapshots");
/// Number → [`LeaseRow`].
pub(super) const LEASES: Table = Table::new("leases");

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    pub(crate) size: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    pub(crate) config: Digest,
    /// Bottom first.
    pub(crate) layers: Vec<LayerLink>,
    /// Seconds since the epoch.
    pub(crate) added: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LayerLink {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRow {
    /// Its number below `layers`.
    pub(crate) directory: u64,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) opaque: bool,
    /// Directories that it uses and says nothing about. What they are like here means nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) implied: Vec<Vec<u8>>,
    /// What it was unpacked of first; not known of one that an earlier daemon unpacked.
    #[serde(default)]
    pub(crate) blob: Option<Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    /// Its number below `snapshots`.
    pub(crate) directory: u64,
    /// The manifest.
    pub(crate) image: Digest,
    /// Bottom first.
    pub(crate) layers: Vec<Digest>,
    /// Numbers of the directories that were mounted last, top first.
    pub(crate) lower: Vec<u64>,
    /// The number of the one above all layers, if there is any: what they only imply.
    #[serde(default)]
    pub(crate) implied: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LeaseRow {
    pub(crate) what: String,
    /// Seconds since the epoch.
    pub(crate) began: u64,
    pub(crate) blobs: Vec<Digest>,
    pub(crate) layers: Vec<Digest>,
}

/// Everything that the tables say.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) blobs: BTreeMap<String, BlobRow>,
    pub(crate) images: BTreeMap<String, ImageRow>,
    pub(crate) names: BTreeMap<String, Digest>,
    pub(crate) layers: BTreeMap<String, LayerRow>,
    pub(crate) snapshots: BTreeMap<String, SnapshotRow>,
    pub(crate) leases: BTreeMap<String, LeaseRow>,
}

/// A transaction of either kind.
pub(super) trait Tables {
    fn rows<T: DeserializeOwned>(&self, table: Table) -> Result<BTreeMap<String, T>>;

    fn graph(&self) -> Result<Graph> {
        Ok(Graph {
            blobs: self.rows(BLOBS)?,
            images: self.rows(IMAGES)?,
            names: self.rows(NAMES)?,
            layers: self.rows(LAYERS)?,
            snapshots: self.rows(SNAPSHOTS)?,
            leases: self.rows(LEASES)?,
        })
    }
}

impl Tables for ReadTransaction {
    fn rows<T: DeserializeOwned>(&self, table: Table) -> Result<BTreeMap<String, T>> {
        all(&self.open_table(table)?)
    }
}

impl Tables for WriteTransaction {
    fn rows<T: DeserializeOwned>(&self, table: Table) -> Result<BTreeMap<String, T>> {
        all(&self.open_table(table)?)
    }
}

fn all<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<BTreeMap<String, T>> {
    let mut rows = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.insert(key.value().to_owned(), parse(key.value(), value.value())?);
    }
    Ok(rows)
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).with_context(|| format!("the row '{key}' of the database"))
}

pub(super) fn get<T: DeserializeOwned>(
    transaction: &WriteTransaction,
    table: Table,
    key: &str,
) -> Result<Option<T>> {
    let table = transaction.open_table(table)?;
    let row = table.get(key)?;
    row.map(|value| parse(key, value.value())).transpose()
}

pub(super) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    table: Table,
    key: &str,
    row: &T,
) -> Result<()> {
    let bytes = serde_json::to_vec(row)?;
    transaction
        .open_table(table)?
        .insert(key, bytes.as_slice())?;
    Ok(())
}

pub(super) fn delete(transaction: &WriteTransaction, table: Table, key: &str) -> Result<()> {
    transaction.open_table(table)?.remove(key)?;
    Ok(())
}

/// Makes the tables that there are not, and refuses those of a later version. Whether there were none.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<bool> {
    let mut store = transaction.open_table(STORE)?;
    let schema = store.get("schema")?.map(|value| value.value());
    ensure!(
        schema.is_none_or(|schema| schema <= SCHEMA),
        "the database has schema {}, and this version knows {SCHEMA}",
        schema.unwrap_or_default()
    );
    if schema != Some(SCHEMA) {
        store.insert("schema", SCHEMA)?;
    }
    for table in [BLOBS, IMAGES, NAMES, LAYERS, SNAPSHOTS, LEASES] {
        transaction.open_table(table)?;
    }
    Ok(schema.is_none())
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
