//! The page: what is counted, under which names, and the text format. Names and units are as Prometheus wants them.
//!
//! What a cgroup has not (memory without that controller) is left out, as is the limit of what has none.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::shim::protos::cgroup_metrics::Metrics;
use nix::sys::statvfs::statvfs;
use tokio::time::timeout;

use super::super::images;
use crate::container::{Container, Supervisor, blocking};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::state::Status;

/// How long a shim may take to say what its container uses.
const ANSWER: Duration = Duration::from_secs(3);

const STATES: [(&str, &[Status]); 5] = [
    ("created", &[Status::CREATED]),
    ("running", &[Status::RUNNING]),
    ("paused", &[Status::PAUSED]),
    ("restarting", &[Status::RESTARTING, Status::STARTING]),
    ("exited", &[Status::EXITED, Status::REMOVING]),
];

/// A number of each container that runs.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Metrics) -> Option<f64>,
}

const OF_CONTAINERS: [Family; 11] = [
    Family {
        name: "cpu_seconds_total",
        kind: "counter",
        help: "Processor time used.",
        value: |used| Some(seconds(used.cpu.usage_usec)),
    },
    Family {
        name: "cpu_throttled_seconds_total",
        kind: "counter",
        help: "Time for which a quota held it back.",
        value: |used| (used.cpu.nr_periods > 0).then(|| seconds(used.cpu.throttled_usec)),
    },
    Family {
        name: "memory_bytes",
        kind: "gauge",
        help: "Memory in use, with its files' cache.",
        value: |used| some(used.memory.usage),
    },
    Family {
        name: "memory_limit_bytes",
        kind: "gauge",
        help: "Limit of its memory.",
        value: |used| limit(used.memory.usage_limit),
    },
    Family {
        name: "memory_inactive_file_bytes",
        kind: "gauge",
        help: "Of the memory, cache that can go at once.",
        value: |used| some(used.memory.usage).map(|_| number(used.memory.inactive_file)),
    },
    Family {
        name: "memory_swap_bytes",
        kind: "gauge",
        help: "Swap in use.",
        value: |used| some(used.memory.usage).map(|_| number(used.memory.swap_usage)),
    },
    Family {
        name: "oom_kills_total",
        kind: "counter",
        help: "Processes killed for want of memory.",
        value: |used| some(used.memory.usage).map(|_| number(used.memory_events.oom_kill)),
    },
    Family {
        name: "processes",
        kind: "gauge",
        help: "Processes and threads.",
        value: |used| some(used.pids.current),
    },
    Family {
        name: "processes_limit",
        kind: "gauge",
        help: "Limit of its processes and threads.",
        value: |used| limit(used.pids.limit),
    },
    Family {
        name: "io_read_bytes_total",
        kind: "counter",
        help: "Read from block devices.",
        value: |used| io(used, |device| device.rbytes),
    },
    Family {
        name: "io_written_bytes_total",
        kind: "counter",
        help: "Written to block devices.",
        value: |used| io(used, |device| device.wbytes),
    },
];

pub(super) async fn page(supervisor: &Arc<Supervisor>, since: SystemTime) -> Result<String> {
    let mut page = Page::default();
    of_the_daemon(&mut page, supervisor, since);
    of_the_store(&mut page, supervisor).await?;
    let containers = supervisor.list();
    page.family("caisson_containers", "gauge", "Containers, by state.");
    for (state, statuses) in STATES {
        let these = containers.iter();
        let these = these.filter(|container| statuses.contains(&container.status()));
        page.sample("caisson_containers", &[("state", state)], these.count());
    }
    of_containers(&mut page, containers).await;
    Ok(page.0)
}

fn of_the_daemon(page: &mut Page, supervisor: &Supervisor, since: SystemTime) {
    let version = env!("CARGO_PKG_VERSION");
    page.family("caisson_build_info", "gauge", "The daemon's version.");
    page.sample("caisson_build_info", &[("version", version)], 1);
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.single(
        "process_start_time_seconds",
        "gauge",
        "When the daemon was started.",
        since.as_secs_f64(),
    );
    page.single(
        "caisson_daemon_starts_total",
        "counter",
        "Starts of the daemon on this store.",
        supervisor.records.starts(),
    );
    let name = "caisson_events_total";
    let help = "What has been done since the daemon's start, by what it was done to.";
    page.family(name, "counter", help);
    for ((kind, action), count) in supervisor.records.told() {
        page.sample(name, &[("type", &kind), ("action", &action)], count);
    }
}

