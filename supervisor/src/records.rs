//! What is kept of containers, volumes and events, in the store's database: one transaction per operation, with the events that tell of it.
//!
//! Runs in the daemon; the transactions are written on a thread that may block.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::Message;
use redb::{ReadableTable as _, TableDefinition};
use tokio::sync::watch;

use crate::fault::{Fault, Result, Tried as _};
use crate::lock::lock;
use crate::protos::containers::Container;
use crate::protos::system::{Event, Volume};
use crate::store::Store;

const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");
const VOLUMES: TableDefinition<&str, &[u8]> = TableDefinition::new("volumes");
/// Volumes whose directories are still to be removed.
const GONE: TableDefinition<&str, ()> = TableDefinition::new("volumes_gone");
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
/// How often a daemon was started.
const STARTS: &str = "starts";

/// How many events are kept.
const KEPT: u64 = 10_000;

/// What one operation changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) containers_made: Vec<Container>,
    /// As they are when they are written, so that the last one counts, whoever was first. One that has gone meanwhile stays away, and nothing
    /// more is told of it.
    pub(crate) containers: Vec<Arc<Mutex<Container>>>,
    pub(crate) containers_gone: Vec<String>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) volumes_gone: Vec<String>,
    pub(crate) events: Vec<Event>,
}

impl Change {
    #[must_use]
    pub(crate) fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Records {
    store: Arc<Store>,
    /// The last event's cursor.
    latest: Arc<watch::Sender<u64>>,
    starts: u64,
    /// How many events of each type and action there were in this daemon's life.
    told: Arc<Mutex<Told>>,
}

/// Type and action → number.
pub(crate) type Told = BTreeMap<(String, String), u64>;

impl Records {
    /// Blocks.
    pub(crate) fn open(store: Arc<Store>) -> Result<Self> {
        let open = || -> anyhow::Result<(u64, u64)> {
            let transaction = store.database().begin_write()?;
            transaction.open_table(CONTAINERS)?;
            transaction.open_table(VOLUMES)?;
            transaction.open_table(GONE)?;
            let events = transaction.open_table(EVENTS)?;
            let last = events.last()?.map_or(0, |(cursor, _)| cursor.value());
            drop(events);
            let mut counters = transaction.open_table(COUNTERS)?;
            let starts = counters.get(STARTS)?.map_or(0, |count| count.value()) + 1;
            counters.insert(STARTS, starts)?;
            drop(counters);
            transaction.commit()?;
            Ok((last, starts))
        };
        // Also on a full disk, from which nothing can be removed without a daemon.
        let opened = store.database().freeing(open);
        let (last, starts) = opened.tried(|| "open the records".into())?;
        Ok(Self {
            store,
            latest: Arc::new(watch::Sender::new(last)),
            starts,
            told: Arc::default(),
        })
    }

    /// How often a daemon was started with this store, this one included.
    pub(crate) fn starts(&self) -> u64 {
        self.starts
    }

    pub(crate) fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// What it says is on disk when this comes back.
    pub(crate) async fn apply(&self, change: Change) -> Result<()> {
        let store = self.store.clone();
        let written = tokio::task::spawn_blocking(move || {
            let frees = !change.containers_gone.is_empty() || !change.volumes_gone.is_empty();
            match frees {
                true => store.database().freeing(|| write(&store, change.clone())),
                false => write(&store, change),
            }
        })
        .await;
        let told = written
            .map_err(|error| Fault::unknown(error.to_string()))?
            .tried(|| "write the records".into())?;
        if let Some(last) = told.last() {
            self.latest
                .send_modify(|latest| *latest = last.cursor.max(*latest));
        }
        for event in told {
            let kind = (event.kind, event.action);
            *lock(&self.told).entry(kind).or_default() += 1;
        }
        Ok(())
    }

    pub(crate) fn containers(&self) -> Result<Vec<Container>> {
        self.all(CONTAINERS)
    }

    pub(crate) fn volumes(&self) -> Result<Vec<Volume>> {
        self.all(VOLUMES)
    }

    /// Those whose records have gone, and whose directories may not have.
    pub(crate) fn volumes_gone(&self) -> Result<Vec<String>> {
        self.rows(GONE, |name, ()| name.to_owned())
    }

