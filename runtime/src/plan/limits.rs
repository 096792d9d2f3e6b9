//! `linux.resources` → the files of a cgroup v2 group, in the order in which they are written.
//!
//! Pure: no system call, no knowledge of the host. What can only be decided on the host (a file that some kernels lack, a value that is
//! refused until another is set) is written down as data in [`Write`], for `cgroup` to act on. The same list serves `create` and
//! `update`. Device rules are not files on v2: see `device_filter`.
//!
//! The spec's fields are those of cgroup v1. Formulas and order are runc's, so that a container gets the same limits under both.

use crate::report::{Error, Faults, Result};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids, LinuxRdma,
    LinuxResources, LinuxThrottleDevice,
};
use std::collections::HashMap;

/// What the kernel writes and reads for "no limit".
const MAX: &str = "max";

/// The kernel's own `cpu.max` period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The limits of one cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The files to write, in this order.
    pub(crate) writes: Vec<Write>,
    /// Refuse a limit that the group's memory use has reached already (`memory.checkBeforeUpdate`).
    pub(crate) memory_check: Option<MemoryCheck>,
    /// Fields that were asked for and have no effect on cgroup v2.
    pub(crate) warnings: Vec<String>,
}

/// One value for one file of the group. A value is written by one write(2).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) file: String,
    pub(crate) value: String,
    /// What to do if the file does not exist.
    pub(crate) absent: Absent,
    /// If the kernel refuses the value (EINVAL), write it again after the next one: `cpu.max.burst` must not exceed the quota of
    /// `cpu.max`, so which of the two goes first depends on which of them grows.
    pub(crate) retry: bool,
}

/// What a missing file means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// The limit cannot be had. Only such writes make the runtime enable a controller.
    Fail,
    /// Nothing is lost: the value lifts a limit that cannot exist then, or the kernel has nothing there to limit.
    Ignore,
    /// A preference that this kernel has no way to express.
    Warn(&'static str),
    /// Another file takes the value in another form.
    Instead { file: &'static str, value: String },
}

/// The limits against which `memory.current` is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryCheck {
    pub(crate) limit: Option<u64>,
    pub(crate) limit_with_swap: Option<u64>,
}

/// Translates the spec's resources. Does not look at `devices`.
pub(crate) fn limits(resources: &LinuxResources) -> Result<Limits> {
    let mut faults = Faults::default();
    let limits = draft(resources, &mut faults);
    faults.settle().map(|()| limits)
}

/// The same with all that is wrong, and with the limits without that. Fields are those of `linux.resources`.
pub(crate) fn draft(resources: &LinuxResources, faults: &mut Faults) -> Limits {
    let mut limits = Limits::default();
    if let Some(pids) = resources.pids() {
        limits.pids(pids);
    }
    if let Some(memory) = resources.memory() {
        faults.keep_in("memory", limits.memory(memory));
    }
    if let Some(block_io) = resources.block_io() {
        faults.keep_in("blockIO", limits.block_io(block_io));
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu(cpu);
        limits.cpuset(cpu);
    }
    for (at, hugepages) in resources.hugepage_limits().iter().flatten().enumerate() {
        faults.keep_in(format!("hugepageLimits[{at}]"), limits.hugepages(hugepages));
    }
    if let Some(rdma) = resources.rdma() {
        faults.keep_in("rdma", limits.rdma(rdma));
    }
    if let Some(network) = resources.network() {
        limits.network(network);
    }
    // Last, so that what is written in the kernel's own words wins over what was translated.
    for (key, value) in resources.unified().iter().flat_map(by_name) {
        faults.keep_in(format!("unified[{key:?}]"), limits.unified(key, value));
    }
    limits.leave_out_weight_of_idle();
    limits
}

/// In an order that does not change from run to run.
fn by_name<T>(map: &HashMap<String, T>) -> impl Iterator<Item = (&String, &T)> {
    let mut names: Vec<_> = map.keys().collect();
    names.sort_unstable();
    names.into_iter().map(|name| (name, &map[name]))
}

