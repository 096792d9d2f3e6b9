//! What a group's processes have used: the kernel's counters, in the form in which `events` shows them.
//!
//! Names, nesting and what is left out are runc's (its types/events.go), and so are the units: nanoseconds, bytes, and memory and swap
//! counted together. They come from cgroup v1, so some fields never have another value here than zero.
//!
//! A file that the group does not have, since its controller is not enabled or the kernel is older, leaves its fields at zero.

use super::{Cgroup, files};
use crate::report::{Context, Result};
use crate::sys::Errno;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that is counted for one group and those below it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stats {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// All but the two lists is about files that v2 does not have.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryUse,
    swap: MemoryUse,
    kernel: MemoryUse,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryUse,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct MemoryUse {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    /// Zero is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<Transfers>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<Transfers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Transfers {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    failcnt: u64,
}

/// Pressure stall information: how long processes had to wait.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Pressure {
    some: Stalls,
    full: Stalls,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Stalls {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Cgroup {
    /// The counters now.
    pub(crate) fn stats(&self) -> Result<Stats> {
        Ok(Stats {
            cpu: Cpu {
                psi: self.pressure("cpu.pressure")?,
                // Every group has this file, also without the controller: a group without it is gone, and that is an error.
                ..Cpu::parse(&self.read("cpu.stat")?)
            },
            cpuset: Cpuset {
                cpus: list(&self.counters("cpuset.cpus.effective")?),
                mems: list(&self.counters("cpuset.mems.effective")?),
                ..Cpuset::default()
            },
            memory: self.memory()?,
            pids: self.pids()?,
            blkio: Blkio {
                psi: self.pressure("io.pressure")?,
                ..Blkio::parse(&self.counters("io.stat")?)
            },
            hugetlb: self.hugetlb()?,
        })
    }

    /// The text of a file; nothing if the group does not have it.
    fn counters(&self, file: &str) -> Result<String> {
        match files::read(&self.dir, file) {
            // The second: pressure is not counted on this kernel (psi=0).
            Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(String::new()),
            text => text.context(|| format!("read {file} of cgroup '/{}'", self.path)),
        }
    }

    fn pressure(&self, file: &str) -> Result<Option<Pressure>> {
        let text = self.counters(file)?;
        Ok((!text.is_empty()).then(|| Pressure::parse(&text)))
    }

    fn memory(&self) -> Result<Memory> {
        let raw = pairs(&self.counters("memory.stat")?);
        let usage = self.memory_use("memory")?;
        let swap = self.memory_use("memory.swap")?;
        Ok(Memory {
            cache: raw.get("file").copied().unwrap_or_default(),
            swap: MemoryUse {
                limit: match swap.limit {
                    u64::MAX => u64::MAX,
                    limit => limit.saturating_add(usage.limit),
                },
                usage: swap.usage + usage.usage,
                // The two peaks need not have been at the same time.
                max: 0,
                failcnt: 0,
            },
            usage,
            raw,
            psi: self.pressure("memory.pressure")?,
            ..Memory::default()
        })
    }

    fn memory_use(&self, prefix: &str) -> Result<MemoryUse> {
        let one = |file| {
            self.counters(&format!("{prefix}.{file}"))
                .map(|text| amount(&text))
        };
        Ok(MemoryUse {
            limit: one("max")?,
            usage: one("current")?,
            max: one("peak")?,
            failcnt: 0,
        })
    }

    fn pids(&self) -> Result<Pids> {
        let current = self.counters("pids.current")?;
        if current.is_empty() {
            // Without the controller nothing is counted, so the processes are.
            let current = match files::read(&self.dir, "cgroup.procs") {
                Err(Errno::EOPNOTSUPP) => self.read("cgroup.threads")?,
                text => text.context(|| format!("read cgroup.procs of cgroup '/{}'", self.path))?,
            };
            return Ok(Pids {
                current: current.lines().count() as u64,
                limit: 0,
            });
        }
        let limit = amount(&self.counters("pids.max")?);
        Ok(Pids {
            current: amount(&current),
            limit: if limit == u64::MAX { 0 } else { limit },
        })
    }

    /// The sizes of pages are those that the group has files for.
    fn hugetlb(&self) -> Result<BTreeMap<String, Hugetlb>> {
        let story = || format!("list cgroup '/{}'", self.path);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.dir, ".", flags, Mode::empty()).context(story)?;
        let mut sizes = BTreeMap::new();
        for entry in dir.iter() {
            let entry = entry.context(story)?;
            let name = entry.file_name().to_string_lossy();
            let size = name
                .strip_prefix("hugetlb.")
                .and_then(|name| name.strip_suffix(".current"))
                .filter(|size| !size.contains('.'));
            if let Some(size) = size {
                let events = self.counters(&format!("hugetlb.{size}.events"))?;
                let hugetlb = Hugetlb {
                    usage: amount(&self.counters(&name)?),
                    failcnt: files::number(&events, "max").unwrap_or_default(),
                };
                sizes.insert(size.to_owned(), hugetlb);
            }
        }
        Ok(sizes)
    }
}

impl Cpu {
    fn parse(text: &str) -> Cpu {
        let number = |key| files::number(text, key).unwrap_or_default();
        let nanoseconds = |key| number(key).saturating_mul(1000);
        Cpu {
            usage: CpuUsage {
                total: nanoseconds("usage_usec"),
                kernel: nanoseconds("system_usec"),
                user: nanoseconds("user_usec"),
            },
            throttling: Throttling {
                periods: number("nr_periods"),
                throttled_periods: number("nr_throttled"),
                throttled_time: nanoseconds("throttled_usec"),
            },
            psi: None,
        }
    }
}

impl Blkio {
    /// Lines of `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...`.
    fn parse(text: &str) -> Blkio {
        let mut blkio = Blkio::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let device = words.next().and_then(|word| word.split_once(':'));
            let Some((Ok(major), Ok(minor))) =
                device.map(|(major, minor)| (major.parse(), minor.parse()))
            else {
                continue;
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let (list, op) = match key {
                    "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                    "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                    "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                    "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                    _ => continue,
                };
                let value = value.parse().unwrap_or_default();
                list.push(Transfers {
                    major,
                    minor,
                    op,
                    value,
                });
            }
        }
        blkio
    }
}