async fn of_the_store(page: &mut Page, supervisor: &Arc<Supervisor>) -> Result<()> {
    let kept = supervisor.clone();
    let (images, volumes, bytes, free) = blocking(move || {
        let images = kept.store.images().map_err(|error| images::of(&error))?;
        let volumes = kept.records.volumes()?;
        let bytes = kept.store.bytes().map_err(|error| images::of(&error))?;
        let root = kept.store.root();
        let disk = statvfs(root).tried(|| format!("look at the disk of {}", root.display()))?;
        let free = disk.blocks_available() * disk.fragment_size();
        Ok::<_, Fault>((images.len(), volumes.len(), bytes, free))
    })
    .await?;
    page.single("caisson_images", "gauge", "Images.", images);
    page.single("caisson_volumes", "gauge", "Volumes.", volumes);
    let name = "caisson_store_bytes";
    let help = "Of images on the disk: layers as files, and blobs as they came.";
    page.family(name, "gauge", help);
    page.sample(name, &[("kind", "layers")], bytes.layers);
    page.sample(name, &[("kind", "blobs")], bytes.blobs);
    page.single(
        "caisson_store_free_bytes",
        "gauge",
        "Left on the disk of the store.",
        free,
    );
    Ok(())
}

async fn of_containers(page: &mut Page, containers: Vec<Arc<Container>>) {
    let alive = containers.into_iter().filter(|one| one.is_alive());
    // All at once: each is another process.
    let asked: Vec<_> = alive.map(|one| tokio::spawn(ask(one))).collect();
    let (mut known, mut silent) = (vec![], 0);
    for one in asked {
        match one.await {
            Ok(Some(one)) => known.push(one),
            Ok(None) => {}
            Err(_) => silent += 1,
        }
    }
    known.retain(|one| {
        one.used.is_some() || {
            silent += 1;
            false
        }
    });
    page.single(
        "caisson_containers_silent",
        "gauge",
        "Containers whose shims did not say in time what they use.",
        silent,
    );
    let name = "caisson_container_info";
    page.family(name, "gauge", "Containers that run, and their images.");
    for one in &known {
        let labels = [("id", &*one.id), ("name", &one.name), ("image", &one.image)];
        page.sample(name, &labels, 1);
    }
    let name = "caisson_container_start_time_seconds";
    page.family(name, "gauge", "When it was started.");
    for one in &known {
        page.sample(name, &one.labels(), one.since);
    }
    let name = "caisson_container_restarts_total";
    page.family(name, "counter", "Starts by its restart policy.");
    for one in &known {
        page.sample(name, &one.labels(), one.restarts);
    }
    for family in OF_CONTAINERS {
        let name = format!("caisson_container_{}", family.name);
        page.family(&name, family.kind, family.help);
        for one in &known {
            if let Some(value) = one.used.as_ref().and_then(family.value) {
                page.sample(&name, &one.labels(), value);
            }
        }
    }
}

/// A container that runs.
struct Running {
    id: String,
    name: String,
    image: String,
    since: f64,
    restarts: u32,
    used: Option<Metrics>,
}

impl Running {
    fn labels(&self) -> [(&str, &str); 2] {
        [("id", &self.id), ("name", &self.name)]
    }
}

/// None if it has ended meanwhile.
async fn ask(container: Arc<Container>) -> Option<Running> {
    let shim = container.shim().ok()?;
    let used = timeout(ANSWER, shim.stats()).await;
    let used = used.ok().and_then(Result::ok);
    if used.is_none() && !container.is_alive() {
        return None;
    }
    let record = container.record();
    let started = u64::try_from(record.state.started_at).unwrap_or_default();
    Some(Running {
        image: record.config.image.clone(),
        since: Duration::from_nanos(started).as_secs_f64(),
        restarts: record.state.restarts,
        id: record.id,
        name: record.name,
        used,
    })
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)));
        let labels: Vec<_> = labels.collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // To memory, which does not fail.
        writeln!(self.0, "{line}").ok();
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

/// Prometheus has numbers of this kind only: exact below 8 PiB.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(microseconds: u64) -> f64 {
    number(microseconds) / 1e6
}

/// A group that has the controller has some.
fn some(value: u64) -> Option<f64> {
    (value > 0).then(|| number(value))
}

fn limit(value: u64) -> Option<f64> {
    some(value).filter(|_| value != u64::MAX)
}

fn io(used: &Metrics, value: fn(&::shim::protos::cgroup_metrics::IOEntry) -> u64) -> Option<f64> {
    let devices = &used.io.usage;
    (!devices.is_empty()).then(|| number(devices.iter().map(value).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut page = Page::default();
        page.single("a_total", "counter", "All.", 3);
        page.sample("b", &[("x", "one\"\\\n"), ("y", "")], 0.5);
        assert_eq!(
            page.0,
            "# HELP a_total All.\n# TYPE a_total counter\na_total 3\nb{x=\"one\\\"\\\\\\n\",y=\"\"} 0.5\n"
        );
    }

    #[test]
    fn what_a_group_has_not_is_left_out() {
        let mut used = Metrics::default();
        used.memory.mut_or_insert_default().usage_limit = u64::MAX;
        used.cpu.mut_or_insert_default().usage_usec = 1_500_000;
        let values = OF_CONTAINERS.iter();
        let values = values.filter_map(|family| Some((family.name, (family.value)(&used)?)));
        assert_eq!(values.collect::<Vec<_>>(), [("cpu_seconds_total", 1.5)]);
    }
}
