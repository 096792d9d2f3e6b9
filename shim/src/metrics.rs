//! Statistics of a group of the v2 hierarchy, as containerd wants them. What the kernel does not have, or not for this group, is zero, not an
//! error; "max" is the largest number.
//!
//! Runs in the serving shim. Reads relative to the group's open directory, so that all numbers are of one group. The network is not
//! in it: containerd's callers read it in the container's network namespace.

use std::fs::File;
use std::io::{Read, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::SplitWhitespace;

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use protobuf::MessageField;

use crate::protos::cgroup_metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

/// Of the group whose directory this is. An error (ENOENT) only if there is no such group.
pub(crate) fn read(group: &Path) -> Result<Metrics> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let group = Group(open(group, flags, Mode::empty())?);
    Ok(Metrics {
        pids: MessageField::some(pids(&group)),
        cpu: MessageField::some(cpu(&group)),
        memory: MessageField::some(memory(&group)),
        rdma: MessageField::some(RdmaStat {
            current: rdma(&group.text("rdma.current")),
            limit: rdma(&group.text("rdma.max")),
            ..RdmaStat::default()
        }),
        io: MessageField::some(IOStat {
            usage: io(&group.text("io.stat")),
            psi: group.pressure("io.pressure"),
            ..IOStat::default()
        }),
        hugetlb: hugetlb(&group),
        memory_events: MessageField::some(memory_events(&group)),
        ..Metrics::default()
    })
}

/// An open directory.
struct Group(OwnedFd);

impl Group {
    /// Empty if there is no such file, or if it has nothing to say (EOPNOTSUPP, without pressure stall information).
    fn text(&self, file: &str) -> String {
        let mut text = String::new();
        let opened = openat(&self.0, file, OFlag::O_CLOEXEC, Mode::empty());
        let read = opened.is_ok_and(|file| File::from(file).read_to_string(&mut text).is_ok());
        if read { text } else { String::new() }
    }

    fn number(&self, file: &str) -> u64 {
        number(self.text(file).trim())
    }

    fn pressure(&self, file: &str) -> MessageField<PSIStats> {
        pressure(&self.text(file)).into()
    }

    /// The names of its files.
    fn files(&self) -> Vec<String> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(mut directory) = Dir::openat(&self.0, ".", flags, Mode::empty()) else {
            return Vec::new();
        };
        let names = directory.iter().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    }
}

fn pids(group: &Group) -> PidsStat {
    PidsStat {
        current: group.number("pids.current"),
        limit: group.number("pids.max"),
        ..PidsStat::default()
    }
}

fn cpu(group: &Group) -> CPUStat {
    let stat = group.text("cpu.stat");
    let stat = Flat(&stat);
    CPUStat {
        usage_usec: stat.value("usage_usec"),
        user_usec: stat.value("user_usec"),
        system_usec: stat.value("system_usec"),
        nr_periods: stat.value("nr_periods"),
        nr_throttled: stat.value("nr_throttled"),
        throttled_usec: stat.value("throttled_usec"),
        psi: group.pressure("cpu.pressure"),
        nr_bursts: stat.value("nr_bursts"),
        burst_usec: stat.value("burst_usec"),
        ..CPUStat::default()
    }
}

fn memory(group: &Group) -> MemoryStat {
    let stat = group.text("memory.stat");
    let stat = Flat(&stat);
    MemoryStat {
        anon: stat.value("anon"),
        file: stat.value("file"),
        kernel_stack: stat.value("kernel_stack"),
        slab: stat.value("slab"),
        sock: stat.value("sock"),
        shmem: stat.value("shmem"),
        file_mapped: stat.value("file_mapped"),
        file_dirty: stat.value("file_dirty"),
        file_writeback: stat.value("file_writeback"),
        anon_thp: stat.value("anon_thp"),
        inactive_anon: stat.value("inactive_anon"),
        active_anon: stat.value("active_anon"),
        inactive_file: stat.value("inactive_file"),
        active_file: stat.value("active_file"),
        unevictable: stat.value("unevictable"),
        slab_reclaimable: stat.value("slab_reclaimable"),
        slab_unreclaimable: stat.value("slab_unreclaimable"),
        pgfault: stat.value("pgfault"),
        pgmajfault: stat.value("pgmajfault"),
        workingset_refault: stat.both("workingset_refault"),
        workingset_activate: stat.both("workingset_activate"),
        workingset_nodereclaim: stat.value("workingset_nodereclaim"),
        pgrefill: stat.value("pgrefill"),
        pgscan: stat.value("pgscan"),
        pgsteal: stat.value("pgsteal"),
        pgactivate: stat.value("pgactivate"),
        pgdeactivate: stat.value("pgdeactivate"),
        pglazyfree: stat.value("pglazyfree"),
        pglazyfreed: stat.value("pglazyfreed"),
        thp_fault_alloc: stat.value("thp_fault_alloc"),
        thp_collapse_alloc: stat.value("thp_collapse_alloc"),
        usage: group.number("memory.current"),
        usage_limit: group.number("memory.max"),
        swap_usage: group.number("memory.swap.current"),
        swap_limit: group.number("memory.swap.max"),
        max_usage: group.number("memory.peak"),
        swap_max_usage: group.number("memory.swap.peak"),
        psi: group.pressure("memory.pressure"),
        ..MemoryStat::default()
    }
}