impl Write {
    /// The controller that makes the file appear, if any does. The `cgroup.` files and the pressure files belong to none.
    pub(crate) fn controller(&self) -> Option<&str> {
        let (controller, _) = self.file.split_once('.')?;
        (controller != "cgroup" && !self.file.ends_with(".pressure")).then_some(controller)
    }
}

impl Limits {
    /// The controllers without which the limits cannot be had, each once.
    pub(crate) fn controllers(&self) -> Vec<&str> {
        let mut controllers = Vec::new();
        for write in &self.writes {
            let needed = matches!(write.absent, Absent::Fail | Absent::Instead { .. });
            if let Some(controller) = write
                .controller()
                .filter(|c| needed && !controllers.contains(c))
            {
                controllers.push(controller);
            }
        }
        controllers
    }

    fn set(&mut self, file: impl Into<String>, value: impl Into<String>, absent: Absent) {
        self.writes.push(Write {
            file: file.into(),
            value: value.into(),
            absent,
            retry: false,
        });
    }

    /// Writes a limit, or lifts it.
    fn set_limit(&mut self, file: &str, value: String) {
        let absent = if value == MAX {
            Absent::Ignore
        } else {
            Absent::Fail
        };
        self.set(file, value, absent);
    }

    fn ignored(&mut self, field: &str) {
        self.warnings.push(format!(
            "linux.resources.{field} has no equivalent on cgroup v2, ignoring"
        ));
    }

    fn pids(&mut self, pids: &LinuxPids) {
        let value = match pids.limit() {
            n if n < 0 => MAX.to_owned(),
            // A limit of no task at all would keep the container's own process out. runc writes 1, and so do systemd's users.
            0 => "1".to_owned(),
            n => n.to_string(),
        };
        self.set_limit("pids.max", value);
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        let limit = memory_amount("limit", memory.limit())?;
        let reservation = memory_amount("reservation", memory.reservation())?;
        let swap = memory_amount("swap", memory.swap())?;

        if memory.check_before_update() == Some(true) {
            let bytes = |amount| {
                if let Some(Amount::Bytes(n)) = amount {
                    Some(n)
                } else {
                    None
                }
            };
            let check = MemoryCheck {
                limit: bytes(limit),
                limit_with_swap: bytes(swap),
            };
            self.memory_check =
                (check.limit.is_some() || check.limit_with_swap.is_some()).then_some(check);
        }
        if let Some(value) = swap_max(limit, swap)? {
            // A kernel without swap accounting has no such file, and nothing there to forbid or to allow.
            let absent = if value == "0" || value == MAX {
                Absent::Ignore
            } else {
                Absent::Fail
            };
            self.set("memory.swap.max", value, absent);
        }
        if let Some(limit) = limit {
            self.set_limit("memory.max", limit.text());
        }
        if let Some(reservation) = reservation {
            self.set_limit("memory.low", reservation.text());
        }

        let asked = [
            ("memory.kernel", memory.kernel().is_some_and(|n| n > 0)),
            (
                "memory.kernelTCP",
                memory.kernel_tcp().is_some_and(|n| n > 0),
            ),
            ("memory.swappiness", memory.swappiness().is_some()),
            (
                "memory.disableOOMKiller",
                memory.disable_oom_killer() == Some(true),
            ),
            ("memory.useHierarchy", memory.use_hierarchy() == Some(false)),
        ];
        for (field, _) in asked.iter().filter(|(_, asked)| *asked) {
            self.ignored(field);
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<()> {
        if let Some(weight) = block_io.weight().filter(|w| *w != 0) {
            let weight = checked_io_weight(weight)?;
            let instead = Absent::Instead {
                file: "io.weight",
                value: io_weight(weight).to_string(),
            };
            self.set("io.bfq.weight", weight.to_string(), instead);
        }
        let mut leaf_weight = block_io.leaf_weight().is_some_and(|w| w != 0);
        for device in block_io.weight_device().iter().flatten() {
            leaf_weight |= device.leaf_weight().is_some_and(|w| w != 0);
            if let Some(weight) = device.weight().filter(|w| *w != 0) {
                let value = format!(
                    "{} {}",
                    device_number(device.major(), device.minor())?,
                    checked_io_weight(weight)?
                );
                let why = "linux.resources.blockIO.weightDevice needs the BFQ scheduler, which this kernel does not have loaded, ignoring";
                self.set("io.bfq.weight", value, Absent::Warn(why));
            }
        }
        if leaf_weight {
            self.ignored("blockIO.leafWeight");
        }
        for line in io_max(block_io)? {
            self.set("io.max", line, Absent::Fail);
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        let idle = cpu.idle();
        if let Some(idle) = idle {
            let absent = if idle == 0 {
                Absent::Ignore
            } else {
                Absent::Fail
            };
            self.set("cpu.idle", idle.to_string(), absent);
        }
        if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
            self.set("cpu.weight", cpu_weight(shares).to_string(), Absent::Fail);
        }

        let quota = cpu.quota().filter(|q| *q != 0);
        let period = cpu.period().filter(|p| *p != 0);
        let bandwidth = quota.is_some() || period.is_some();
        if let Some(burst) = cpu.burst() {
            let absent = if burst == 0 {
                Absent::Ignore
            } else {
                Absent::Fail
            };
            self.set("cpu.max.burst", burst.to_string(), absent);
            self.writes
                .last_mut()
                .expect("a write was just added")
                .retry = bandwidth;
        }
        if bandwidth {
            let quota = quota
                .filter(|q| *q > 0)
                .map_or(MAX.to_owned(), |q| q.to_string());
            let lifts = quota == MAX && period.is_none_or(|p| p == DEFAULT_PERIOD);
            let value = format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD));
            self.set(
                "cpu.max",
                value,
                if lifts { Absent::Ignore } else { Absent::Fail },
            );
        }

        if cpu.realtime_runtime().is_some_and(|n| n != 0) {
            self.ignored("cpu.realtimeRuntime");
        }
        if cpu.realtime_period().is_some_and(|n| n != 0) {
            self.ignored("cpu.realtimePeriod");
        }
    }