    /// Their directories are gone too, for good. Nobody waits for the disk: what is looked for in vain does no harm. Blocks.
    pub(crate) fn volumes_cleared(&self, names: &[String]) -> Result<()> {
        let write = || -> anyhow::Result<()> {
            let mut transaction = self.store.database().begin_write()?;
            transaction.set_durability(redb::Durability::None)?;
            let mut table = transaction.open_table(GONE)?;
            for name in names {
                table.remove(&**name)?;
            }
            drop(table);
            transaction.commit()
        };
        write().tried(|| "write the records".into())
    }

    fn all<M: Message>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<M>> {
        let rows = self.rows(table, |_, value| M::parse_from_bytes(value))?;
        rows.into_iter()
            .map(|row| row.tried(|| "decode a record".into()))
            .collect()
    }

    /// What there is in a table whose keys are names, by what is made of each row.
    fn rows<V: redb::Value + 'static, T>(
        &self,
        table: TableDefinition<&str, V>,
        make: impl Fn(&str, V::SelfType<'_>) -> T,
    ) -> Result<Vec<T>> {
        let read = self.store.database().read(|transaction| {
            let table = transaction.open_table(table)?;
            let rows = table.iter()?;
            rows.map(|row| {
                row.map(|(name, value)| make(name.value(), value.value()))
                    .map_err(Into::into)
            })
            .collect()
        });
        read.tried(|| "read the records".into())
    }

    /// At most a hundred events after that one, in their order.
    pub(crate) fn events(&self, after: u64) -> Result<Vec<Event>> {
        let read = self.store.database().read(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            let rows = table.range(after.saturating_add(1)..)?;
            rows.take(100)
                .map(|row| {
                    row.map(|(_, value)| value.value().to_vec())
                        .map_err(Into::into)
                })
                .collect::<anyhow::Result<Vec<_>>>()
        });
        let rows = read.tried(|| "read the events".into())?;
        rows.iter()
            .map(|row| Event::parse_from_bytes(row).tried(|| "decode an event".into()))
            .collect()
    }

    /// The last event's cursor, and notice of later ones.
    pub(crate) fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

/// The new events, in their order.
fn write(store: &Store, mut change: Change) -> anyhow::Result<Vec<Event>> {
    let transaction = store.database().begin_write()?;
    {
        let mut table = transaction.open_table(CONTAINERS)?;
        for container in change.containers_made {
            table.insert(&*container.id, &*container.write_to_bytes()?)?;
        }
        for container in change.containers {
            let container = lock(&container).clone();
            if table.get(&*container.id)?.is_none() {
                change.events.retain(|event| event.id != container.id);
                continue;
            }
            table.insert(&*container.id, &*container.write_to_bytes()?)?;
        }
        for id in &change.containers_gone {
            table.remove(&**id)?;
        }
    }
    if !change.volumes.is_empty() || !change.volumes_gone.is_empty() {
        let mut table = transaction.open_table(VOLUMES)?;
        let mut gone = transaction.open_table(GONE)?;
        for volume in &change.volumes {
            let bytes = volume.write_to_bytes()?;
            table.insert(&*volume.name, &*bytes)?;
            gone.remove(&*volume.name)?;
        }
        for name in &change.volumes_gone {
            table.remove(&**name)?;
            gone.insert(&**name, ())?;
        }
    }
    let mut told = vec![];
    if !change.events.is_empty() {
        let mut table = transaction.open_table(EVENTS)?;
        let mut cursor = table.last()?.map_or(0, |(cursor, _)| cursor.value());
        for mut event in change.events {
            cursor += 1;
            event.cursor = cursor;
            table.insert(cursor, &*event.write_to_bytes()?)?;
            table.remove(cursor.saturating_sub(KEPT))?;
            told.push(event);
        }
    }
    transaction.commit()?;
    Ok(told)
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// An event that happens now.
pub(crate) fn event(kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Event {
        time: now(),
        kind: kind.into(),
        action: action.into(),
        id: id.into(),
        attributes: attributes.iter().map(owned).collect(),
        ..Event::default()
    }
}