fn memory_events(group: &Group) -> MemoryEvents {
    let events = group.text("memory.events");
    let events = Flat(&events);
    MemoryEvents {
        low: events.value("low"),
        high: events.value("high"),
        max: events.value("max"),
        oom: events.value("oom"),
        oom_kill: events.value("oom_kill"),
        oom_group_kill: events.value("oom_group_kill"),
        ..MemoryEvents::default()
    }
}

/// One per page size: hugetlb.2MB.current and so on. Reservations (hugetlb.2MB.rsvd.current) are not counted.
fn hugetlb(group: &Group) -> Vec<HugeTlbStat> {
    let mut files = group.files();
    files.sort_unstable();
    let size = |file: &str| {
        let size = file.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let stat = |size: String| HugeTlbStat {
        current: group.number(&format!("hugetlb.{size}.current")),
        max: group.number(&format!("hugetlb.{size}.max")),
        failcnt: Flat(&group.text(&format!("hugetlb.{size}.events"))).value("max"),
        pagesize: size,
        ..HugeTlbStat::default()
    };
    files
        .iter()
        .filter_map(|file| size(file))
        .map(stat)
        .collect()
}

/// A line per device: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`. Devices without numbers are left out by some kernels, and named
/// without any by others.
fn io(text: &str) -> Vec<IOEntry> {
    let entry = |line: &str| {
        // Some kernels forget the end of line after a device without numbers, so the last name counts.
        let (devices, values) = line.split_at(line.find("rbytes=")?);
        let (major, minor) = devices.split_whitespace().next_back()?.split_once(':')?;
        let value = |key| value(values.split_whitespace(), key).map_or(0, number);
        Some(IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: value("rbytes"),
            wbytes: value("wbytes"),
            rios: value("rios"),
            wios: value("wios"),
            ..IOEntry::default()
        })
    };
    text.lines().filter_map(entry).collect()
}