impl Pressure {
    /// Lines of `some avg10=N avg60=N avg300=N total=N`; `full` is missing for the CPU on old kernels.
    fn parse(text: &str) -> Pressure {
        let stalls = |name: &str| {
            let words = || {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().split(' ')
            };
            let value = |key: &str| words().find_map(|word| word.strip_prefix(key));
            let average = |key| value(key).and_then(|n| n.parse().ok()).unwrap_or_default();
            Stalls {
                avg10: average("avg10="),
                avg60: average("avg60="),
                avg300: average("avg300="),
                total: value("total=")
                    .and_then(|n| n.parse().ok())
                    .unwrap_or_default(),
            }
        };
        Pressure {
            some: stalls("some "),
            full: stalls("full "),
        }
    }
}

/// A file of one number, or of the word for the largest one.
fn amount(text: &str) -> u64 {
    match text.trim_end() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or_default(),
    }
}

fn pairs(text: &str) -> BTreeMap<String, u64> {
    let mut pairs = BTreeMap::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Ok(value) = value.parse() {
            pairs.insert(key.to_owned(), value);
        }
    }
    pairs
}

/// `0-2,5` as its numbers.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let parts = text.trim_end().split(',').filter_map(range);
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cpu_times_are_nanoseconds() {
        let text = "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n";
        assert_eq!(
            serde_json::to_value(Cpu::parse(text)).unwrap(),
            json!({"usage":{"total":3_000_000,"kernel":1_000_000,"user":2_000_000},
                "throttling":{"periods":5,"throttledPeriods":2,"throttledTime":7000}})
        );
        assert_eq!(
            serde_json::to_value(Cpu::parse("")).unwrap(),
            json!({"usage":{"kernel":0,"user":0},"throttling":{}})
        );
    }

    #[test]
    fn transfers_are_listed_by_device_and_direction() {
        let text = "8:16 rbytes=10 wbytes=0 rios=1 wios=0 dbytes=4 dios=1\n254:0 \n";
        assert_eq!(
            serde_json::to_value(Blkio::parse(text)).unwrap(),
            json!({"ioServiceBytesRecursive":[{"major":8,"minor":16,"op":"Read","value":10},{"major":8,"minor":16,"op":"Write"}],
                "ioServicedRecursive":[{"major":8,"minor":16,"op":"Read","value":1},{"major":8,"minor":16,"op":"Write"}]})
        );
        assert_eq!(serde_json::to_value(Blkio::parse("")).unwrap(), json!({}));
    }

    #[test]
    fn pressure_has_two_halves_in_any_case() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let pressure = Pressure::parse(text);
        assert_eq!(
            (
                pressure.some.avg10,
                pressure.some.avg300,
                pressure.some.total
            ),
            (1.5, 0.25, 77)
        );
        assert_eq!(pressure.full.total, 5);
        let some = Pressure::parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
        assert_eq!(some.full, Stalls::default());
    }

    #[test]
    fn sets_are_listed_one_by_one() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("\n"), [] as [u16; 0]);
    }
}