    /// An idle group has a fixed weight, and the kernel refuses to set another.
    fn leave_out_weight_of_idle(&mut self) {
        let idles = |write: &Write| write.file == "cpu.idle" && write.value.trim() == "1";
        if !self.writes.iter().any(idles) {
            return;
        }
        let all = self.writes.len();
        self.writes.retain(|write| write.file != "cpu.weight");
        if self.writes.len() < all {
            // The first words are runc's.
            let text = "unable to apply both cpu.weight and cpu.idle: a cgroup that is idle (cpu.idle is 1) has no weight, ignoring cpu.weight";
            self.warnings.push(text.to_owned());
        }
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) {
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
                self.set(file, list, Absent::Fail);
            }
        }
    }

    fn hugepages(&mut self, limit: &LinuxHugepageLimit) -> Result<()> {
        let size = limit.page_size();
        // The size becomes part of a file name.
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::invalid(format!(
                "linux.resources.hugepageLimits: page size '{size}' is not like '2MB'"
            )));
        }
        let Ok(bytes) = u64::try_from(limit.limit()) else {
            return Err(Error::invalid(format!(
                "linux.resources.hugepageLimits: the limit for {size} pages is negative"
            )));
        };
        self.set(
            format!("hugetlb.{size}.max"),
            bytes.to_string(),
            Absent::Fail,
        );
        // Without this one, a mapping can reserve pages beyond the limit and is killed when it touches them.
        self.set(
            format!("hugetlb.{size}.rsvd.max"),
            bytes.to_string(),
            Absent::Ignore,
        );
        Ok(())
    }

    fn rdma(&mut self, devices: &HashMap<String, LinuxRdma>) -> Result<()> {
        for (device, limit) in by_name(devices) {
            if device.is_empty() || device.contains(char::is_whitespace) {
                return Err(Error::invalid(format!(
                    "linux.resources.rdma: '{device}' is not the name of a device"
                )));
            }
            let mut line = device.clone();
            for (key, limit) in [
                ("hca_handle", limit.hca_handles()),
                ("hca_object", limit.hca_objects()),
            ] {
                if let Some(limit) = limit {
                    line.push_str(&format!(" {key}={limit}"));
                }
            }
            if line.len() > device.len() {
                self.set("rdma.max", line, Absent::Fail);
            }
        }
        Ok(())
    }

    fn network(&mut self, network: &LinuxNetwork) {
        if network.class_id().is_some_and(|c| c != 0) {
            self.ignored("network.classID");
        }
        if network.priorities().as_ref().is_some_and(|p| !p.is_empty()) {
            self.ignored("network.priorities");
        }
    }

    fn unified(&mut self, key: &str, value: &str) -> Result<()> {
        if key.contains('/') {
            return Err(Error::invalid(format!(
                "unified resource '{key}' must be a file name (no slashes)"
            )));
        }
        if key.split_once('.').is_none_or(|(controller, file)| {
            controller.is_empty() || file.is_empty() || file == "."
        }) {
            return Err(Error::invalid(format!(
                "unified resource '{key}' must be in the form CONTROLLER.PARAMETER"
            )));
        }
        // They would move or end this command itself, or keep the container from ever starting.
        let acts = ["procs", "threads", "freeze", "kill"];
        if key
            .strip_prefix("cgroup.")
            .is_some_and(|file| acts.contains(&file))
        {
            return Err(Error::invalid(format!(
                "unified resource '{key}' is not a limit"
            )));
        }
        if value.is_empty() && key.starts_with("cpuset.") {
            // Clears a list. A write of no bytes, as it is for all other files (runc, crun), would not reach the kernel's parser.
            self.set(key, "\n", Absent::Fail);
        }
        // The kernel takes one setting for each write, so `io.max` for two devices is two writes.
        for line in value.lines().filter(|line| !line.is_empty()) {
            self.set(key, line, Absent::Fail);
        }
        Ok(())
    }
}