/// A line per device: `mlx4_0 hca_handle=2 hca_object=2000`.
fn rdma(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next()?.to_owned();
        let value = |key| value(words.clone(), key).map_or(0, number);
        Some(RdmaEntry {
            device,
            hca_handles: u32::try_from(value("hca_handle")).unwrap_or(u32::MAX),
            hca_objects: u32::try_from(value("hca_object")).unwrap_or(u32::MAX),
            ..RdmaEntry::default()
        })
    };
    text.lines().filter_map(entry).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`. None without such information.
fn pressure(text: &str) -> Option<PSIStats> {
    let data = |kind: &str| {
        let mut lines = text.lines().map(str::split_whitespace);
        let words = lines.find_map(|mut words| (words.next()? == kind).then_some(words))?;
        let average = |key| value(words.clone(), key)?.parse().ok();
        Some(PSIData {
            avg10: average("avg10").unwrap_or(0.0),
            avg60: average("avg60").unwrap_or(0.0),
            avg300: average("avg300").unwrap_or(0.0),
            total: value(words.clone(), "total").map_or(0, number),
            ..PSIData::default()
        })
    };
    let (some, full) = (data("some"), data("full"));
    (some.is_some() || full.is_some()).then(|| PSIStats {
        some: some.into(),
        full: full.into(),
        ..PSIStats::default()
    })
}

/// A file of lines `key value`.
struct Flat<'a>(&'a str);

impl Flat<'_> {
    fn value(&self, key: &str) -> u64 {
        self.find(key).unwrap_or(0)
    }

    /// Linux 5.9 split it up: `key_anon` and `key_file`.
    fn both(&self, key: &str) -> u64 {
        let split = || self.value(&format!("{key}_anon")) + self.value(&format!("{key}_file"));
        self.find(key).unwrap_or_else(split)
    }

    fn find(&self, key: &str) -> Option<u64> {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once(' '));
        pairs
            .find(|(name, _)| *name == key)
            .map(|(_, value)| number(value.trim()))
    }
}

/// Of `key=value`.
fn value<'a>(words: SplitWhitespace<'a>, key: &str) -> Option<&'a str> {
    let mut pairs = words.filter_map(|word| word.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn number(text: &str) -> u64 {
    if text == "max" {
        u64::MAX
    } else {
        text.parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory with files as the kernel writes them.
    struct Files(PathBuf);

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let template = std::env::temp_dir().join("caisson-metrics-XXXXXX");
            let directory = nix::unistd::mkdtemp(&template).unwrap();
            for (name, text) in files {
                let file = File::options()
                    .write(true)
                    .create_new(true)
                    .open(directory.join(name));
                std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
            }
            Self(directory)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_group_without_controllers_is_all_zero() {
        let files = Files::new(&[]);
        let metrics = read(&files.0).unwrap();
        assert_eq!(*metrics.pids, PidsStat::default());
        assert_eq!(*metrics.cpu, CPUStat::default());
        assert_eq!(*metrics.memory, MemoryStat::default());
        assert_eq!(*metrics.memory_events, MemoryEvents::default());
        // Callers read these without asking whether they are there.
        assert!(metrics.memory.is_some() && metrics.pids.is_some() && metrics.io.is_some());
        let missing = read(&files.0.join("missing")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn every_file_is_read_into_its_fields() {
        let files = Files::new(&[
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_bursts 1\nburst_usec 2\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.peak", "5000\n"),
            ("memory.swap.current", "1\n"),
            ("memory.swap.max", "max\n"),
            ("memory.swap.peak", "2\n"),
            (
                "memory.stat",
                "anon 10\nanon_thp 11\nworkingset_refault_anon 3\nworkingset_refault_file 4\n",
            ),
            (
                "memory.events",
                "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
            ),
        ]);
        let metrics = read(&files.0).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
        let cpu = &metrics.cpu;
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (9, 4, 5));
        assert_eq!((cpu.nr_bursts, cpu.burst_usec), (1, 2));
        let some = &cpu.psi.some;
        assert_eq!(
            (some.avg10, some.avg60, some.avg300, some.total),
            (1.5, 0.25, 0.0, 77)
        );
        assert!(cpu.psi.full.is_none() && metrics.io.psi.is_none());
        let memory = &metrics.memory;
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.max_usage),
            (4096, 8192, 5000)
        );
        let swap = (memory.swap_usage, memory.swap_limit, memory.swap_max_usage);
        assert_eq!(swap, (1, u64::MAX, 2));
        assert_eq!(
            (memory.anon, memory.anon_thp, memory.workingset_refault),
            (10, 11, 7)
        );
        let events = &metrics.memory_events;
        assert_eq!((events.low, events.high, events.max), (1, 2, 3));
        assert_eq!(
            (events.oom, events.oom_kill, events.oom_group_kill),
            (4, 5, 6)
        );
    }

    #[test]
    fn pages_and_devices_have_an_entry_each() {
        let files = Files::new(&[
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 7\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=3\n"),
        ]);
        let metrics = read(&files.0).unwrap();
        assert_eq!(metrics.hugetlb.len(), 1);
        let huge = &metrics.hugetlb[0];
        let huge = (huge.pagesize.as_str(), huge.current, huge.max, huge.failcnt);
        assert_eq!(huge, ("2MB", 2_097_152, u64::MAX, 7));
        let (current, limit) = (&metrics.rdma.current[0], &metrics.rdma.limit[0]);
        assert_eq!(
            (
                current.device.as_str(),
                current.hca_handles,
                current.hca_objects
            ),
            ("mlx4_0", 2, 2000)
        );
        assert_eq!((limit.hca_handles, limit.hca_objects), (u32::MAX, 3));
    }

    #[test]
    fn devices_without_numbers_are_no_entries() {
        let entries = io(
            "7:1 \n7:2 7:3 8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n\n9:0 rbytes=7 wbytes=8 rios=9 wios=10\n",
        );
        let entries: Vec<_> = entries
            .iter()
            .map(|e| [e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios])
            .collect();
        assert_eq!(entries, [[8, 16, 1, 2, 3, 4], [9, 0, 7, 8, 9, 10]]);
    }
}