/// A memory field that is set: v1 wrote -1 for "no limit", and 0 is the same as leaving it out.
#[derive(Clone, Copy)]
enum Amount {
    Bytes(u64),
    Unlimited,
}

impl Amount {
    fn text(self) -> String {
        match self {
            Amount::Bytes(n) => n.to_string(),
            Amount::Unlimited => MAX.to_owned(),
        }
    }
}

fn memory_amount(field: &str, value: Option<i64>) -> Result<Option<Amount>> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Amount::Unlimited)),
        Some(n) => match u64::try_from(n) {
            Ok(n) => Ok(Some(Amount::Bytes(n))),
            Err(_) => {
                let text =
                    format!("linux.resources.memory.{field}: {n} is not an amount of memory");
                Err(Error::invalid(text).in_field(field))
            }
        },
    }
}

/// The spec's `swap` is memory and swap together, as on v1. The kernel's `memory.swap.max` is swap alone.
fn swap_max(limit: Option<Amount>, swap: Option<Amount>) -> Result<Option<String>> {
    let invalid =
        |why| Err(Error::invalid(format!("linux.resources.memory.swap: {why}")).in_field("swap"));
    match (limit, swap) {
        // On v1, lifting the memory limit lifted that of swap too, and engines count on it.
        (Some(Amount::Unlimited), None) | (_, Some(Amount::Unlimited)) => Ok(Some(MAX.to_owned())),
        (_, None) => Ok(None),
        (Some(Amount::Bytes(limit)), Some(Amount::Bytes(both))) => match both.checked_sub(limit) {
            Some(swap) => Ok(Some(swap.to_string())),
            None => invalid("the limit of memory and swap together is below that of memory"),
        },
        // As runc has it: nothing could be taken from it.
        (Some(Amount::Unlimited), Some(Amount::Bytes(swap))) => Ok(Some(swap.to_string())),
        (None, Some(Amount::Bytes(_))) => {
            invalid("a limit of memory and swap together needs a memory limit")
        }
    }
}

/// v1 shares (2 to 262144, default 1024) → v2 weight (1 to 10000, default 100): the quadratic curve through the three pairs. The
/// straight line that runtimes used before gave the default shares a weight of 39.
fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn checked_io_weight(weight: u16) -> Result<u16> {
    match weight {
        10..=1000 => Ok(weight),
        _ => Err(Error::invalid(format!(
            "linux.resources.blockIO: weight {weight} is not between 10 and 1000"
        ))),
    }
}

/// v1 weight (10 to 1000) → `io.weight` (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

/// The lines of `io.max`, one for each device.
fn io_max(block_io: &LinuxBlockIo) -> Result<Vec<String>> {
    let lists: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ];
    let mut lines: Vec<(String, String)> = Vec::new();
    for (key, devices) in lists {
        for device in devices.iter().flatten() {
            let number = device_number(device.major(), device.minor())?;
            // v1 took a rate of 0 for "no limit"; the kernel refuses it in io.max.
            let rate = if device.rate() == 0 {
                MAX.to_owned()
            } else {
                device.rate().to_string()
            };
            let setting = format!(" {key}={rate}");
            match lines.iter_mut().find(|(device, _)| *device == number) {
                Some((_, settings)) => settings.push_str(&setting),
                None => lines.push((number, setting)),
            }
        }
    }
    Ok(lines
        .into_iter()
        .map(|(device, settings)| device + &settings)
        .collect())
}

fn device_number(major: i64, minor: i64) -> Result<String> {
    if major < 0 || minor < 0 {
        return Err(Error::invalid(format!(
            "linux.resources.blockIO: {major}:{minor} is not the number of a device"
        )));
    }
    Ok(format!("{major}:{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Limits> {
        limits(&serde_json::from_str(json).expect("test resources are valid JSON"))
    }

    /// The writes as `file=value`, and `file?=value` where a missing file is ignored.
    fn writes(json: &str) -> Vec<String> {
        let text = |w: &Write| match w.absent {
            Absent::Ignore => format!("{}?={}", w.file, w.value),
            _ => format!("{}={}", w.file, w.value),
        };
        plan(json)
            .expect("test resources are accepted")
            .writes
            .iter()
            .map(text)
            .collect()
    }

    fn refusal(json: &str) -> String {
        plan(json)
            .expect_err("test resources are refused")
            .to_string()
    }

    #[test]
    fn shares_become_weight_by_the_curve_that_maps_default_to_default() {
        let vectors = [
            (1, 1),
            (2, 1),
            (3, 2),
            (10, 4),
            (100, 17),
            (256, 35),
            (512, 59),
            (1000, 99),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (10240, 639),
            (102400, 4429),
            (262144, 10000),
            (u64::MAX, 10000),
        ];
        for (shares, weight) in vectors {
            assert_eq!(cpu_weight(shares), weight, "shares {shares}");
        }
        assert_eq!(writes(r#"{"cpu":{"shares":0}}"#), [] as [&str; 0]);
    }

    #[test]
    fn quota_and_period_go_into_one_file() {
        assert_eq!(
            writes(r#"{"cpu":{"quota":50000,"period":200000}}"#),
            ["cpu.max=50000 200000"]
        );
        assert_eq!(
            writes(r#"{"cpu":{"quota":50000}}"#),
            ["cpu.max=50000 100000"]
        );
        assert_eq!(writes(r#"{"cpu":{"period":50000}}"#), ["cpu.max=max 50000"]);
        assert_eq!(writes(r#"{"cpu":{"quota":-1}}"#), ["cpu.max?=max 100000"]);
        assert_eq!(writes(r#"{"cpu":{"quota":0,"period":0}}"#), [] as [&str; 0]);
    }

    #[test]
    fn idle_comes_first_and_burst_is_tried_before_and_after_the_quota() {
        let limits =
            plan(r#"{"cpu":{"idle":1,"burst":1000,"quota":5000,"period":10000}}"#).unwrap();
        let seen: Vec<_> = limits
            .writes
            .iter()
            .map(|w| (w.file.as_str(), w.retry))
            .collect();
        assert_eq!(
            seen,
            [
                ("cpu.idle", false),
                ("cpu.max.burst", true),
                ("cpu.max", false)
            ]
        );
        assert!(!plan(r#"{"cpu":{"burst":1000}}"#).unwrap().writes[0].retry);
    }

    #[test]
    fn an_idle_group_has_no_weight() {
        let limits = plan(r#"{"cpu":{"idle":1,"shares":512}}"#).unwrap();
        assert_eq!(limits.writes.len(), 1);
        assert!(
            limits.warnings[0].contains("ignoring cpu.weight"),
            "{:?}",
            limits.warnings
        );
        assert_eq!(
            writes(r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#),
            ["cpu.idle=1"]
        );
        assert_eq!(
            writes(r#"{"cpu":{"idle":0,"shares":512}}"#),
            ["cpu.idle?=0", "cpu.weight=59"]
        );
    }

    #[test]
    fn swap_is_what_remains_after_memory() {
        assert_eq!(
            writes(r#"{"memory":{"limit":100,"swap":300}}"#),
            ["memory.swap.max=200", "memory.max=100"]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":100,"swap":100}}"#),
            ["memory.swap.max?=0", "memory.max=100"]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":100,"swap":-1}}"#),
            ["memory.swap.max?=max", "memory.max=100"]
        );
        assert_eq!(writes(r#"{"memory":{"limit":100}}"#), ["memory.max=100"]);
        assert_eq!(
            writes(r#"{"memory":{"limit":-1}}"#),
            ["memory.swap.max?=max", "memory.max?=max"]
        );
        assert_eq!(
            writes(r#"{"memory":{"swap":-1}}"#),
            ["memory.swap.max?=max"]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#),
            [] as [&str; 0]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":9,"swap":10,"reservation":5}}"#),
            ["memory.swap.max=1", "memory.max=9", "memory.low=5"]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":-1,"swap":100}}"#),
            ["memory.swap.max=100", "memory.max?=max"]
        );
    }

    #[test]
    fn swap_without_memory_or_below_it_is_refused() {
        assert!(refusal(r#"{"memory":{"swap":100}}"#).contains("needs a memory limit"));
        assert!(refusal(r#"{"memory":{"limit":200,"swap":100}}"#).contains("below that of memory"));
        assert!(refusal(r#"{"memory":{"limit":-2}}"#).contains("memory.limit: -2"));
    }

    #[test]
    fn the_memory_check_compares_only_real_limits() {
        let check = |json| plan(json).unwrap().memory_check;
        assert_eq!(check(r#"{"memory":{"limit":7,"swap":-1}}"#), None);
        assert_eq!(
            check(r#"{"memory":{"limit":-1,"checkBeforeUpdate":true}}"#),
            None
        );
        assert_eq!(
            check(r#"{"memory":{"limit":7,"swap":9,"checkBeforeUpdate":true}}"#),
            Some(MemoryCheck {
                limit: Some(7),
                limit_with_swap: Some(9)
            })
        );
    }

    #[test]
    fn pids_zero_is_one_and_negative_is_no_limit() {
        assert_eq!(writes(r#"{"pids":{"limit":5}}"#), ["pids.max=5"]);
        assert_eq!(writes(r#"{"pids":{"limit":0}}"#), ["pids.max=1"]);
        assert_eq!(writes(r#"{"pids":{"limit":-1}}"#), ["pids.max?=max"]);
    }

    #[test]
    fn io_weight_is_raw_for_bfq_and_scaled_otherwise() {
        for (weight, scaled) in [(10, 1), (100, 910), (500, 4950), (1000, 10000)] {
            assert_eq!(io_weight(weight), scaled, "weight {weight}");
        }
        let limits = plan(r#"{"blockIO":{"weight":100,"weightDevice":[{"major":8,"minor":0,"weight":20,"leafWeight":7}]}}"#).unwrap();
        assert_eq!(
            (
                limits.writes[0].file.as_str(),
                limits.writes[0].value.as_str()
            ),
            ("io.bfq.weight", "100")
        );
        assert_eq!(
            limits.writes[0].absent,
            Absent::Instead {
                file: "io.weight",
                value: "910".to_owned()
            }
        );
        assert_eq!(
            (
                limits.writes[1].file.as_str(),
                limits.writes[1].value.as_str()
            ),
            ("io.bfq.weight", "8:0 20")
        );
        assert!(matches!(limits.writes[1].absent, Absent::Warn(_)));
        assert!(limits.warnings[0].contains("leafWeight"));
        assert!(refusal(r#"{"blockIO":{"weight":9}}"#).contains("between 10 and 1000"));
        assert!(refusal(r#"{"blockIO":{"weight":1001}}"#).contains("between 10 and 1000"));
    }

    #[test]
    fn throttles_of_one_device_share_a_line() {
        let json = r#"{"blockIO":{
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":10},{"major":8,"minor":16,"rate":11}],
            "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":20}],
            "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":30}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
        assert_eq!(
            writes(json),
            [
                "io.max=8:0 rbps=10 wbps=20 riops=30 wiops=max",
                "io.max=8:16 rbps=11"
            ]
        );
        assert!(
            refusal(r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}}"#)
                .contains("-1:0")
        );
    }

    #[test]
    fn huge_pages_are_limited_in_use_and_in_reservation() {
        assert_eq!(
            writes(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#),
            ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max?=4194304"]
        );
        assert!(
            refusal(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#)
                .contains("page size")
        );
        assert!(
            refusal(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#).contains("negative")
        );
    }

    #[test]
    fn rdma_names_only_what_is_limited() {
        let json = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1000},"rxe3":{}}}"#;
        assert_eq!(
            writes(json),
            [
                "rdma.max=mlx4_0 hca_object=1000",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"
            ]
        );
    }

    #[test]
    fn unified_is_last_sorted_and_split_by_lines() {
        let json = r#"{"unified":{"pids.max":"9","io.max":"8:0 rbps=1\n8:16 rbps=2\n","cpuset.cpus":"","cgroup.max.depth":""},"pids":{"limit":5}}"#;
        assert_eq!(
            writes(json),
            [
                "pids.max=5",
                "cpuset.cpus=\n",
                "io.max=8:0 rbps=1",
                "io.max=8:16 rbps=2",
                "pids.max=9"
            ]
        );
        assert!(refusal(r#"{"unified":{"../x.max":"1"}}"#).contains("no slashes"));
        assert!(refusal(r#"{"unified":{"cgroup.procs":"0"}}"#).contains("not a limit"));
        for key in ["max", "..", "memory.", ".max", ""] {
            assert!(
                refusal(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#))
                    .contains("CONTROLLER.PARAMETER"),
                "{key}"
            );
        }
    }

    #[test]
    fn what_v2_lacks_is_ignored_with_a_warning_and_harmless_values_are_not_mentioned() {
        let json = r#"{"memory":{"kernel":1,"kernelTCP":1,"swappiness":0,"disableOOMKiller":true,"useHierarchy":false},
            "cpu":{"realtimeRuntime":1,"realtimePeriod":1},
            "network":{"classID":1,"priorities":[{"name":"lo","priority":1}]}}"#;
        let limits = plan(json).unwrap();
        assert!(limits.writes.is_empty());
        assert_eq!(limits.warnings.len(), 9, "{:?}", limits.warnings);
        let json = r#"{"memory":{"kernel":0,"kernelTCP":-1,"disableOOMKiller":false,"useHierarchy":true},
            "cpu":{"realtimeRuntime":0},"network":{"classID":0,"priorities":[]},"blockIO":{"weight":0,"leafWeight":0}}"#;
        assert_eq!(plan(json).unwrap(), Limits::default());
    }

    #[test]
    fn only_real_limits_need_their_controller() {
        let controllers = |json| {
            plan(json)
                .unwrap()
                .controllers()
                .iter()
                .map(|c| c.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            controllers(
                r#"{"pids":{"limit":-1},"memory":{"limit":-1},"cpu":{"quota":-1,"idle":0}}"#
            ),
            [] as [&str; 0]
        );
        assert_eq!(
            controllers(
                r#"{"pids":{"limit":1},"memory":{"limit":9,"swap":9},"cpu":{"shares":9,"quota":9,"cpus":"0","mems":"0"},
                "blockIO":{"weight":10},"hugepageLimits":[{"pageSize":"2MB","limit":0}],"rdma":{"a":{"hcaHandles":1}},
                "unified":{"misc.max":"a 1","cgroup.max.depth":"1","cpu.pressure":"some 1 2","memory.high":"9"}}"#
            ),
            [
                "pids", "memory", "io", "cpu", "cpuset", "hugetlb", "rdma", "misc"
            ]
        );
    }
}
